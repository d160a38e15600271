/** Rows of pods' traffic: one node and across nodes, tunnel and native, against the bridge CNI and the hosts themselves. */
import { type Network, up } from './lab.ts';
import { bits, type Effort, repeated, trips } from './measure.ts';
import { addressOf, governServer, measureBetweenHosts, measureInPod, startPods } from './pods.ts';
import { type Row, ratio } from './report.ts';

/** What one network gave; rates per second, throughput in bits per second. */
interface Figures {
  readonly hostRoundTrips: number;
  readonly hostNewConnections: number;
  readonly nearRoundTrips: number;
  readonly nearThroughput: number;
  readonly farRoundTrips: number;
  readonly farThroughput: number;
  readonly farNewConnections: number;
}

async function measure(network: Network, { seconds, repeats }: Effort): Promise<Figures> {
  await up(network);
  await startPods();
  // Ours is measured with a policy on the server; the baselines have none.
  if (network.startsWith('fairlead')) await governServer();
  const server = `${await addressOf('server')}:9000`;
  const client = (mode: string, to: string): string[] => [mode, '--to', to, '--seconds', String(seconds)];
  const host = (mode: string, port: number): Promise<number> =>
    repeated(repeats, () => measureBetweenHosts(client(mode, `172.31.77.11:${port}`), port, seconds), trips);
  const pod = (name: string, mode: string, value = trips): Promise<number> =>
    repeated(repeats, () => measureInPod(name, client(mode, server)), value);
  const figures = {
    hostRoundTrips: await host('rr', 19100),
    farRoundTrips: await pod('far', 'rr'),
    hostNewConnections: await host('crr', 19101),
    farNewConnections: await pod('far', 'crr'),
    nearRoundTrips: await pod('near', 'rr'),
    nearThroughput: await pod('near', 'stream', bits),
    farThroughput: await pod('far', 'stream', bits),
  };
  process.stderr.write(`${JSON.stringify(figures)}\n`);
  return figures;
}

/** Measures and compares. */
export async function paths(effort: Effort): Promise<Row[]> {
  const bridge = await measure('bridge', effort);
  const tunnel = await measure('fairlead-tunnel', effort);
  const native = await measure('fairlead-native', effort);
  return [
    ratio('one node, round trips (tunnel mode)', tunnel.nearRoundTrips, bridge.nearRoundTrips, 'bridge CNI', 1.1),
    ratio('one node, round trips (native mode)', native.nearRoundTrips, bridge.nearRoundTrips, 'bridge CNI', 1.1),
    ratio('one node, throughput (native mode)', native.nearThroughput, bridge.nearThroughput, 'bridge CNI', 1.1),
    ratio('across nodes, native, round trips', native.farRoundTrips, bridge.farRoundTrips, 'bridge CNI', 1),
    ratio('across nodes, native, throughput', native.farThroughput, bridge.farThroughput, 'bridge CNI', 1),
    ratio('across nodes, native, round trips', native.farRoundTrips, native.hostRoundTrips, 'host to host', 0.95),
    ratio(
      'across nodes, native, new connections',
      native.farNewConnections,
      native.hostNewConnections,
      'host to host',
      0.95,
    ),
    ratio('across nodes, VXLAN, round trips', tunnel.farRoundTrips, native.farRoundTrips, 'own native', 0.9),
    ratio('across nodes, VXLAN, throughput', tunnel.farThroughput, bridge.farThroughput, 'bridge CNI (no tunnel)'),
  ];
}
