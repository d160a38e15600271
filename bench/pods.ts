import { converseInPod, kubectl } from '../lab/client.ts';
import { create } from './lab.ts';

const image = 'fairlead.lab/traffic:1';

/** One measurement as `traffic` prints it. */
export interface Measurement {
  readonly mode: string;
  readonly perSecond: number;
  readonly bitsPerSecond?: number;
  readonly count: number;
  readonly errors: number;
  readonly broken: number;
  readonly opened?: number;
  readonly p50Microseconds?: number;
  readonly p99Microseconds?: number;
  readonly longestGapMilliseconds?: number;
  readonly firstError?: string;
  /** When datagrams began to pass and when they ceased to, as times of day (mode switch). */
  readonly changes?: readonly { readonly passes: boolean; readonly atMilliseconds: number }[];
}

/**
 * Where the two ends run. Across nodes each has a processor of its own, as it has on a machine of its own; on one node the client
 * shares the server's, where the kernel puts a program that another one wakes and waits for. Left to the scheduler both happen
 * by turns, and which one it is decides more of a figure than any network does.
 */
export const processor = { server: 0, client: 1 } as const;

/** What the traffic program serves with. */
const serve = (port = 9000): readonly string[] => [
  'serve',
  '--port',
  String(port),
  '--processor',
  String(processor.server),
];

/**
 * What an end asks for of its node's processors. A pod that asks for nothing has the least share there is, 2 where the agent's
 * has 51, and waits for whoever runs; how long is not the network's doing, and pods that matter do ask.
 */
const share = '500m';

/**
 * A pod of the traffic program on a node; `hostNetwork` leaves it in the node's own network. Those that are only there, by the
 * hundred, ask for no share (`requests`): the kubelet would refuse most of them.
 */
export function pod(
  name: string,
  node: string,
  args: readonly string[],
  labels: Readonly<Record<string, string>>,
  hostNetwork = false,
  requests: Readonly<Record<string, string>> = { cpu: share },
): unknown {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, labels },
    spec: {
      nodeName: node,
      hostNetwork,
      terminationGracePeriodSeconds: 0,
      containers: [{ name: 'traffic', image, imagePullPolicy: 'Never', args, resources: { requests } }],
    },
  };
}

/** A server and a client on node1, a client on node2, a service over the server, and others on node2 that are no clients. */
export async function startPods(others: readonly string[] = []): Promise<void> {
  await create([
    ...others.map((name) => pod(name, 'node2', serve(), { app: name })),
    pod('server', 'node1', serve(), { app: 'server' }),
    pod('near', 'node1', serve(), { app: 'client' }),
    pod('far', 'node2', serve(), { app: 'client' }),
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'measured' },
      spec: { selector: { app: 'server' }, ports: [{ port: 9000, protocol: 'TCP' }] },
    },
  ]);
  const names = ['server', 'near', 'far', ...others].map((name) => `pod/${name}`);
  await kubectl(['wait', '--for=condition=Ready', ...names, '--timeout=120s']);
}

/** A second server on node1, which no policy selects that selects the first. */
export async function startTwin(): Promise<void> {
  await create([pod('twin', 'node1', serve(), { app: 'twin' })]);
  await kubectl(['wait', '--for=condition=Ready', 'pod/twin', '--timeout=120s']);
}

/** The port of the server in its node's own network. */
export const hostPort = 19_100;

/**
 * A server in node1's own network and a client in node2's: what the machine gives without pods' networks. They are pods as
 * the others are, because what the kubelet gives a pod of the processors is part of what is measured.
 */
export async function startHostPods(): Promise<void> {
  const labels = { app: 'host' };
  await create([
    pod('host-server', 'node1', serve(hostPort), labels, true),
    pod('host-far', 'node2', serve(hostPort), labels, true),
  ]);
  await kubectl(['wait', '--for=condition=Ready', 'pod/host-server', 'pod/host-far', '--timeout=120s']);
}

/** Puts default deny on the server and admits the clients on its port. */
export async function governServer(): Promise<void> {
  await create([
    {
      apiVersion: 'cilium.io/v2',
      kind: 'CiliumNetworkPolicy',
      metadata: { name: 'measured', namespace: 'default' },
      spec: {
        endpointSelector: { matchLabels: { app: 'server' } },
        ingress: [
          {
            fromEndpoints: [{ matchLabels: { app: 'client' } }],
            toPorts: [{ ports: [{ port: '9000', protocol: 'TCP' }] }],
          },
        ],
      },
    },
  ]);
}

/** The server pod's address. */
export async function addressOf(name: string): Promise<string> {
  return (await kubectl(['get', 'pod', name, '-o', 'jsonpath={.status.podIP}'])).trim();
}

/** The service's address. */
export async function serviceAddress(): Promise<string> {
  return (await kubectl(['get', 'service', 'measured', '-o', 'jsonpath={.spec.clusterIP}'])).trim();
}

/** Runs a client in a pod, on a processor. */
export async function measureInPod(
  name: string,
  args: readonly string[],
  on: number = processor.client,
): Promise<Measurement> {
  const output = await kubectl(['exec', name, '--', '/traffic', ...args, '--processor', String(on)]);
  return JSON.parse(output) as Measurement;
}

/** The measurement, if nothing in it failed. */
export function good(measurement: Measurement): Measurement {
  if (measurement.errors > 0)
    throw new Error(`a measurement failed ${measurement.errors} times: ${measurement.firstError ?? ''}`);
  return measurement;
}

/** A client that stays in its pod and measures a turn whenever it is asked. */
export interface Client {
  /** One turn; throws if anything in it failed. */
  turn(): Promise<Measurement>;
  end(): Promise<void>;
}

/**
 * Starts a client in a pod, on a processor. What is compared has one each, so that they can take many short turns: a machine
 * that does something else for a second then has it in one turn of many, and no program's start is in any.
 */
export function clientInPod(
  name: string,
  args: readonly string[],
  seconds: number,
  on: number = processor.client,
): Client {
  const bounds = ['--seconds', String(seconds), '--processor', String(on), '--turns'];
  const talk = converseInPod(name, ['/traffic', ...args, ...bounds]);
  return {
    turn: async () => good(JSON.parse(await talk.ask('', seconds + 60)) as Measurement),
    end: () => talk.end(),
  };
}

/** Makes the cluster hold `total` services, each with one endpoint, without pods of their own. */
export async function fillServices(total: number): Promise<void> {
  const address = await addressOf('server');
  const present = (await kubectl(['get', 'services', '-o', 'name']))
    .split('\n')
    .filter((line) => line.includes('/filler-')).length;
  for (let first = present; first < total; first += 250) {
    const objects: unknown[] = [];
    for (let index = first; index < Math.min(total, first + 250); index += 1) {
      const name = `filler-${index}`;
      objects.push({
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name },
        spec: { ports: [{ name: 'a', port: 9000, protocol: 'TCP' }] },
      });
      objects.push({
        apiVersion: 'discovery.k8s.io/v1',
        kind: 'EndpointSlice',
        metadata: { name, labels: { 'kubernetes.io/service-name': name } },
        addressType: 'IPv4',
        ports: [{ name: 'a', port: 9000, protocol: 'TCP' }],
        endpoints: [{ addresses: [address], conditions: { ready: true } }],
      });
    }
    await create(objects);
  }
}
