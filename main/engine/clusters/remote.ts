import { posix } from 'node:path';
import type { Duplex } from 'node:stream';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import { FailureError } from '../kube/failures.ts';
import {
  type ClusterEntry,
  type Kubeconfig,
  type Material,
  parseKubeconfig,
  type ResolvedContext,
  resolveContext,
  type UserEntry,
} from '../kube/kubeconfig.ts';
import { readRemoteFiles } from '../ssh/remote-files.ts';
import type { SshConnector, SshSession } from '../ssh/ssh-connector.ts';

/** A cluster behind SSH as it is remembered: where its kubeconfig lies, and what to show before it is read again. */
export interface RemoteCluster {
  /** Alias of the SSH configuration, or user@host:port. */
  readonly host: string;
  /** Path of the kubeconfig on that host. */
  readonly path: string;
  readonly context: string;
  readonly server: string;
  readonly user: string;
}

/** What connecting to a cluster behind SSH needs, with the session that carries it. */
export interface PreparedRemote extends Disposable {
  readonly context: ResolvedContext;
  readonly route: readonly string[];
  /** A byte stream to an address as the host sees it; logs in again, without asking anybody, when the session was lost. */
  readonly dial: (host: string, port: number) => Promise<Duplex>;
}

/** Where distributions keep the administrator's kubeconfig, likeliest first. */
const places = [
  '$KUBECONFIG',
  '~/.kube/config',
  '/etc/kubernetes/admin.conf',
  '/etc/kubernetes/super-admin.conf',
  '/etc/rancher/k3s/k3s.yaml',
  '/etc/rancher/rke2/rke2.yaml',
  '/var/snap/microk8s/current/credentials/client.config',
  '/var/lib/k0s/pki/admin.conf',
] as const;

/** How the file is called in failures: its host and its path there. */
const nameOf = (host: string, path: string) => `${host}:${path}`;

function nothingFound(host: string, path: string | undefined): Failure {
  return {
    code: 'ssh.no-kubeconfig',
    what: `No kubeconfig was found on ${host}.`,
    why: path
      ? `${path} does not exist there, or may not be read by the user that logs in.`
      : `None of these can be read there: ${places.filter((place) => place.startsWith('/') || place.startsWith('~')).join(', ')}.`,
    fix: 'Name its path, log in as a user that may read it, or allow that user sudo without a password.',
  };
}

/** What every kubeconfig found on a host offers. Files that cannot be understood are told as problems. */
export async function discover(
  session: SshSession,
  path: string | undefined,
  signal: AbortSignal,
): Promise<Result<{ readonly found: readonly RemoteCluster[]; readonly problems: readonly Failure[] }>> {
  const files = await readRemoteFiles(session, path === undefined ? places : [path], signal);
  if (!files.ok) return files;
  const found: RemoteCluster[] = [];
  const problems: Failure[] = [];
  for (const file of files.value) {
    const parsed = parseKubeconfig(file.content.toString('utf8'), nameOf(session.host, file.path));
    if (!parsed.ok) {
      problems.push(parsed.failure);
      continue;
    }
    for (const context of parsed.value.contexts) {
      const resolved = resolveContext(context, parsed.value, []);
      if (!resolved.ok) {
        problems.push(resolved.failure);
        continue;
      }
      const { server } = resolved.value.cluster;
      // The same cluster often stands in two files (admin.conf copied to ~/.kube/config): one entry is enough.
      if (found.some((other) => other.server === server && other.user === resolved.value.user.name)) continue;
      found.push({
        host: session.host,
        path: file.path,
        context: context.name,
        server,
        user: resolved.value.user.name,
      });
    }
  }
  if (found.length === 0 && problems.length === 0) return failed(nothingFound(session.host, path));
  return ok({ found, problems });
}

/** Files that a context refers to lie on that machine too: they are read into memory with it. */
async function inline(
  session: SshSession,
  path: string,
  context: ResolvedContext,
  signal: AbortSignal,
): Promise<Result<ResolvedContext>> {
  const { cluster, user } = context;
  const absolute = (file: string) => (posix.isAbsolute(file) ? file : posix.join(posix.dirname(path), file));
  const wanted = new Map<string, string>();
  const want = (material: Material | undefined, what: string) => {
    if (material && 'file' in material) wanted.set(absolute(material.file), what);
  };
  want(cluster.certificateAuthority, 'certificate authority');
  want(user.certificate, 'client certificate');
  want(user.key, 'client key');
  if (user.tokenFile !== undefined) wanted.set(absolute(user.tokenFile), 'token file');
  const contents = new Map<string, Buffer>();
  if (wanted.size > 0) {
    const read = await readRemoteFiles(session, [...wanted.keys()], signal);
    if (!read.ok) return read;
    for (const file of read.value) contents.set(file.path, file.content);
    for (const [file, what] of wanted)
      if (!contents.has(file))
        return failed({
          code: 'kubeconfig.missing-file',
          what: `The context “${context.name}” of ${session.host} cannot be used.`,
          why: `Its ${what} ${file} cannot be read there.`,
          fix: 'Log in as a user that may read it, or use a self-contained kubeconfig (kubectl config view --flatten --raw).',
        });
  }
  const filled = (material: Material | undefined): Material | undefined => {
    const data = material && 'file' in material ? contents.get(absolute(material.file)) : undefined;
    return data ? { data } : material;
  };
  const token = user.tokenFile === undefined ? undefined : contents.get(absolute(user.tokenFile));
  const ownCluster: ClusterEntry = { ...cluster, certificateAuthority: filled(cluster.certificateAuthority) };
  const ownUser: UserEntry = {
    ...user,
    certificate: filled(user.certificate),
    key: filled(user.key),
    token: token ? token.toString('utf8').trim() : user.token,
    tokenFile: undefined,
  };
  return ok({ ...context, cluster: ownCluster, user: ownUser });
}

function unusable(host: string, context: ResolvedContext): Failure | undefined {
  if (context.user.exec)
    return {
      code: 'ssh.remote-login-program',
      what: `The context “${context.name}” of ${host} cannot be used.`,
      why: `It logs in with the program “${context.user.exec.command}” of that machine, and Fairlead runs no login programs on other machines.`,
      fix: 'Use a kubeconfig with a client certificate or token there (e.g. /etc/kubernetes/admin.conf), or add the kubeconfig of this machine.',
    };
  if (context.cluster.proxyUrl)
    return {
      code: 'ssh.remote-proxy',
      what: `The context “${context.name}” of ${host} cannot be used.`,
      why: `Its kubeconfig has a proxy-url (${new URL(context.cluster.proxyUrl).host}), and what goes through SSH takes no proxy after that.`,
      fix: 'Choose a host that reaches the API server directly.',
    };
  return undefined;
}

async function readContext(
  session: SshSession,
  remote: RemoteCluster,
  signal: AbortSignal,
): Promise<Result<ResolvedContext>> {
  const files = await readRemoteFiles(session, [remote.path], signal);
  if (!files.ok) return files;
  const [file] = files.value;
  if (!file) return failed(nothingFound(remote.host, remote.path));
  const parsed: Result<Kubeconfig> = parseKubeconfig(file.content.toString('utf8'), nameOf(remote.host, remote.path));
  if (!parsed.ok) return parsed;
  const context = parsed.value.contexts.find((entry) => entry.name === remote.context);
  if (!context)
    return failed({
      code: 'kubeconfig.unknown-context',
      what: `${nameOf(remote.host, remote.path)} has no context “${remote.context}” any more.`,
      why: `It has: ${parsed.value.contexts.map((entry) => entry.name).join(', ') || 'none'}.`,
      fix: 'Forget this cluster and add the host again.',
    });
  const resolved = resolveContext(context, parsed.value, []);
  if (!resolved.ok) return resolved;
  const problem = unusable(remote.host, resolved.value);
  return problem ? failed(problem) : await inline(session, remote.path, resolved.value, signal);
}

/** Logs in, reads the kubeconfig anew, and gives the way to the API server. Asks whatever the logins need. */
export async function prepareRemote(
  remote: RemoteCluster,
  connector: SshConnector,
  signal: AbortSignal,
): Promise<Result<PreparedRemote>> {
  const connected = await connector.connect(remote.host, { signal });
  if (!connected.ok) return connected;
  let session = connected.value;
  const context = await readContext(session, remote, signal);
  if (!context.ok) {
    session.close();
    return context;
  }
  const ended = new AbortController();
  let renewing: Promise<Result<SshSession>> | undefined;
  /** Nobody asked for this login, so nobody is asked: what needs a person waits until that person connects. */
  const renew = async (): Promise<Result<SshSession>> => {
    const again = await connector.connect(remote.host, {
      signal: ended.signal,
      askHostKey: async () => false,
      askSecrets: async () => undefined,
    });
    if (again.ok && ended.signal.aborted) again.value.close();
    else if (again.ok) session = again.value;
    return again;
  };
  return ok({
    context: context.value,
    route: session.route,
    async dial(host, port) {
      if (session.closed.aborted && !ended.signal.aborted) {
        renewing ??= renew().finally(() => {
          renewing = undefined;
        });
        const again = await renewing;
        if (!again.ok) throw new FailureError(again.failure);
      }
      const stream = await session.streamTo(host, port);
      if (stream.ok) return stream.value;
      throw new FailureError({
        code: 'ssh.no-way-to-server',
        what: `${remote.host} does not reach the API server ${host}:${port}.`,
        why: stream.failure.why,
        fix: 'Check on that host that the address of its kubeconfig answers, and that its sshd allows forwarding (AllowTcpForwarding, PermitOpen).',
      });
    },
    [Symbol.dispose]() {
      ended.abort();
      session.close();
    },
  });
}
