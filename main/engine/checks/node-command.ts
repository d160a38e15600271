import { createReadStream, existsSync } from 'node:fs';
import { failed, ok, type Result } from '../../../contract/failure.ts';
import type { Values } from '../../../contract/index.ts';
import type { NodeFacts } from '../install/facts.ts';
import type { ImageArchive } from '../install/image.ts';
import { nodeHasImage } from '../install/image.ts';
import { probePodSpec } from '../install/manifests.ts';
import { agentNamespace, agentSelector } from '../install/names.ts';
import { type ClusterConnection, type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { SshConnector } from '../ssh/ssh-connector.ts';
import { execute } from './execute.ts';
import { runNodeJob } from './node-job.ts';

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
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
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

/** Runs `fairlead-agent ARGUMENTS` in the agent of a node; its standard output. */
export async function inAgent(
  connection: ClusterConnection,
  node: string,
  args: readonly string[],
  signal: AbortSignal,
): Promise<Result<string>> {
  const pod = await agentPod(connection, node);
  if (!pod)
    return failed({
      code: 'node.no-agent',
      what: `${node} cannot be asked.`,
      why: 'No agent is ready there.',
      fix: `Look at kubectl -n ${agentNamespace} get pods -l ${agentSelector} -o wide.`,
    });
  const target = { namespace: agentNamespace, pod, container: 'agent', command: ['/fairlead-agent', ...args] };
  const ran = await execute(connection, target, { signal, seconds: 20 });
  if (!ran.ok) return ran;
  // A check that failed makes the command end with 1; its output is there all the same.
  if (ran.value.stdout !== '') return ok(ran.value.stdout);
  return failed(commandFailed(node, 'in its agent’s pod', ran.value.stderr));
}

/** Runs `fairlead-agent ARGUMENTS` on a node by the first way there is: its agent, SSH, a short-lived pod. */
export async function onNode(
  commands: NodeCommands,
  machine: NodeFacts,
  args: readonly string[],
  signal: AbortSignal,
): Promise<Result<{ readonly way: Way; readonly stdout: string }>> {
  const asked = await inAgent(commands.connection, machine.name, args, signal);
  if (asked.ok) return ok({ way: 'agent', stdout: asked.value });
  if (asked.failure.code !== 'node.no-agent') return asked;
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
  const podSpec = probePodSpec(values, image?.reference ?? '', args);
  const ran = await runNodeJob(connection, { purpose: 'preflight', node: machine.name, podSpec, seconds: 60 }, signal);
  if (!ran.ok) return ran;
  const { output } = ran.value;
  return output === '' ? failed(commandFailed(machine.name, 'by a pod', '')) : ok({ way: 'pod', stdout: output });
}
