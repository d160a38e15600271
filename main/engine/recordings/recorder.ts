import { existsSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import type { Failure } from '../../../contract/failure.ts';
import type { CallContext, Implementation, Sink } from '../../../contract/implementation.ts';
import type { Flow, FlowHealth, Inventory, PolicyId, PolicySummary, Topology } from '../../../contract/index.ts';
import type { CaseStream } from './case-file.ts';
import { CaseWriter } from './case-file.ts';

const scopes = ['namespace', 'workload', 'pod'] as const;
const flushInterval = 1000;
/** Pictures are whole each time; more often than this they would only make the file large. */
const pictureInterval = 2000;
const recordedWindow = 30;

function refuse(code: string, what: string, why: string, fix: string): Failure {
  return { code: `recording.${code}`, what, why, fix };
}

interface RecordRequest {
  readonly cluster: string;
  readonly title: string;
  readonly path: string;
}

/** Compares without the fields that change with every look. */
function fingerprint(value: object, ...volatile: readonly string[]): string {
  return JSON.stringify(value, (key, part: unknown) => (volatile.includes(key) ? undefined : part));
}

/**
 * Records a connected cluster by listening to the engine's own streams, as a renderer would, until cancelled. Ends with
 * a failure when one of them fails at once.
 */
export async function record(
  live: Implementation,
  { cluster, title, path }: RecordRequest,
  sink: Sink<{ flows: number; bytes: number }>,
  context: CallContext,
): Promise<Failure | undefined> {
  if (!isAbsolute(path) || !path.endsWith('.fairlead'))
    return refuse(
      'path',
      'The recording was not begun.',
      `“${path}” is not a full path that ends in .fairlead.`,
      'Give such a path.',
    );
  if (existsSync(path))
    return refuse(
      'exists',
      'The recording was not begun.',
      'There is a file of this name, and it is not overwritten.',
      'Choose another name.',
    );
  const startedAt = Date.now();
  let writer: CaseWriter;
  try {
    writer = new CaseWriter(path, { title, startedAt, serverVersion: '' });
  } catch (error) {
    return refuse(
      'write',
      'The file cannot be written.',
      error instanceof Error ? error.message : String(error),
      'Choose another place.',
    );
  }
  using _writer = writer;
  const stop = new AbortController();
  const signal = AbortSignal.any([context.signal, stop.signal]);
  const own: CallContext = { signal, connection: `${context.connection} recording` };
  const put = (stream: CaseStream, body: unknown) => writer.add({ stream, at: Date.now() - startedAt, body });
  let flows = 0;

  /** Passes on only what differs from the last, and not more often than `interval`. */
  const changes = <T extends object>(stream: CaseStream, interval: number, ...volatile: readonly string[]): Sink<T> => {
    let last = '';
    let lastAt = 0;
    return {
      async push(items) {
        const newest = items.at(-1);
        if (!newest || Date.now() - lastAt < interval) return;
        const text = fingerprint(newest, ...volatile);
        if (text === last) return;
        last = text;
        lastAt = Date.now();
        put(stream, newest);
      },
    };
  };

  const known = new Map<string, string>();
  const readPolicies = async (policies: readonly PolicySummary[]) => {
    for (const { id } of policies) {
      const read = await live.policies.read({ cluster, id }, own);
      const key = JSON.stringify(id);
      if (!read.ok || known.get(key) === read.value.resourceVersion) continue;
      known.set(key, read.value.resourceVersion);
      put('policy', { id, ...read.value } satisfies RecordedPolicy);
    }
  };

  const streams: readonly Promise<Failure | undefined>[] = [
    live.clusters.inventory(
      { cluster },
      changes<Inventory>('inventory', 1000, 'at', 'memoryBytes', 'flowsPerSecond'),
      own,
    ),
    live.flows.watch(
      { cluster, allow: [], deny: [], last: 200, follow: true },
      {
        async push(items) {
          const batch: Flow[] = [];
          for (const item of items) {
            if (item.kind === 'flow') batch.push(item.flow as Flow);
            else put('health', item.health satisfies FlowHealth);
          }
          flows += batch.length;
          if (batch.length > 0) put('flows', batch);
        },
      },
      own,
    ),
    ...scopes.map((scope) =>
      live.topology.watch(
        { cluster, scope, namespaces: [], windowSeconds: recordedWindow },
        changes<Topology>(`topology:${scope}`, pictureInterval, 'at'),
        own,
      ),
    ),
    live.policies.watch(
      { cluster },
      {
        async push(items) {
          const newest = items.at(-1);
          if (!newest) return;
          put('policies', newest);
          await readPolicies(newest.policies as readonly PolicySummary[]);
        },
      },
      own,
    ),
  ];
  let failure: Failure | undefined;
  for (const stream of streams)
    stream.then(
      (ended) => {
        failure ??= ended;
        if (ended) stop.abort();
      },
      (error: unknown) => {
        if (!signal.aborted) failure ??= refuse('broke', 'The recording broke off.', String(error), 'Begin it again.');
        stop.abort();
      },
    );
  try {
    while (!signal.aborted) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, flushInterval);
        const wake = () => {
          clearTimeout(timer);
          resolve();
        };
        signal.addEventListener('abort', wake, { once: true });
      });
      writer.flush();
      if (!signal.aborted) await sink.push([{ flows, bytes: writer.bytes }]);
    }
  } finally {
    stop.abort();
    await Promise.allSettled(streams);
  }
  return failure;
}

/** A policy's text as it was read. */
export interface RecordedPolicy {
  readonly id: PolicyId;
  readonly text: string;
  readonly resourceVersion: string;
}
