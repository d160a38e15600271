import { kubectl, on } from '../../lab/client.ts';

/** Names of the lab's nodes. */
export const nodes = ['node1', 'node2', 'node3'] as const;

const trafficImage = 'fairlead.lab/traffic:1';

/** What the traffic client prints; see bench/traffic. */
export interface Traffic {
  readonly count: number;
  readonly perSecond: number;
  readonly errors: number;
  readonly broken: number;
  readonly opened?: number;
  readonly longestGapMilliseconds?: number;
  readonly firstError?: string;
  /** Of the mode switch: when datagrams ceased to pass, and passed again. */
  readonly changes?: readonly { readonly passes: boolean; readonly atMilliseconds: number }[];
}

/** A pod of one container on a node. */
function podOf(
  metadata: Readonly<Record<string, unknown>>,
  node: string,
  container: Readonly<Record<string, unknown>>,
): unknown {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata,
    spec: {
      nodeName: node,
      terminationGracePeriodSeconds: 0,
      containers: [{ imagePullPolicy: 'Never', ...container }],
    },
  };
}

/** A pod that runs the traffic server (port 9000) and can be a client through exec. */
export function trafficPod(
  name: string,
  node: string,
  labels: Readonly<Record<string, string>>,
  namespace = 'default',
): unknown {
  const args = ['serve', '--port', '9000'];
  return podOf({ name, namespace, labels }, node, { name: 'traffic', image: trafficImage, args });
}

/** A pod with ping, curl, nslookup, nc, tcpdump and ip. */
export function toolPod(
  name: string,
  node: string,
  labels: Readonly<Record<string, string>>,
  namespace = 'default',
): unknown {
  const command = ['sleep', '100000'];
  return podOf({ name, namespace, labels }, node, { name: 'tools', image: 'fairlead.lab/netshoot:1', command });
}

/** Waits until pods are Ready. */
export async function ready(names: readonly string[], namespace = 'default', seconds = 60): Promise<void> {
  await kubectl([
    '-n',
    namespace,
    'wait',
    '--for=condition=Ready',
    ...names.map((name) => `pod/${name}`),
    `--timeout=${seconds}s`,
  ]);
}

/** Runs a command in a pod. */
export function inPod(name: string, command: readonly string[], namespace = 'default'): Promise<string> {
  return kubectl(['-n', namespace, 'exec', name, '--', ...command]);
}

/** Runs the traffic client in a pod. */
export async function traffic(name: string, args: readonly string[], namespace = 'default'): Promise<Traffic> {
  return JSON.parse(await inPod(name, ['/traffic', ...args], namespace)) as Traffic;
}

/** Address of a pod. */
export async function podAddress(name: string, namespace = 'default'): Promise<string> {
  return (await kubectl(['-n', namespace, 'get', 'pod', name, '-o', 'jsonpath={.status.podIP}'])).trim();
}

/** The agent's command line on a node, as JSON. */
export async function agentJSON<T>(node: string, args: readonly string[]): Promise<T> {
  return JSON.parse(await agent(node, [...args, '-o', 'json'])) as T;
}

/** The agent's command line on a node, run in its own pod. */
export async function agent(node: string, args: readonly string[]): Promise<string> {
  return kubectl(['-n', 'kube-system', 'exec', await agentPod(node), '--', '/fairlead-agent', ...args]);
}

/** What a JSONPath says of the agents' pods, of all or of those that further arguments select. */
export function agentPods(path: string, ...selection: readonly string[]): Promise<string> {
  const agents = ['-n', 'kube-system', 'get', 'pods', '-l', 'app.kubernetes.io/name=fairlead-agent'];
  return kubectl([...agents, ...selection, '-o', `jsonpath=${path}`]);
}

/** Name of the agent's pod on a node. */
export async function agentPod(node: string): Promise<string> {
  const name = await agentPods('{.items[0].metadata.name}', '--field-selector', `spec.nodeName=${node}`);
  if (name.trim() === '') throw new Error(`no agent pod on ${node}`);
  return name.trim();
}

/** Process id of the agent on a node, as the node sees it. */
export async function agentProcess(node: string): Promise<number> {
  return Number((await on(node, ['pgrep', '-o', '-x', 'fairlead-agent'])).trim());
}
