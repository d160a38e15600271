import { isAbsolute, resolve } from 'node:path';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import type { AgentStatuses } from '../agents/index.ts';
import type { AuditLog, Connections } from '../capability.ts';
import { type ClusterConnection, resources } from '../kube/cluster-connection.ts';
import { forgetLogin, programsDenied } from '../kube/credentials.ts';
import { describeExec } from '../kube/exec-plugin.ts';
import { type Kubeconfig, parseKubeconfig } from '../kube/kubeconfig.ts';
import type { Log } from '../log.ts';
import type { SecretStore } from '../secrets.ts';
import type { SshConnector } from '../ssh/ssh-connector.ts';
import { streamWholePictures } from '../whole-pictures.ts';
import { type ClusterOptions, ManagedCluster } from './cluster.ts';
import { streamInventory } from './inventory.ts';
import {
  clusterId,
  defaultFiles,
  type FileGroup,
  type Found,
  readAll,
  readKubeconfig,
  remoteContext,
  watchFiles,
} from './kubeconfig-files.ts';
import { discover } from './remote.ts';
import { openStore } from './store.ts';

export interface ClustersOptions {
  readonly stateDirectory: string;
  readonly log: Log;
  readonly audit: AuditLog;
  /** Files named on the command line; they replace KUBECONFIG and ~/.kube/config. */
  readonly kubeconfigs: readonly string[];
  /** No login program runs, whatever was allowed before. */
  readonly denyLoginPrograms?: boolean;
  /** The context to connect at once; otherwise none is. */
  readonly context?: string;
  /** SSH to the machines of clusters that are not the lab; undefined path: the user's own configuration. */
  readonly ssh: (configPath: string | undefined) => SshConnector;
  readonly sshConfig?: string;
  /** The operating system's store; without it logins live with the console. */
  readonly secrets?: SecretStore | undefined;
  /** Lets the person choose a file with the system's own dialog; only where there is one. */
  readonly chooseFile?: ((title: string) => Promise<string | undefined>) | undefined;
  /** Called with each connection that has come up. */
  readonly connected?: (connection: ClusterConnection) => void;
  /** Called with the connection over which something was refused for want of a right. */
  readonly refused?: (connection: ClusterConnection) => void;
  /** Shows a login page to the person at the console; nobody is asked without it. */
  readonly showLogin?: ClusterOptions['showLogin'];
}

/** A cluster whose files are given rather than found: the lab. */
export interface LabFiles {
  readonly kubeconfig: string;
  readonly sshConfig: string;
}

export interface Clusters extends Disposable {
  readonly connections: Connections;
  readonly implementation: (statuses: AgentStatuses) => CapabilityImplementation<'clusters'>;
  /** Adds the lab's cluster and connects it; its id. */
  readonly addLab: (files: LabFiles) => Result<string>;
  readonly removeLab: () => void;
}

const unknown = (cluster: string): Failure => ({
  code: 'cluster.unknown',
  what: 'This cluster is not in the list any more.',
  why: `No kubeconfig has the context that “${cluster}” stood for.`,
  fix: 'Choose another cluster, or add its kubeconfig again.',
});

/** Knows all clusters and holds their connections. Kubeconfig files are watched and never written. */
export function createClusters(options: ClustersOptions): Clusters {
  const { log, audit } = options;
  const denied = options.denyLoginPrograms ?? false;
  const store = openStore(options.stateDirectory, log);
  const texts = new Map<string, Kubeconfig>();
  const listeners = new Set<() => void>();
  const clusters = new Map<string, ManagedCluster>();
  let problems: readonly Failure[] = [];
  let lab: LabFiles | undefined;
  let notifying = false;

  const changed = () => {
    if (notifying) return;
    notifying = true;
    setImmediate(() => {
      notifying = false;
      for (const listener of [...listeners]) listener();
    });
  };
  const named: FileGroup[] =
    options.kubeconfigs.length > 0
      ? [{ paths: options.kubeconfigs, source: 'kubeconfig', optional: false }]
      : [defaultFiles()];
  const groups = (): readonly FileGroup[] => [
    ...(lab ? [{ paths: [lab.kubeconfig], source: 'lab' as const, optional: true }] : []),
    ...named,
    ...store.all('added').map((path) => ({ paths: [path], source: 'kubeconfig' as const, optional: false })),
  ];

  const reload = (): Found => {
    const found = readAll(groups(), texts);
    problems = found.problems;
    const present = new Set<string>();
    for (const context of [...found.contexts, ...store.remotes().map(remoteContext)]) {
      if (store.has('forgotten', context.id) || present.has(context.id)) continue;
      present.add(context.id);
      const known = clusters.get(context.id);
      if (!known) {
        clusters.set(
          context.id,
          new ManagedCluster({
            found: context,
            log,
            allowed: (hash) => (denied ? 'denied' : store.has('allowedPrograms', hash)),
            isProtected: () => store.has('protected', context.id),
            ssh: () => options.ssh(context.source === 'lab' ? lab?.sshConfig : options.sshConfig),
            colour: () => store.colour(context.id),
            showLogin: options.showLogin ?? (() => ({ signal: AbortSignal.abort(), [Symbol.dispose]() {} })),
            secrets: options.secrets,
            changed,
            connected: (connection) => options.connected?.(connection),
            refused: (connection) => options.refused?.(connection),
          }),
        );
        continue;
      }
      const different = known.found.fingerprint !== context.fingerprint;
      known.found = context;
      if (different && known.state !== 'idle') {
        log.info('clusters', `${context.name}: its kubeconfig changed, connecting again`);
        known.disconnect();
        void known.connect();
      }
    }
    for (const [id, cluster] of clusters) {
      if (present.has(id)) continue;
      cluster.disconnect();
      clusters.delete(id);
    }
    for (const problem of problems) log.warn('clusters', `${problem.code}: ${problem.what} ${problem.why}`);
    changed();
    return found;
  };
  const started = reload();
  const watcher = watchFiles(() => groups().flatMap((group) => group.paths), reload);

  const withCluster = <T>(id: string, use: (cluster: ManagedCluster) => T): T | Result<never> => {
    const cluster = clusters.get(id);
    return cluster ? use(cluster) : failed(unknown(id));
  };

  if (options.context !== undefined) {
    const wanted = started.contexts.find((context) => context.name === options.context);
    if (wanted) void clusters.get(wanted.id)?.connect();
    else {
      problems = [
        ...problems,
        {
          code: 'kubeconfig.unknown-context',
          what: `There is no context “${options.context}”.`,
          why: `The kubeconfig has: ${started.contexts.map((context) => context.name).join(', ') || 'none'}.`,
          fix: 'Name one of them with --context, or leave it out.',
        },
      ];
      log.error('clusters', `there is no context “${options.context}”`);
    }
  }

  const connections: Connections = {
    get: async (id) => withCluster(id, (cluster) => cluster.get()),
    writable(id) {
      const cluster = clusters.get(id);
      if (!cluster) return failed(unknown(id));
      if (!store.has('protected', id)) return ok(undefined);
      return failed({
        code: 'cluster.protected',
        what: `“${cluster.found.name}” is protected: nothing is changed in it.`,
        why: 'Somebody has marked this cluster as read-only in Fairlead.',
        fix: 'Unlock it in the Clusters view by typing its name, then try again.',
      });
    },
    ssh(id) {
      const found = clusters.get(id)?.found;
      const connector = options.ssh(found?.source === 'lab' ? lab?.sshConfig : options.sshConfig);
      // Machines of a cluster behind SSH are reached the same way, unless the configuration knows them itself.
      return found?.remote ? connector.behind(found.remote.host) : connector;
    },
    isRecording: (id) => id.startsWith('recording:'),
  };

  /** Runs after a file or text was added: what of it is new in the list. */
  const adopt = (path: string): Result<{ readonly added: readonly string[] }> => {
    const own = readAll(groups(), texts).contexts.filter((context) => context.path === path);
    for (const context of own) store.remove('forgotten', context.id);
    watcher.refresh();
    reload();
    return ok({ added: own.map((context) => context.id) });
  };

  /** Adds a file by its path on this machine. */
  const addPath = (given: string): Result<{ readonly added: readonly string[] }> => {
    if (!isAbsolute(given)) {
      return failed({
        code: 'kubeconfig.relative-path',
        what: 'The kubeconfig was not added.',
        why: `“${given}” is not a full path.`,
        fix: 'Give the path from the root, e.g. /home/you/.kube/config.',
      });
    }
    const path = resolve(given);
    const read = readKubeconfig(path);
    if (!read.ok) return read;
    if (read.value.contexts.length === 0) return failed(noContexts(path));
    if (!groups().some((group) => group.paths.includes(path))) store.add('added', path);
    return adopt(path);
  };

  const implementation = (statuses: AgentStatuses): CapabilityImplementation<'clusters'> => ({
    watch: async (_input, sink, { signal }) =>
      await streamWholePictures(listeners, sink, signal, () => ({
        clusters: [...clusters.values()].map((cluster) => cluster.display()),
        problems: [...problems],
      })),
    async addKubeconfig({ name, text }) {
      const path = `text:${name}`;
      const parsed = parseKubeconfig(text, path);
      if (!parsed.ok) return parsed;
      const pointer =
        [...parsed.value.users.values()].some(
          (user) =>
            user.tokenFile !== undefined ||
            (user.certificate && 'file' in user.certificate) ||
            (user.key && 'file' in user.key),
        ) ||
        [...parsed.value.clusters.values()].some(
          (cluster) => cluster.certificateAuthority && 'file' in cluster.certificateAuthority,
        );
      if (pointer) {
        // Otherwise a pasted text could make the engine send any file of this machine to any server as a token.
        return failed({
          code: 'kubeconfig.file-reference',
          what: `The kubeconfig “${name}” cannot be added as text.`,
          why: 'It refers to files (a certificate, key or token), and a pasted text may not name files of this machine.',
          fix: 'Add it by its path, or make it self-contained: kubectl config view --flatten --minify --raw',
        });
      }
      if (parsed.value.contexts.length === 0) return failed(noContexts(name));
      texts.set(path, parsed.value);
      return adopt(path);
    },
    addKubeconfigPath: async ({ path }) => addPath(path),
    async chooseKubeconfig() {
      if (!options.chooseFile)
        return failed({
          code: 'clusters.no-dialog',
          what: 'No file can be chosen here.',
          why: 'In a browser, only the desktop application has the system’s own dialog.',
          fix: 'Enter the path, or paste or upload the file.',
        });
      const chosen = await options.chooseFile('Add a kubeconfig');
      return chosen === undefined ? ok({ added: [] }) : addPath(chosen);
    },
    async sshHosts() {
      const hosts = await options.ssh(options.sshConfig).hosts();
      return hosts.ok ? ok({ hosts: hosts.value }) : hosts;
    },
    async addSsh({ host: given, path }, { signal }) {
      const host = given.trim();
      if (host === '' || host.startsWith('-') || /\s/.test(host))
        return failed({
          code: 'ssh.bad-host',
          what: 'The host was not added.',
          why: `“${given}” is not the name of a host.`,
          fix: 'Give an alias of the SSH configuration, or user@host:port.',
        });
      const session = await options.ssh(options.sshConfig).connect(host, { signal });
      if (!session.ok) return session;
      try {
        const discovered = await discover(session.value, path, signal);
        if (!discovered.ok) return discovered;
        const { found, problems: unread } = discovered.value;
        const added = found.map((remote) => ({ ...remote, host }));
        const same = (a: (typeof added)[number], b: (typeof added)[number]) =>
          a.host === b.host && a.path === b.path && a.context === b.context;
        store.setRemotes([...store.remotes().filter((old) => !added.some((one) => same(old, one))), ...added]);
        const ids = added.map((remote) => remoteContext(remote).id);
        for (const id of ids) store.remove('forgotten', id);
        reload();
        return ok({ added: ids, problems: unread });
      } finally {
        session.value.close();
      }
    },
    setColour: async ({ cluster: id, colour }) => {
      if (colour !== '' && !/^#[0-9a-f]{6}$/i.test(colour))
        return failed({
          code: 'cluster.bad-colour',
          what: 'The colour was not changed.',
          why: `“${colour}” is not a colour.`,
          fix: 'Write it as #rrggbb.',
        });
      return withCluster(id, () => {
        store.setColour(id, colour);
        changed();
        return ok({});
      });
    },
    forget: async ({ cluster: id }) =>
      withCluster(id, (cluster) => {
        const { path, remote, resolved } = cluster.found;
        cluster.disconnect();
        if (resolved.ok) forgetLogin(resolved.value, options.secrets);
        if (remote) store.setRemotes(store.remotes().filter((other) => remoteContext(other).id !== id));
        else store.add('forgotten', id);
        reload();
        const left = [...clusters.values()].some((other) => other.found.path === path);
        if (!left) {
          store.remove('added', path);
          texts.delete(path);
          watcher.refresh();
        }
        return ok({});
      }),
    connect: async ({ cluster: id }) => {
      const cluster = clusters.get(id);
      if (!cluster) return failed(unknown(id));
      const connected = await (cluster.state === 'online' || cluster.state === 'degraded'
        ? cluster.get()
        : cluster.connect());
      return connected.ok ? ok({}) : connected;
    },
    disconnect: async ({ cluster: id }) =>
      withCluster(id, (cluster) => {
        cluster.disconnect();
        return ok({});
      }),
    describeExecPlugin: async ({ cluster: id }) =>
      withCluster(id, (cluster) => {
        const context = cluster.found.resolved;
        if (!context.ok) return context;
        if (!context.value.user.exec) {
          return failed({
            code: 'cluster.no-login-program',
            what: `“${cluster.found.name}” logs in without a program.`,
            why: 'Its kubeconfig has no exec section.',
            fix: 'Nothing to do.',
          });
        }
        return ok(describeExec(context.value.user.exec, context.value.path));
      }),
    allowExecPlugin: async ({ cluster: id, hash }) =>
      withCluster(id, (cluster) => {
        if (denied) return failed(programsDenied(cluster.found.name));
        const context = cluster.found.resolved;
        const current =
          context.ok && context.value.user.exec ? describeExec(context.value.user.exec, context.value.path) : undefined;
        if (current?.hash !== hash) {
          return failed({
            code: 'cluster.login-program-changed',
            what: 'The login program was not allowed.',
            why: 'It is not the one that was shown: the kubeconfig or the program’s place has changed.',
            fix: 'Look at it again and decide anew.',
          });
        }
        store.add('allowedPrograms', hash);
        log.info('clusters', `${cluster.found.name}: the login program ${current.resolved} was allowed`);
        if (cluster.state === 'needs-login') void cluster.connect();
        changed();
        return ok({});
      }),
    setProtected: async ({ cluster: id, protected: wanted, typedName }) =>
      withCluster(id, (cluster) => {
        if (!wanted && typedName !== cluster.found.name) {
          return failed({
            code: 'cluster.name-not-typed',
            what: `“${cluster.found.name}” stays protected.`,
            why: 'The name typed is not the cluster’s name.',
            fix: 'Type the name exactly as shown.',
          });
        }
        if (wanted) store.add('protected', id);
        else store.remove('protected', id);
        log.info('clusters', `${cluster.found.name}: ${wanted ? 'protected' : 'unlocked'}`);
        changed();
        return ok({});
      }),
    async inventory({ cluster: id }, sink, { signal }) {
      const connection = await connections.get(id);
      if (!connection.ok) return connection.failure;
      return streamInventory(
        {
          connection: connection.value,
          statuses,
          ssh: connections.ssh(id),
          degrade: (what, failure) => clusters.get(id)?.degrade(what, failure),
        },
        sink,
        signal,
      );
    },
    async deletePod({ cluster: id, namespace, name }) {
      const writable = connections.writable(id);
      if (!writable.ok) return writable;
      const connection = await connections.get(id);
      if (!connection.ok) return connection;
      const removed = await connection.value.remove(resources.pods, name, namespace);
      audit.record({
        cluster: connection.value.contextName,
        action: 'delete pod',
        subject: `${namespace}/${name}`,
        result: removed.ok ? 'done' : removed.failure.code,
      });
      return removed.ok ? ok({}) : removed;
    },
  });

  return {
    connections,
    implementation,
    addLab(files) {
      lab = files;
      watcher.refresh();
      const found = reload();
      const context = found.contexts.find((entry) => entry.source === 'lab');
      if (!context) {
        return failed({
          code: 'lab.no-kubeconfig',
          what: 'The lab’s cluster could not be added.',
          why: `${files.kubeconfig} has no context.`,
          fix: 'Run: npm run lab -- status',
        });
      }
      store.remove('forgotten', context.id);
      if (!clusters.has(context.id)) reload();
      void clusters.get(context.id)?.connect();
      return ok(context.id);
    },
    removeLab() {
      lab = undefined;
      watcher.refresh();
      reload();
    },
    [Symbol.dispose]() {
      watcher[Symbol.dispose]();
      for (const cluster of clusters.values()) cluster.disconnect();
      clusters.clear();
      listeners.clear();
    },
  };
}

function noContexts(name: string): Failure {
  return {
    code: 'kubeconfig.no-contexts',
    what: `The kubeconfig ${name} was not added.`,
    why: 'It has no contexts.',
    fix: 'Choose a file that kubectl config get-contexts shows entries for.',
  };
}

export { clusterId };
