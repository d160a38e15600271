import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { TerminalTarget } from '../../../contract/terminals.ts';
import type { Connections } from '../capability.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { HostKeyQuestion } from '../ssh/ssh-connector.ts';

/** A running shell, however it is reached. */
export interface Shell {
  readonly title: string;
  readonly output: readonly NodeJS.ReadableStream[];
  readonly write: (data: string) => Promise<void>;
  readonly resize: (columns: number, rows: number) => void;
  readonly ended: Promise<{ readonly code: number | null; readonly reason: string }>;
  readonly close: () => void;
}

export interface OpenOptions {
  readonly connections: Connections;
  readonly target: TerminalTarget;
  readonly columns: number;
  readonly rows: number;
  readonly signal: AbortSignal;
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
    fix: 'Run a program that the image has, or attach a debug container: kubectl debug -it --image=… --target=….',
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
  const opened = await connection.value.exec({ namespace, pod, container, command, tty: true });
  if (!opened.ok) return failed(execFailure(target, opened.failure));
  const session = opened.value;
  session.resize(columns, rows);
  const ended = session.exit.then((result) => {
    if (result.ok) {
      const { value: code } = result;
      const missing = code === 126 || code === 127;
      return { code, reason: missing ? `${command[0]} could not be run (${code}).` : `ended with ${code}` };
    }
    const failure = execFailure(target, result.failure);
    return { code: null, reason: `${failure.what} ${failure.why} ${failure.fix}` };
  });
  return ok({
    title: `${namespace}/${pod}${container ? ` · ${container}` : ''}`,
    output: [session.stdout, session.stderr],
    write: writer(session.stdin),
    resize: session.resize,
    ended,
    close: session.close,
  });
}

interface PodObject extends KubeObject {
  readonly spec?: { readonly containers?: readonly { readonly name: string }[] };
}

async function firstContainer(
  connection: {
    readonly get: <T extends KubeObject>(
      type: typeof resources.pods,
      name: string,
      namespace?: string,
    ) => Promise<Result<T>>;
  },
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
  { connections, columns, rows, signal, askHostKey }: OpenOptions,
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
      fix: 'Add a Host entry for the node (with ProxyJump if it is behind a bastion).',
    });
  const connected = await ssh.connect(alias, { askHostKey, signal });
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
      reason: name ? `ended by signal ${name}` : code === null ? 'the connection ended' : `ended with ${code}`,
    })),
    close() {
      close();
      session.close();
    },
  });
}
