import { createReadStream, existsSync } from 'node:fs';
import { failed, ok, type Result } from '../../../contract/failure.ts';
import type { Values } from '../../../contract/index.ts';
import type { NodeFacts } from '../install/facts.ts';
import type { ImageArchive } from '../install/image.ts';
import { nodeHasImage } from '../install/image.ts';
import { renderProbePod } from '../install/manifests.ts';
import { agentNamespace, agentSelector, probeSelector } from '../install/names.ts';
import { waitFor } from '../install/wait.ts';
import { type ClusterConnection, type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { SshConnector } from '../ssh/ssh-connector.ts';
import { execute } from './execute.ts';

/** How a node was asked. */
export type Way = 'agent' | 'ssh' | 'pod';

/** Everything by which the agent's command line can be run on a node. */
export interface NodeCommands {
  readonly connection: ClusterConnection;
  readonly ssh: SshConnector;
  /** The agent's binary on the console's machine; undefined when none was built. */
  readonly binary: string | undefined;
  readonly image: ImageArchive | undefined;
  readonly values: Values;
  /** Why no pod may be made; undefined when it may. */
  readonly refused: string | undefined;
}

interface Pod extends KubeObject {
  readonly spec?: { readonly nodeName?: string };
  readonly status?: {
    readonly phase?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly containerStatuses?: readonly { readonly state?: { readonly waiting?: { readonly reason?: string } } }[];
  };
}

/** Name of the ready agent pod of a node, if it has one. */
async function agentPod(connection: ClusterConnection, node: string): Promise<string | undefined> {
  const pods = await connection.list<Pod>(resources.pods, { namespace: agentNamespace, labelSelector: agentSelector });
  if (!pods.ok) return undefined;
  return pods.value.find(
    (pod) =>
      pod.spec?.nodeName === node &&
      !pod.metadata.deletionTimestamp &&
      pod.status?.conditions?.some((one) => one.type === 'Ready' && one.status === 'True'),
  )?.metadata.name;
}

/** Runs `fairlead-agent ARGUMENTS` on a node by the first way there is: its agent, SSH, a short-lived pod. */
export async function onNode(
  commands: NodeCommands,
  machine: NodeFacts,
  args: readonly string[],
  signal: AbortSignal,
): Promise<Result<{ readonly way: Way; readonly stdout: string }>> {
  const pod = await agentPod(commands.connection, machine.name);
  if (pod) {
    const target = { namespace: agentNamespace, pod, container: 'agent', command: ['/fairlead-agent', ...args] };
    const ran = await execute(commands.connection, target, { signal, seconds: 20 });
    if (!ran.ok) return ran;
    // A check that failed makes the command end with 1; its output is there all the same.
    if (ran.value.stdout !== '') return ok({ way: 'agent', stdout: ran.value.stdout });
    return failed(commandFailed(machine.name, 'in its agent’s pod', ran.value.stderr));
  }
  if (machine.ssh && commands.binary && existsSync(commands.binary)) return overSsh(commands, machine, args, signal);
  if (commands.image && nodeHasImage(machine.images, commands.image)) return inPod(commands, machine, args, signal);
  return failed({
    code: 'node.no-way',
    what: `${machine.name} cannot be asked.`,
    why: `No agent is ready there, the SSH configuration names no way to it${commands.binary ? '' : ' (and no agent was built on this machine)'}, and the node does not hold the agent’s image for a pod.`,
    fix: `Add a Host for ${machine.name} (${machine.address}) to your SSH configuration.`,
  });
}

function commandFailed(node: string, where: string, why: string) {
  return {
    code: 'node.command',
    what: `${node} was asked ${where}, but gave no answer.`,
    why: why.trim().slice(0, 600) || 'The command printed nothing.',
    fix: 'Upgrade the agent if it does not know the question yet; otherwise run the command on the node by hand.',
  };
}

/** The binary goes to the node through the command's own input, is run, and is removed again whatever happens. */
async function overSsh(
  { ssh, binary = '' }: NodeCommands,
  machine: NodeFacts,
  args: readonly string[],
  signal: AbortSignal,
): ReturnType<typeof onNode> {
  const connected = await ssh.connect(machine.ssh ?? machine.name, { signal });
  if (!connected.ok) return connected;
  const session = connected.value;
  try {
    const quoted = args.map((argument) => `'${argument.replaceAll("'", "'\\''")}'`).join(' ');
    const script = [
      'umask 077; d=$(mktemp -d) || exit 3; trap \'rm -rf "$d"\' EXIT',
      'cat >"$d/fairlead-agent" && chmod 700 "$d/fairlead-agent" || exit 3',
      'if [ "$(id -u)" = 0 ]; then s=; elif sudo -n true 2>/dev/null; then s="sudo -n"; else s=; fi',
      `$s "$d/fairlead-agent" ${quoted}`,
    ].join('; ');
    const file = createReadStream(binary, { highWaterMark: 1 << 18 });
    file.pause();
    const ran = await session.run(script, { input: file, signal });
    if (!ran.ok) return ran;
    const stdout = ran.value.stdout.toString('utf8');
    return stdout === ''
      ? failed(commandFailed(machine.name, 'over SSH', ran.value.stderr))
      : ok({ way: 'ssh', stdout });
  } finally {
    session.close();
  }
}

async function inPod(
  { connection, image, values, refused }: NodeCommands,
  machine: NodeFacts,
  args: readonly string[],
  signal: AbortSignal,
): ReturnType<typeof onNode> {
  if (refused !== undefined)
    return failed({
      code: 'node.no-pod',
      what: `${machine.name} cannot be asked.`,
      why: `Only a pod could ask it, and none may be made: ${refused}`,
      fix: 'Unlock the cluster, or name a way over SSH.',
    });
  const { type, object } = renderProbePod(values, image?.reference ?? '', machine.name, args);
  const { name } = object.metadata;
  using pods = connection.watch<Pod>(resources.pods, { namespace: agentNamespace, labelSelector: probeSelector });
  const before = await connection.remove(type, name, agentNamespace);
  if (before.ok)
    await waitFor(
      [pods],
      signal,
      20,
      () => (find(pods, name) ? undefined : ok(true)),
      () => commandFailed(machine.name, 'by a pod', 'An earlier pod does not go away.'),
    );
  const created = await connection.create<Pod>(type, object);
  if (!created.ok) return created;
  try {
    const ended = await waitFor(
      [pods],
      signal,
      60,
      () => (['Succeeded', 'Failed'].includes(find(pods, name)?.status?.phase ?? '') ? ok(true) : undefined),
      () =>
        commandFailed(
          machine.name,
          'by a pod',
          `The pod did not end within a minute: ${find(pods, name)?.status?.containerStatuses?.[0]?.state?.waiting?.reason ?? find(pods, name)?.status?.phase ?? 'not seen'}.`,
        ),
    );
    if (!ended.ok) return ended;
    const log = await connection.raw(`/api/v1/namespaces/${agentNamespace}/pods/${name}/log`);
    if (!log.ok) return log;
    const stdout = typeof log.value === 'string' ? log.value : JSON.stringify(log.value);
    return stdout === '' ? failed(commandFailed(machine.name, 'by a pod', '')) : ok({ way: 'pod', stdout });
  } finally {
    await connection.remove(type, name, agentNamespace);
  }
}

function find(pods: { readonly items: () => ReadonlyMap<string, Pod> }, name: string): Pod | undefined {
  return [...pods.items().values()].find((pod) => pod.metadata.name === name);
}
