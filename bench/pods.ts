import { join } from 'node:path';
import { kubectl, lab, on, root, run } from '../lab/client.ts';
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

/** A pod of the traffic program on a node. */
export function pod(
  name: string,
  node: string,
  args: readonly string[],
  labels: Readonly<Record<string, string>>,
): unknown {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, labels },
    spec: {
      nodeName: node,
      terminationGracePeriodSeconds: 0,
      containers: [{ name: 'traffic', image, imagePullPolicy: 'Never', args }],
    },
  };
}

/** A server and a client on node1, a client on node2, a service over the server, and others on node2 that are no clients. */
export async function startPods(others: readonly string[] = []): Promise<void> {
  await create([
    ...others.map((name) => pod(name, 'node2', ['serve', '--port', '9000'], { app: name })),
    pod('server', 'node1', ['serve', '--port', '9000'], { app: 'server' }),
    pod('near', 'node1', ['serve', '--port', '9000'], { app: 'client' }),
    pod('far', 'node2', ['serve', '--port', '9000'], { app: 'client' }),
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

/** Runs a client in a pod. */
export async function measureInPod(name: string, args: readonly string[]): Promise<Measurement> {
  const output = await kubectl(['exec', name, '--', '/traffic', ...args]);
  return JSON.parse(output) as Measurement;
}

/** Runs server and client in the nodes' own network: what the machine gives without any pod. */
export async function measureBetweenHosts(
  args: readonly string[],
  port: number,
  seconds: number,
): Promise<Measurement> {
  const binary = (await lab(['traffic'])).trim();
  const life = String(seconds + 5);
  const server = run(join(root, 'lab/lab'), [
    'exec',
    'node1',
    '--',
    'timeout',
    life,
    binary,
    'serve',
    '--port',
    String(port),
  ]);
  await on('node1', ['timeout', '10', 'sh', '-c', `until ss -ltn | grep -q ':${port} '; do :; done`]);
  const output = await on('node2', [binary, ...args]);
  await server;
  return JSON.parse(output) as Measurement;
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
