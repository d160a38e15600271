import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { AuditLog, Connections } from '../capability.ts';
import type { ClusterConnection, KubeObject, LiveCollection, ResourceType } from '../kube/cluster-connection.ts';
import type { SshConnector } from '../ssh/ssh-connector.ts';

/** One request that the fake was asked to serve. */
export interface FakeRequest {
  readonly verb: 'get' | 'list' | 'apply' | 'create' | 'replace' | 'patch' | 'remove' | 'raw';
  readonly kind: string;
  readonly name: string;
  readonly dryRun: boolean;
}

function notFound(kind: string, name: string): Failure {
  return { code: 'kube.not-found', what: `Reading ${kind} ${name} found nothing.`, why: 'not there', fix: 'none' };
}

/** A small API server in memory: objects by kind, versions, watches, dry runs. Selectors match labels exactly. */
export class FakeCluster implements ClusterConnection {
  readonly cluster = 'fake';
  readonly contextName = 'fake';
  readonly #end = new AbortController();
  readonly signal = this.#end.signal;
  readonly requests: FakeRequest[] = [];
  /** Open watches: a test sees that none is left. */
  watches = 0;
  /** Answers to exec, by the first word of the command. */
  exec: ClusterConnection['exec'] = async () => failed(notFound('pod', 'exec'));
  stream: ClusterConnection['stream'] = async (path) => failed(notFound('stream', path));
  portForward: ClusterConnection['portForward'] = async () => failed(notFound('pod', 'port-forward'));
  readonly #kinds = new Map<string, Map<string, KubeObject>>();
  readonly #listeners = new Map<string, Set<() => void>>();
  #version = 100;

  #of(type: Pick<ResourceType, 'plural'>): Map<string, KubeObject> {
    const found = this.#kinds.get(type.plural) ?? new Map<string, KubeObject>();
    this.#kinds.set(type.plural, found);
    return found;
  }

  static key(name: string, namespace?: string): string {
    return namespace ? `${namespace}/${name}` : name;
  }

  #note(verb: FakeRequest['verb'], kind: string, name: string, dryRun = false): void {
    this.requests.push({ verb, kind, name, dryRun });
  }

  #changed(type: Pick<ResourceType, 'plural'>): void {
    for (const listener of [...(this.#listeners.get(type.plural) ?? [])]) listener();
  }

  #store(type: ResourceType, object: KubeObject, dryRun = false): KubeObject {
    this.#version += 1;
    const stored = {
      ...object,
      metadata: {
        creationTimestamp: '2026-01-01T00:00:00Z',
        uid: `uid-${this.#version}`,
        ...object.metadata,
        resourceVersion: String(this.#version),
      },
    } as KubeObject;
    if (dryRun) return stored;
    this.#of(type).set(
      FakeCluster.key(object.metadata.name, type.namespaced ? object.metadata.namespace : undefined),
      stored,
    );
    this.#changed(type);
    return stored;
  }

  /** Puts an object there, as if somebody else had. */
  put(type: ResourceType, object: object): void {
    this.#store(type, object as KubeObject);
  }

  /** Takes an object away. */
  drop(type: ResourceType, name: string, namespace?: string): void {
    this.#of(type).delete(FakeCluster.key(name, namespace));
    this.#changed(type);
  }

  /** All objects of a kind. */
  all(type: ResourceType): readonly KubeObject[] {
    return [...this.#of(type).values()];
  }

  disconnect(): void {
    this.#end.abort();
  }

  async get<T extends KubeObject>(type: ResourceType, name: string, namespace?: string): Promise<Result<T>> {
    this.#note('get', type.kind, name);
    const found = this.#of(type).get(FakeCluster.key(name, type.namespaced ? namespace : undefined));
    return found ? ok(found as T) : failed(notFound(type.kind, name));
  }

  async list<T extends KubeObject>(
    type: ResourceType,
    options: { readonly namespace?: string; readonly labelSelector?: string } = {},
  ): Promise<Result<readonly T[]>> {
    this.#note('list', type.kind, '');
    return ok([...this.#select(type, options).values()] as unknown as readonly T[]);
  }

  #select(
    type: ResourceType,
    {
      namespace,
      labelSelector,
    }: { readonly namespace?: string | undefined; readonly labelSelector?: string | undefined },
  ): Map<string, KubeObject> {
    const [key, value] = (labelSelector ?? '').split('=');
    return new Map(
      [...this.#of(type)].filter(
        ([, object]) =>
          (namespace === undefined || object.metadata.namespace === namespace) &&
          (!key || object.metadata.labels?.[key] === value),
      ),
    );
  }

  async apply<T extends KubeObject>(
    type: ResourceType,
    object: KubeObject,
    options: { readonly dryRun?: boolean } = {},
  ): Promise<Result<T>> {
    const { name, namespace } = object.metadata;
    this.#note('apply', type.kind, name, options.dryRun);
    const there = this.#of(type).get(FakeCluster.key(name, type.namespaced ? namespace : undefined));
    // What the object does not speak of stays, as server-side apply has it for fields of others.
    const metadata = { ...there?.metadata, ...object.metadata };
    return ok(this.#store(type, { ...there, ...object, metadata } as KubeObject, options.dryRun) as T);
  }

  async create<T extends KubeObject>(
    type: ResourceType,
    object: KubeObject,
    options: { readonly dryRun?: boolean } = {},
  ): Promise<Result<T>> {
    this.#note('create', type.kind, object.metadata.name, options.dryRun);
    if (type.kind === 'SelfSubjectRulesReview' || type.kind === 'SelfSubjectReview')
      return this.onReview(type.kind, object) as Result<T>;
    if (type.kind === 'SelfSubjectAccessReview')
      return ok({ ...object, status: { allowed: this.allowed(object) } } as unknown as T);
    return ok(this.#store(type, object, options.dryRun) as T);
  }

  /** Answers to "what may I?" and "who am I?". */
  onReview: (kind: string, review: KubeObject) => Result<KubeObject> = (kind) => failed(notFound(kind, ''));

  /** Answer to "may I?". */
  allowed: (review: object) => boolean = () => true;

  async replace<T extends KubeObject>(
    type: ResourceType,
    object: KubeObject,
    options: { readonly dryRun?: boolean } = {},
  ): Promise<Result<T>> {
    this.#note('replace', type.kind, object.metadata.name, options.dryRun);
    const { name, namespace } = object.metadata;
    const there = this.#of(type).get(FakeCluster.key(name, type.namespaced ? namespace : undefined));
    if (!there) return failed(notFound(type.kind, name));
    if (object.metadata.resourceVersion !== there.metadata.resourceVersion)
      return failed({
        code: 'kube.conflict',
        what: 'conflict',
        why: 'the object has been modified',
        fix: 'read again',
      });
    return ok(this.#store(type, object, options.dryRun) as T);
  }

  /** What a patch of a subresource does here; told by the test that needs it. */
  onPatch: (object: KubeObject, subresource: string, part: object) => Result<KubeObject> = (object) => ok(object);

  async patch<T extends KubeObject>(
    type: ResourceType,
    name: string,
    namespace: string,
    subresource: string,
    part: object,
  ): Promise<Result<T>> {
    this.#note('patch', type.kind, name);
    const there = this.#of(type).get(FakeCluster.key(name, type.namespaced ? namespace : undefined));
    if (!there) return failed(notFound(type.kind, name));
    const patched = this.onPatch(there, subresource, part);
    return patched.ok ? ok(this.#store(type, patched.value) as T) : patched;
  }

  async remove(type: ResourceType, name: string, namespace?: string): Promise<Result<void>> {
    this.#note('remove', type.kind, name);
    const key = FakeCluster.key(name, type.namespaced ? namespace : undefined);
    if (!this.#of(type).delete(key)) return failed(notFound(type.kind, name));
    this.#changed(type);
    return ok(undefined);
  }

  /** Answers of raw GETs by path. */
  readonly rawAnswers = new Map<string, unknown>();

  async raw(path: string): Promise<Result<unknown>> {
    this.#note('raw', path, '');
    return this.rawAnswers.has(path) ? ok(this.rawAnswers.get(path)) : failed(notFound(path, ''));
  }

  watch<T extends KubeObject>(
    type: ResourceType,
    options: { readonly namespace?: string; readonly labelSelector?: string } = {},
  ): LiveCollection<T> & Disposable {
    const listeners = this.#listeners.get(type.plural) ?? new Set<() => void>();
    this.#listeners.set(type.plural, listeners);
    const mine = new Set<() => void>();
    this.watches += 1;
    let held = true;
    return {
      items: () => this.#select(type, options) as unknown as ReadonlyMap<string, T>,
      synced: () => true,
      failure: () => undefined,
      ready: async () => ok(undefined),
      onChange(listener) {
        const own = () => listener();
        listeners.add(own);
        mine.add(own);
        return { [Symbol.dispose]: () => void listeners.delete(own) };
      },
      [Symbol.dispose]: () => {
        if (!held) return;
        held = false;
        this.watches -= 1;
        for (const own of mine) listeners.delete(own);
      },
    };
  }

  /** How many listen to changes. */
  get listening(): number {
    return [...this.#listeners.values()].reduce((sum, set) => sum + set.size, 0);
  }

  /** Requests that change something. */
  writes(): readonly FakeRequest[] {
    return this.requests.filter(
      ({ verb, kind, dryRun }) =>
        !dryRun &&
        ['apply', 'create', 'replace', 'patch', 'remove'].includes(verb) &&
        kind !== 'SelfSubjectAccessReview',
    );
  }
}

/** SSH that reaches nothing, unless it is told hosts; connecting fails. */
export function fakeSsh(hosts: readonly string[] = []): SshConnector {
  return {
    behind: () => fakeSsh(hosts),
    hosts: async () => ok(hosts),
    aliasFor: async ({ name }) => (hosts.includes(name) ? name : undefined),
    connect: async (alias) =>
      failed({ code: 'ssh.unreachable', what: `${alias} cannot be reached.`, why: 'It is a fake.', fix: 'none' }),
  };
}

/** Connections that hold one cluster. */
export function fakeConnections(
  cluster: FakeCluster,
  options: { readonly ssh?: SshConnector; readonly protected?: boolean } = {},
): Connections {
  return {
    get: async (id) => (id === cluster.cluster ? ok(cluster) : failed(notFound('cluster', id))),
    writable: () =>
      options.protected
        ? failed({ code: 'cluster.protected', what: 'It is protected.', why: 'Somebody said so.', fix: 'Unlock it.' })
        : ok(undefined),
    ssh: () => options.ssh ?? fakeSsh(),
    isRecording: () => false,
  };
}

/** An audit log that can be looked at. */
export function fakeAudit(): AuditLog & { readonly entries: { action: string; subject: string; result: string }[] } {
  const entries: { action: string; subject: string; result: string }[] = [];
  return { entries, record: ({ action, subject, result }) => void entries.push({ action, subject, result }) };
}

/** A repeatable source of random numbers in [0, 1) (mulberry32). */
export function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** One of these. */
export function pick<T>(next: () => number, values: readonly T[]): T {
  return values[Math.floor(next() * values.length)] as T;
}
