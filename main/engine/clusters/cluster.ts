import type { Cluster, ConnectionState } from '../../../contract/clusters.ts';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import { createConnection, type OwnedConnection } from '../kube/connection.ts';
import { type CredentialOptions, loadCredentials } from '../kube/credentials.ts';
import { describeExec } from '../kube/exec-plugin.ts';
import { loginCodes } from '../kube/failures.ts';
import type { ResolvedContext } from '../kube/kubeconfig.ts';
import type { ShowLogin } from '../kube/oidc.ts';
import type { Log } from '../log.ts';
import type { SecretStore } from '../secrets.ts';
import type { SshConnector } from '../ssh/ssh-connector.ts';
import { type FoundContext, originOf } from './kubeconfig-files.ts';
import { type PreparedRemote, prepareRemote, type RemoteCluster } from './remote.ts';

export interface ClusterOptions {
  readonly found: FoundContext;
  readonly log: Log;
  readonly allowed: CredentialOptions['allowed'];
  readonly isProtected: () => boolean;
  readonly changed: () => void;
  /** Called whenever the cluster has come online. */
  readonly connected: (connection: OwnedConnection) => void;
  /** Called whenever something was refused for want of a right. */
  readonly refused: (connection: OwnedConnection) => void;
  /** SSH as this cluster's own configuration has it. */
  readonly ssh: () => SshConnector;
  readonly colour: () => string | undefined;
  /** Shows a login page to the person at the console. */
  readonly showLogin: (name: string, ...login: Parameters<ShowLogin>) => ReturnType<ShowLogin>;
  /** The operating system's store, where there is one. */
  readonly secrets?: SecretStore | undefined;
  /** First and longest wait between attempts, and time between looks at a healthy server, in milliseconds. */
  readonly timing?: { readonly retry: readonly [number, number]; readonly health: number };
}

/**
 * One cluster's way through idle → connecting → online ⇄ degraded ⇄ offline, or needs-login. The connection lives from
 * connecting to disconnecting: while the server is away its watches keep what they know and try again by themselves.
 */
export class ManagedCluster {
  found: FoundContext;
  #state: ConnectionState = 'idle';
  #failure: Failure | undefined;
  #connection: OwnedConnection | undefined;
  /** The way to a cluster behind SSH, while there is one. */
  #remote: PreparedRemote | undefined;
  #connecting: Promise<Result<OwnedConnection>> | undefined;
  #latency: number | undefined;
  #version: string | undefined;
  #dataAt: number | undefined;
  #retryAt: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  #wait: number;
  #degradations = new Map<string, Failure>();
  #refusals = 0;
  /** Runs while refusals that come together are counted as one. */
  #counting: NodeJS.Timeout | undefined;
  /** Ends what an earlier attempt still does when a new one begins or the cluster is disconnected. */
  #attempt = new AbortController();
  readonly #options: ClusterOptions;
  readonly #timing: { readonly retry: readonly [number, number]; readonly health: number };

  constructor(options: ClusterOptions) {
    this.#options = options;
    this.found = options.found;
    this.#timing = options.timing ?? { retry: [1_000, 30_000], health: 5_000 };
    this.#wait = this.#timing.retry[0];
  }

  get id(): string {
    return this.found.id;
  }
  get state(): ConnectionState {
    return this.#state;
  }
  get connection(): OwnedConnection | undefined {
    return this.#connection;
  }

  /** What the renderer sees: no path, no credential. */
  display(): Cluster {
    const { found } = this;
    const context = this.#remote?.context ?? (found.resolved.ok ? found.resolved.value : undefined);
    const server = context?.cluster.server ?? found.remote?.server;
    const url = server !== undefined && URL.canParse(server) ? new URL(server) : undefined;
    const colour = this.#options.colour();
    const exec = context?.user.exec;
    const description = context && exec ? describeExec(exec, context.path) : undefined;
    const failure =
      this.#failure ??
      [...this.#degradations.values()][0] ??
      (found.resolved.ok || found.remote ? undefined : found.resolved.failure);
    return {
      id: found.id,
      name: found.name,
      source: found.source,
      origin: found.remote ? found.remote.host : originOf(found.path),
      server: url ? `${url.hostname}:${url.port || (url.protocol === 'https:' ? 443 : 80)}` : '',
      user: context?.user.name ?? found.remote?.user ?? '',
      state: this.#state,
      ...(failure ? { failure } : {}),
      ...(this.#latency === undefined ? {} : { latencyMilliseconds: this.#latency }),
      ...(this.#dataAt === undefined ? {} : { dataAt: this.#dataAt }),
      ...(this.#retryAt === undefined ? {} : { retryAt: this.#retryAt }),
      ...(this.#version === undefined ? {} : { serverVersion: this.#version }),
      ...(this.#refusals === 0 ? {} : { refusals: this.#refusals }),
      protected: this.#options.isProtected(),
      insecure: context?.cluster.insecure ?? false,
      route: this.#route(context?.cluster.proxyUrl),
      ...(colour === undefined ? {} : { colour }),
      ...(description
        ? {
            execPlugin: {
              command: description.command,
              allowed: this.#options.allowed(description.hash) === true,
              locked: this.#options.allowed(description.hash) === 'denied',
            },
          }
        : {}),
    };
  }

  #route(proxyUrl: string | undefined): readonly string[] {
    const { remote } = this.found;
    if (remote) return (this.#remote?.route ?? [remote.host]).map((hop) => `ssh ${hop}`);
    return proxyUrl ? [`proxy ${new URL(proxyUrl).host}`] : ['direct'];
  }

  #closeConnection(): void {
    this.#connection?.close();
    this.#connection = undefined;
    this.#remote?.[Symbol.dispose]();
    this.#remote = undefined;
  }

  /** The live connection; connects when nobody has asked for that yet. While the server is away: why. */
  async get(): Promise<Result<OwnedConnection>> {
    if (this.#connecting) return this.#connecting;
    if (this.#connection && (this.#state === 'online' || this.#state === 'degraded')) return ok(this.#connection);
    if (this.#state === 'idle') return this.connect();
    return failed(
      this.#failure ?? {
        code: 'cluster.not-connected',
        what: `“${this.found.name}” is not connected.`,
        why: 'The last attempt to connect has failed.',
        fix: 'Connect it in the Clusters view.',
      },
    );
  }

  connect(): Promise<Result<OwnedConnection>> {
    if (this.#connecting) return this.#connecting;
    const mine = this.#connect().finally(() => {
      if (this.#connecting === mine) this.#connecting = undefined;
    });
    this.#connecting = mine;
    return mine;
  }

  disconnect(): void {
    this.#attempt.abort();
    // The next connect begins anew rather than wait for the attempt that was just ended.
    this.#connecting = undefined;
    clearTimeout(this.#timer);
    this.#closeConnection();
    this.#degradations.clear();
    this.#latency = undefined;
    this.#retryAt = undefined;
    this.#set('idle');
  }

  /** A right that was there is gone: whoever keeps what is allowed asks again. */
  #refused(connection: OwnedConnection): void {
    this.#options.refused(connection);
    if (this.#counting) return;
    this.#counting = setTimeout(() => {
      this.#counting = undefined;
      this.#refusals += 1;
      this.#options.changed();
    }, 100).unref();
  }

  /** Something that a reachable cluster does not do; undefined when it does again. */
  degrade(what: string, failure: Failure | undefined): void {
    const before = this.#degradations.get(what);
    if (before?.code === failure?.code) return;
    if (failure) this.#degradations.set(what, failure);
    else this.#degradations.delete(what);
    if (this.#state === 'online' || this.#state === 'degraded')
      this.#set(this.#degradations.size > 0 ? 'degraded' : 'online');
  }

  #set(state: ConnectionState, failure?: Failure): void {
    if (this.#state !== state || this.#failure?.code !== failure?.code) {
      const text = `${this.found.name}: ${state}${failure ? ` (${failure.code}: ${failure.why})` : ''}`;
      if (failure) this.#options.log.warn('clusters', text);
      else this.#options.log.info('clusters', text);
    }
    this.#state = state;
    this.#failure = failure;
    this.#options.changed();
  }

  async #connect(): Promise<Result<OwnedConnection>> {
    this.#attempt.abort();
    const attempt = new AbortController();
    this.#attempt = attempt;
    clearTimeout(this.#timer);
    this.#closeConnection();
    this.#degradations.clear();
    this.#retryAt = undefined;
    const { found } = this;
    if (!found.resolved.ok && !found.remote) {
      this.#set('offline', found.resolved.failure);
      return found.resolved;
    }
    this.#set('connecting');
    const resolved = found.remote ? await this.#readRemote(found.remote, attempt.signal) : found.resolved;
    if (attempt.signal.aborted) return failed(this.#superseded());
    if (!resolved.ok) return this.#tryAgain(resolved.failure);
    const context = resolved.value;
    const credentials = await loadCredentials(context, {
      allowed: this.#options.allowed,
      signal: attempt.signal,
      showLogin: (...login) => this.#options.showLogin(found.name, ...login),
      ...(this.#options.secrets === undefined ? {} : { secrets: this.#options.secrets }),
    });
    if (attempt.signal.aborted) return failed(this.#superseded());
    if (!credentials.ok) {
      // Nothing that time alone would mend: no retry until the user or the file changes something.
      this.#set('needs-login', credentials.failure);
      return credentials;
    }
    const connection = createConnection({
      cluster: found.id,
      contextName: found.name,
      server: context.cluster.server,
      credentials: credentials.value,
      ...(context.cluster.proxyUrl === undefined ? {} : { proxyUrl: context.cluster.proxyUrl }),
      ...(this.#remote === undefined ? {} : { dial: this.#remote.dial }),
      log: (text) => this.#options.log.debug('kube', `${found.name}: ${text}`),
    });
    connection.onRefused(() => this.#refused(connection));
    this.#connection = connection;
    const failure = await this.#look(attempt);
    if (attempt.signal.aborted) return failed(this.#superseded());
    return failure ? failed(failure) : ok(connection);
  }

  async #readRemote(remote: RemoteCluster, signal: AbortSignal): Promise<Result<ResolvedContext>> {
    const prepared = await prepareRemote(remote, this.#options.ssh(), signal);
    if (!prepared.ok) return prepared;
    if (signal.aborted) {
      prepared.value[Symbol.dispose]();
      return failed(this.#superseded());
    }
    this.#remote = prepared.value;
    return ok(prepared.value.context);
  }

  /** SSH could not be had: a person's turn, or the network's. */
  #tryAgain(failure: Failure): Result<never> {
    if (loginCodes.has(failure.code)) this.#set('needs-login', failure);
    else {
      const delay = this.#nextDelay();
      this.#set('offline', failure);
      this.#timer = setTimeout(() => void this.connect(), delay);
      this.#timer.unref();
    }
    return failed(failure);
  }

  /** Growing waits with some chance in them, so that many consoles do not come back at the same moment. */
  #nextDelay(): number {
    const delay = this.#wait * (0.9 + Math.random() / 5);
    this.#wait = Math.min(this.#wait * 2, this.#timing.retry[1]);
    this.#retryAt = Date.now() + delay;
    return delay;
  }

  #superseded(): Failure {
    return {
      code: 'cancelled',
      what: 'The attempt to connect was ended.',
      why: 'The cluster was disconnected or its kubeconfig changed.',
      fix: 'Connect again.',
    };
  }

  /** One look at the server, and the next one's time. */
  async #look(attempt: AbortController): Promise<Failure | undefined> {
    const connection = this.#connection;
    if (!connection || attempt.signal.aborted) return undefined;
    const measured = await connection.measure();
    if (attempt.signal.aborted) return undefined;
    const again = (delay: number) => {
      this.#timer = setTimeout(() => void this.#look(attempt), delay);
      this.#timer.unref();
    };
    // A user who may not even read /version has still reached the server.
    if (measured.ok || measured.failure.code === 'kube.forbidden') {
      this.#wait = this.#timing.retry[0];
      this.#retryAt = undefined;
      this.#dataAt = Date.now();
      if (measured.ok) {
        this.#latency = measured.value.milliseconds;
        this.#version = measured.value.version;
      }
      const away = this.#state !== 'online' && this.#state !== 'degraded';
      this.#set(this.#degradations.size > 0 ? 'degraded' : 'online');
      if (away) this.#options.connected(connection);
      again(this.#timing.health);
      return undefined;
    }
    this.#latency = undefined;
    const delay = this.#nextDelay();
    this.#set(loginCodes.has(measured.failure.code) ? 'needs-login' : 'offline', measured.failure);
    again(delay);
    return measured.failure;
  }
}
