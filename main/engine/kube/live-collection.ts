import type { IncomingMessage } from 'node:http';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { KubeObject, LiveCollection } from './cluster-connection.ts';

/** What the list+watch loop needs from a connection. */
export interface CollectionSource {
  /** All pages of the collection and the version they are of. */
  readonly list: (
    signal: AbortSignal,
  ) => Promise<{ readonly items: readonly KubeObject[]; readonly resourceVersion: string }>;
  /** An open watch from a version on: JSON lines. */
  readonly watch: (resourceVersion: string, signal: AbortSignal) => Promise<IncomingMessage>;
  readonly failure: (error: unknown) => Failure;
  /** The collection as `ns/name` or `name` keys. */
  readonly log: (text: string) => void;
}

export interface Timing {
  /** First and longest wait after a failure, in milliseconds. */
  readonly backoff: readonly [number, number];
  /** Longest wait where what is missing may be installed any moment. */
  readonly missing: number;
  /** A watch that says nothing for this long is opened anew; the server sends a bookmark about once a minute. */
  readonly silence: number;
}

export const defaultTiming: Timing = { backoff: [250, 30_000], missing: 3_000, silence: 150_000 };

interface WatchEvent {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK' | 'ERROR';
  readonly object: KubeObject & { readonly code?: number; readonly message?: string };
}

/** Key of an object in a collection. */
export function keyOf(object: KubeObject): string {
  return object.metadata.namespace ? `${object.metadata.namespace}/${object.metadata.name}` : object.metadata.name;
}

/** Drops what nobody here reads and what makes up half of many objects. */
export function lean<T extends KubeObject>(object: T): T {
  const metadata = object.metadata as { managedFields?: unknown } | undefined;
  if (metadata?.managedFields !== undefined) delete metadata.managedFields;
  return object;
}

/** Splits a body into lines; a line may be as long as an object is. */
async function* linesOf(response: IncomingMessage): AsyncGenerator<string> {
  let rest = '';
  response.setEncoding('utf8');
  for await (const chunk of response as AsyncIterable<string>) {
    rest += chunk;
    let start = 0;
    for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n', start)) {
      if (end > start) yield rest.slice(start, end);
      start = end + 1;
    }
    if (start > 0) rest = rest.slice(start);
  }
}

class Expired extends Error {}

/**
 * Keeps a collection in memory: list, then watch from there on. A watch that ends is taken up where it was; an expired
 * version means listing again; failures are shown in `failure()` and tried again with growing, jittered waits, while
 * what was known stays. Listeners hear of changes once per turn of the event loop.
 */
export class Collection implements LiveCollection<KubeObject> {
  #live = new Map<string, KubeObject>();
  #snapshot: ReadonlyMap<string, KubeObject> | undefined;
  #synced = false;
  #failure: Failure | undefined;
  #listeners = new Set<() => void>();
  #notifying = false;
  #ready = Promise.withResolvers<Result<void>>();
  #abort = new AbortController();
  readonly #source: CollectionSource;
  readonly #timing: Timing;

  constructor(source: CollectionSource, signal: AbortSignal, timing: Timing = defaultTiming) {
    this.#source = source;
    this.#timing = timing;
    signal.addEventListener('abort', this.close, { once: true, signal: this.#abort.signal });
    if (signal.aborted) this.close();
    else void this.#run(this.#abort.signal);
  }

  items(): ReadonlyMap<string, KubeObject> {
    this.#snapshot ??= new Map(this.#live);
    return this.#snapshot;
  }
  synced(): boolean {
    return this.#synced;
  }
  failure(): Failure | undefined {
    return this.#failure;
  }
  ready(): Promise<Result<void>> {
    if (this.#synced) return Promise.resolve(ok(undefined));
    if (this.#failure) return Promise.resolve(failed(this.#failure));
    return this.#ready.promise;
  }
  onChange(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) };
  }
  readonly close = (): void => {
    this.#abort.abort();
    this.#listeners.clear();
    this.#ready.resolve(failed(this.#failure ?? this.#source.failure(new DOMException('closed', 'AbortError'))));
  };

  #changed(): void {
    this.#snapshot = undefined;
    if (this.#notifying) return;
    this.#notifying = true;
    setImmediate(() => {
      this.#notifying = false;
      for (const listener of [...this.#listeners]) listener();
    });
  }

  async #run(signal: AbortSignal): Promise<void> {
    const { backoff, missing } = this.#timing;
    let wait = backoff[0];
    let version: string | undefined;
    while (!signal.aborted) {
      try {
        if (version === undefined) {
          const { items, resourceVersion } = await this.#source.list(signal);
          this.#replace(items);
          version = resourceVersion;
          wait = backoff[0];
        }
        for await (const next of this.#watch(version, signal)) {
          version = next;
          wait = backoff[0];
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Expired) {
          this.#source.log('the version has expired: listing again');
          version = undefined;
          continue;
        }
        const failure = this.#source.failure(error);
        if (failure.code === 'kube.expired') version = undefined;
        if (failure.code === 'kube.not-found') {
          // The kind is not, or no longer, installed.
          version = undefined;
          if (this.#live.size > 0) this.#replace([]);
          this.#synced = false;
        }
        if (this.#failure?.code !== failure.code) this.#source.log(`${failure.code}: ${failure.why}`);
        this.#failure = failure;
        this.#ready.resolve(failed(failure));
        this.#changed();
        const longest = failure.code === 'kube.not-found' ? missing : backoff[1];
        const pause = Math.min(wait, longest) * (0.75 + Math.random() / 2);
        wait = Math.min(wait * 2, longest);
        await new Promise<void>((resolve) => {
          const timer = setTimeout(done, pause);
          signal.addEventListener('abort', done, { once: true });
          function done() {
            clearTimeout(timer);
            signal.removeEventListener('abort', done);
            resolve();
          }
        });
      }
    }
  }

  #replace(items: readonly KubeObject[]): void {
    const next = new Map<string, KubeObject>();
    for (const item of items) {
      const key = keyOf(item);
      const known = this.#live.get(key);
      // The same version keeps its identity, so that whoever memoizes by object sees no change.
      next.set(key, known && known.metadata.resourceVersion === item.metadata.resourceVersion ? known : lean(item));
    }
    this.#live = next;
    this.#synced = true;
    this.#failure = undefined;
    this.#ready.resolve(ok(undefined));
    this.#changed();
  }

  /** Applies events of one watch; yields the version reached. Ends when the server ends it. */
  async *#watch(from: string, signal: AbortSignal): AsyncGenerator<string> {
    const ended = new AbortController();
    const abort = () => ended.abort();
    signal.addEventListener('abort', abort, { once: true });
    let silence = setTimeout(abort, this.#timing.silence);
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(abort, this.#timing.silence);
    };
    try {
      const response = await this.#source.watch(from, ended.signal);
      if (this.#failure) {
        this.#failure = undefined;
        this.#changed();
      }
      for await (const line of linesOf(response)) {
        alive();
        const event = JSON.parse(line) as WatchEvent;
        if (event.type === 'ERROR') {
          if (event.object.code === 410) throw new Expired();
          throw new Error(event.object.message ?? 'the watch reported an error');
        }
        const key = keyOf(event.object);
        if (event.type === 'DELETED') this.#live.delete(key);
        else if (event.type !== 'BOOKMARK') this.#live.set(key, lean(event.object));
        if (event.type !== 'BOOKMARK') this.#changed();
        if (event.object.metadata.resourceVersion) yield event.object.metadata.resourceVersion;
      }
    } catch (error) {
      // Silence: not a failure of the server as long as opening anew works.
      if (ended.signal.aborted && !signal.aborted) return;
      throw error;
    } finally {
      clearTimeout(silence);
      signal.removeEventListener('abort', abort);
      ended.abort();
    }
  }
}
