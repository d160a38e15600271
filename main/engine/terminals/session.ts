import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { TerminalTarget } from '../../../contract/terminals.ts';
import type { Connections } from '../capability.ts';
import { type ClusterConnection, type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { HostKeyQuestion } from '../ssh/ssh-connector.ts';
import { addDebugContainer, makeNodePod, type PrepareOptions, type Support } from './debug.ts';

/** A running shell, however it is reached. */
export interface Shell {
  readonly title: string;
  readonly output: readonly NodeJS.ReadableStream[];
  readonly write: (data: string) => Promise<void>;
  readonly resize: (columns: number, rows: number) => void;
  /** `lost`: the connection broke, and the shell may still be there. */
  readonly ended: Promise<{
    readonly code: number | null;
    readonly reason: string;
    readonly lost: boolean;
    /** Why there never was a shell. */
    readonly failure?: Failure;
  }>;
  readonly close: () => void;
  /** What was made in the cluster for it. */
  readonly support?: Support;
}

export interface OpenOptions {
  readonly connections: Connections;
  readonly target: TerminalTarget;
  readonly columns: number;
  readonly rows: number;
  readonly signal: AbortSignal;
  /** Nobody is there to be asked: a question is answered with no. */
  readonly unattended: boolean;
  readonly progress: (text: string) => void;
  readonly owner: string;
  /** Left over from a session whose connection was lost. */
  readonly support: Support | undefined;
  /** Told of a pod before it is made: it is this console's, and nobody else's to remove. */
  readonly claim: (pod: string) => void;
  /** Told of what has been made in the cluster, as soon as it is. */
  readonly made: (support: Support) => void;
  readonly askHostKey: (question: HostKeyQuestion) => Promise<boolean>;
}

/** Opens what the target names. */
export function openShell(options: OpenOptions): Promise<Result<Shell>> {
  const { target } = options;
  switch (target.kind) {
    case 'pod':
      return openPod(options, target);
    case 'node':
      return openNode(options, target);
    case 'debug':
      return openSupported(options, (prepare) => addDebugContainer(prepare, target));
    case 'node-pod':
      return openSupported(options, (prepare) => makeNodePod(prepare, target));
  }
}

/** Writes and waits until the other side takes more, so that a pasted file does not pile up. */
function writer(stream: NodeJS.WritableStream): Shell['write'] {
  return (data) =>
    new Promise((resolve) => {
      if (stream.write(data)) resolve();
      else {
        const go = () => {
          stream.removeListener('drain', go);
          stream.removeListener('close', go);
          resolve();
        };
        stream.once('drain', go);
        stream.once('close', go);
      }
    });
}

const noShell =
  /no such file or directory|executable file not found|not found in \$PATH|exit status 12[67]|OCI runtime exec failed/i;

/** The exec endpoint says in many words that the image has no such program. */
function execFailure(target: Extract<TerminalTarget, { kind: 'pod' }>, failure: Failure): Failure {
  if (!noShell.test(`${failure.why} ${failure.details ?? ''}`)) return failure;
  const command = target.command[0] ?? 'sh';
  return {
    code: 'terminal.no-shell',
    what: `${target.namespace}/${target.pod} has no “${command}”.`,
    why: `The image of container ${target.container || '(first)'} does not hold this program: images made of a single binary have no shell.`,
    fix: 'Run a program that the image has, or open a debug container beside it, which brings an image of its own.',
    details: failure.why,
  };
}

async function openPod(
  { connections, columns, rows }: OpenOptions,
  target: Extract<TerminalTarget, { kind: 'pod' }>,
): Promise<Result<Shell>> {
  const { cluster, namespace, pod } = target;
  const connection = await connections.get(cluster);
  if (!connection.ok) return connection;
  const command = target.command.length > 0 ? target.command : ['sh'];
  const container = target.container || (await firstContainer(connection.value, namespace, pod));
  const explain = (failure: Failure) => execFailure(target, failure);
  const opened = await execShell(connection.value, { namespace, pod, container, command }, columns, rows, explain);
  return opened.ok
    ? ok({ ...opened.value, title: `${namespace}/${pod}${container ? ` · ${container}` : ''}` })
    : opened;
}

/** A shell by exec; its failures are told by `explain`. */
async function execShell(
  connection: ClusterConnection,
  place: Support['place'],
  columns: number,
  rows: number,
  explain: (failure: Failure) => Failure,
): Promise<Result<Omit<Shell, 'title'>>> {
  const opened = await connection.exec({ ...place, tty: true });
  if (!opened.ok) return failed(explain(opened.failure));
  const session = opened.value;
  session.resize(columns, rows);
  const ended = session.exit.then((result) => {
    if (result.ok) {
      const { value: code } = result;
      const missing = code === 126 || code === 127;
      return {
        code,
        reason: missing ? `${place.command[0]} could not be run (${code}).` : `ended with ${code}`,
        lost: false,
      };
    }
    const failure = explain(result.failure);
    const lost = failure.code === 'exec.broke';
    return { code: null, reason: failure.why, lost, ...(lost ? {} : { failure }) };
  });
  return ok({
    output: [session.stdout, session.stderr],
    write: writer(session.stdin),
    resize: session.resize,
    ended,
    close: session.close,
  });
}

/** A shell in something that is made for it; what a lost connection has left is used again. */
async function openSupported(
  options: OpenOptions,
  make: (prepare: PrepareOptions) => Promise<Result<Support>>,
): Promise<Result<Shell>> {
  const { connections, target, columns, rows, signal, progress, owner, claim } = options;
  const connection = await connections.get(target.cluster);
  if (!connection.ok) return connection;
  const open = async (support: Support): Promise<Result<Shell>> => {
    const shell = await execShell(connection.value, support.place, columns, rows, (failure) => failure);
    return shell.ok ? ok({ ...shell.value, title: support.title, support }) : shell;
  };
  if (options.support) {
    const again = await open(options.support);
    if (again.ok) return again;
    progress('What was made for this shell is gone; making it anew.');
  }
  const made = await make({ connection: connection.value, signal, progress, owner, claim });
  if (!made.ok) return made;
  options.made(made.value);
  return await open(made.value);
}

interface PodObject extends KubeObject {
  readonly spec?: { readonly containers?: readonly { readonly name: string }[] };
}

async function firstContainer(
  connection: Pick<ClusterConnection, 'get'>,
  namespace: string,
  pod: string,
): Promise<string> {
  const found = await connection.get<PodObject>(resources.pods, pod, namespace);
  return found.ok ? (found.value.spec?.containers?.[0]?.name ?? '') : '';
}

interface NodeObject extends KubeObject {
  readonly status?: { readonly addresses?: readonly { readonly type: string; readonly address: string }[] };
}

async function openNode(
  { connections, columns, rows, signal, unattended, askHostKey }: OpenOptions,
  target: Extract<TerminalTarget, { kind: 'node' }>,
): Promise<Result<Shell>> {
  const { cluster, node } = target;
  const ssh = connections.ssh(cluster);
  const connection = await connections.get(cluster);
  const object = connection.ok ? await connection.value.get<NodeObject>(resources.nodes, node) : connection;
  const address = object.ok
    ? (object.value.status?.addresses?.find((entry) => entry.type === 'InternalIP')?.address ?? '')
    : '';
  const alias = await ssh.aliasFor({ name: node, address });
  if (alias === undefined)
    return failed({
      code: 'terminal.no-ssh',
      what: `There is no way to ${node} by SSH.`,
      why: `Your SSH configuration has no Host ${node} and none whose HostName is ${address || 'its address'}.`,
      fix: 'Add a Host entry for the node (with ProxyJump if it is behind a bastion), or open the node by a debug pod.',
    });
  const connected = await ssh.connect(alias, {
    askHostKey: unattended ? async () => false : askHostKey,
    ...(unattended ? { askSecrets: async () => undefined } : {}),
    signal,
  });
  if (!connected.ok) return connected;
  const session = connected.value;
  const shell = await session.shell(columns, rows);
  if (!shell.ok) {
    session.close();
    return shell;
  }
  const { stream, resize, exit, close } = shell.value;
  return ok({
    title: `${node} (ssh ${alias})`,
    output: [stream],
    write: writer(stream),
    resize,
    ended: exit.then(({ code, signal: name }) => ({
      code,
      reason: name ? `ended by signal ${name}` : code === null ? 'The SSH connection was lost.' : `ended with ${code}`,
      lost: code === null && name === null,
    })),
    close() {
      close();
      session.close();
    },
  });
}
