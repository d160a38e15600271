import type { Duplex } from 'node:stream';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { Connections } from '../capability.ts';
import { serverNameOf } from '../install/certificates.ts';
import { agentNamespace, agentPort, agentSelector, clientSecret, clusterNameAnnotation } from '../install/names.ts';
import { readPair } from '../install/secrets.ts';
import { type ClusterConnection, type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { Log } from '../log.ts';
import type { AgentTls } from './agent-client.ts';
import { type AgentConnection, connectAgent } from './agent-connection.ts';
import { type AgentStatuses, createStatuses } from './statuses.ts';

export type { AgentStatuses } from './statuses.ts';

/** How far the console has come with one node's agent. */
export interface AgentLink {
  readonly node: string;
  readonly pod: string;
  readonly state: 'idle' | 'connecting' | 'ready' | 'unreachable';
  /** Why it is not ready. */
  readonly failure?: Failure;
  /** Why its pod is not Ready, in the kubelet's words; "" when it is. */
  readonly podProblem: string;
  /** Restarts of the pod's container. */
  readonly restarts: number;
  /** Connects if need be; after a failure the next attempt waits for the backoff (0.25 s to 15 s). */
  readonly client: () => Promise<Result<AgentConnection>>;
}

/** The agents of one cluster, held while somebody uses them. */
export interface ClusterAgents extends Disposable {
  readonly links: () => readonly AgentLink[];
  readonly onChange: (listener: () => void) => Disposable;
  /** Resolves once the agent pods have been listed, or could not be. */
  readonly ready: () => Promise<Result<void>>;
  /** Aborted when the cluster is disconnected. */
  readonly signal: AbortSignal;
}

export interface Agents {
  readonly statuses: AgentStatuses;
  /** The agents of a connected cluster; dispose to let go. */
  readonly open: (cluster: string) => Promise<Result<ClusterAgents>>;
  readonly close: () => void;
}

export interface AgentsOptions {
  readonly connections: Connections;
  readonly log: Log;
  /** How an agent is reached; through the API server's port-forward unless told. */
  readonly dial?: Dial;
}

/** Opens a byte stream to the agent's port. */
export type Dial = (connection: ClusterConnection, pod: string) => Promise<Result<Duplex>>;

interface Pod extends KubeObject {
  readonly spec?: { readonly nodeName?: string };
  readonly status?: {
    readonly phase?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string; readonly message?: string }[];
    readonly containerStatuses?: readonly {
      readonly restartCount?: number;
      readonly state?: { readonly waiting?: { readonly reason?: string; readonly message?: string } };
    }[];
  };
}

const firstBackoff = 250;
const longestBackoff = 15_000;
/** Views come and go: the connections outlive the last one by a little. */
const linger = 5000;

/** Reads the console's client certificate out of the cluster. */
async function readCredentials(connection: ClusterConnection, node: string): Promise<Result<AgentTls>> {
  const secret = await connection.get<KubeObject>(resources.secrets, clientSecret, agentNamespace);
  if (!secret.ok)
    return failed({
      ...secret.failure,
      what: 'The certificate for talking to the agents cannot be read.',
      fix: `Reading Secret ${agentNamespace}/${clientSecret} must be allowed for this user; if it is missing, plan and apply the installation again.`,
    });
  const { certificate, key, authority } = readPair(secret.value);
  const clusterName = secret.value.metadata.annotations?.[clusterNameAnnotation] ?? 'default';
  return ok({ ca: authority, cert: certificate, key, serverName: serverNameOf(node, clusterName) });
}

function podProblem(pod: Pod): string {
  const waiting = pod.status?.containerStatuses?.[0]?.state?.waiting;
  if (waiting?.reason) return [waiting.reason, waiting.message].filter(Boolean).join(': ');
  const ready = pod.status?.conditions?.find((one) => one.type === 'Ready');
  if (ready?.status === 'True') return '';
  return ready?.message ?? pod.status?.phase ?? 'not started';
}

/** One node's agent: at most one connection, shared by all who ask. */
class Link implements AgentLink {
  readonly node: string;
  state: AgentLink['state'] = 'idle';
  failure?: Failure;
  #pod: Pod;
  #client: AgentConnection | undefined;
  #attempt: Promise<Result<AgentConnection>> | undefined;
  #backoff = 0;
  readonly #connection: ClusterConnection;
  readonly #dial: Dial;
  readonly #changed: () => void;
  readonly #end = new AbortController();

  constructor(node: string, pod: Pod, connection: ClusterConnection, dial: Dial, changed: () => void) {
    this.node = node;
    this.#pod = pod;
    this.#connection = connection;
    this.#dial = dial;
    this.#changed = changed;
  }

  get pod(): string {
    return this.#pod.metadata.name;
  }

  get podProblem(): string {
    return podProblem(this.#pod);
  }

  get restarts(): number {
    return this.#pod.status?.containerStatuses?.[0]?.restartCount ?? 0;
  }

  /** Takes the newest state of the pod; a pod that has become Ready is tried at once. */
  update(pod: Pod): void {
    if (podProblem(this.#pod) !== '' && podProblem(pod) === '') this.#backoff = 0;
    this.#pod = pod;
  }

  readonly client = (): Promise<Result<AgentConnection>> => {
    if (this.#client && !this.#client.closed.aborted) return Promise.resolve(ok(this.#client));
    this.#attempt ??= this.#connect().finally(() => {
      this.#attempt = undefined;
    });
    return this.#attempt;
  };

  async #connect(): Promise<Result<AgentConnection>> {
    const { signal } = this.#end;
    if (this.#backoff > 0) await pause(this.#backoff, signal);
    if (signal.aborted) return failed(closedFailure(this.node));
    this.#move('connecting');
    const result = await this.#open(signal);
    if (signal.aborted && result.ok) result.value.close();
    if (signal.aborted) return failed(closedFailure(this.node));
    if (!result.ok) {
      this.#backoff = Math.min(longestBackoff, Math.max(firstBackoff, this.#backoff * 2));
      this.#move('unreachable', result.failure);
      return result;
    }
    this.#backoff = firstBackoff;
    const client = result.value;
    this.#client = client;
    this.#move('ready');
    client.closed.addEventListener(
      'abort',
      () => {
        if (this.#client !== client) return;
        this.#client = undefined;
        this.#move('unreachable', lostFailure(this.node));
      },
      { once: true },
    );
    return result;
  }

  async #open(signal: AbortSignal): Promise<Result<AgentConnection>> {
    const credentials = await readCredentials(this.#connection, this.node);
    if (!credentials.ok) return credentials;
    const dialled = await this.#dial(this.#connection, this.pod);
    if (!dialled.ok) return dialled;
    return connectAgent(this.node, dialled.value, credentials.value, signal);
  }

  #move(state: AgentLink['state'], failure?: Failure): void {
    this.state = state;
    if (failure) this.failure = failure;
    else delete this.failure;
    if (!this.#end.signal.aborted) this.#changed();
  }

  close(): void {
    this.#end.abort();
    this.#client?.close();
    this.#client = undefined;
  }
}

function lostFailure(node: string): Failure {
  return {
    code: 'agent.lost',
    what: `The connection to the agent on ${node} ended.`,
    why: 'The agent restarted, or the way to it broke.',
    fix: 'It is connected again by itself.',
  };
}

function closedFailure(node: string): Failure {
  return {
    code: 'agent.closed',
    what: `The agent on ${node} is not asked any more.`,
    why: 'Its pod went away, or the cluster was disconnected.',
    fix: 'Connect the cluster again.',
  };
}

/** Waits; wakes early when aborted. */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const finish = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', finish);
      resolve();
    };
    const timer = setTimeout(finish, milliseconds);
    signal.addEventListener('abort', finish, { once: true });
    if (signal.aborted) finish();
  });
}

/** All agents of one cluster. */
class ClusterPool {
  readonly #links = new Map<string, Link>();
  readonly #listeners = new Set<() => void>();
  readonly #pods;
  readonly #subscription: Disposable;
  readonly #connection: ClusterConnection;
  readonly #dial: Dial;

  constructor(connection: ClusterConnection, dial: Dial) {
    this.#connection = connection;
    this.#dial = dial;
    this.#pods = connection.watch<Pod>(resources.pods, { namespace: agentNamespace, labelSelector: agentSelector });
    this.#subscription = this.#pods.onChange(() => this.#sync());
    this.#sync();
  }

  #sync(): void {
    const newest = new Map<string, Pod>();
    for (const pod of this.#pods.items().values()) {
      const node = pod.spec?.nodeName;
      if (!node || pod.metadata.deletionTimestamp) continue;
      const before = newest.get(node);
      if (!before || (before.metadata.creationTimestamp ?? '') < (pod.metadata.creationTimestamp ?? ''))
        newest.set(node, pod);
    }
    for (const [node, link] of this.#links)
      if (newest.get(node)?.metadata.name !== link.pod) {
        link.close();
        this.#links.delete(node);
      }
    for (const [node, pod] of newest) {
      const link = this.#links.get(node);
      if (link) link.update(pod);
      else this.#links.set(node, new Link(node, pod, this.#connection, this.#dial, this.#notify));
    }
    this.#notify();
  }

  readonly #notify = () => {
    for (const listener of [...this.#listeners]) listener();
  };

  links(): readonly AgentLink[] {
    return [...this.#links.values()].sort((a, b) => a.node.localeCompare(b.node, 'en', { numeric: true }));
  }

  onChange(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  ready(): Promise<Result<void>> {
    return this.#pods.ready();
  }

  close(): void {
    this.#subscription[Symbol.dispose]();
    this.#pods[Symbol.dispose]();
    for (const link of this.#links.values()) link.close();
    this.#links.clear();
    this.#listeners.clear();
  }
}

interface Entry {
  readonly connection: ClusterConnection;
  readonly pool: ClusterPool;
  users: number;
  timer: ReturnType<typeof setTimeout> | undefined;
  readonly end: () => void;
}

/** The pool of agents, one per cluster in use. */
export function createAgents(options: AgentsOptions): Agents {
  const { connections, log } = options;
  const dial: Dial = options.dial ?? ((connection, pod) => connection.portForward(agentNamespace, pod, agentPort));
  const entries = new Map<string, Entry>();

  const drop = (cluster: string, entry: Entry) => {
    clearTimeout(entry.timer);
    if (entries.get(cluster) === entry) entries.delete(cluster);
    entry.connection.signal.removeEventListener('abort', entry.end);
    entry.pool.close();
    log.debug('agents', `connections to the agents of ${entry.connection.contextName} closed`);
  };

  const obtain = (cluster: string, connection: ClusterConnection): Entry => {
    const there = entries.get(cluster);
    if (there?.connection === connection) return there;
    if (there) drop(cluster, there);
    const entry: Entry = {
      connection,
      pool: new ClusterPool(connection, dial),
      users: 0,
      timer: undefined,
      end: () => drop(cluster, entry),
    };
    entries.set(cluster, entry);
    connection.signal.addEventListener('abort', entry.end, { once: true });
    return entry;
  };

  const open = async (cluster: string): Promise<Result<ClusterAgents>> => {
    const connection = await connections.get(cluster);
    if (!connection.ok) return connection;
    const entry = obtain(cluster, connection.value);
    clearTimeout(entry.timer);
    entry.users += 1;
    let held = true;
    const mine = new DisposableStack();
    return ok({
      links: () => entry.pool.links(),
      onChange(listener) {
        return held ? mine.use(entry.pool.onChange(listener)) : { [Symbol.dispose]() {} };
      },
      ready: () => entry.pool.ready(),
      signal: entry.connection.signal,
      [Symbol.dispose]() {
        if (!held) return;
        held = false;
        mine.dispose();
        entry.users -= 1;
        if (entry.users === 0) entry.timer = setTimeout(() => drop(cluster, entry), linger).unref();
      },
    });
  };

  const statuses = createStatuses(open, log);
  return {
    statuses,
    open,
    close() {
      statuses[Symbol.dispose]();
      for (const [cluster, entry] of [...entries]) drop(cluster, entry);
    },
  };
}
