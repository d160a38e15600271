/** Rows of pods' traffic: one node and across nodes, tunnel and native, against the bridge CNI and the hosts themselves. */
import { type Clusters, sideBySide } from './lab.ts';
import { bits, type Effort, takeTurns, trips, turn } from './measure.ts';
import {
  addressOf,
  type Client,
  clientInPod,
  governServer,
  hostPort,
  processor,
  startHostPods,
  startPods,
} from './pods.ts';
import { paired, type Row } from './report.ts';

/** The bridge alone, and with what a cluster that has one needs beside it for services. */
const networks = ['bridge', 'kube-proxy-iptables', 'fairlead-tunnel', 'fairlead-native'] as const;
type Measured = (typeof networks)[number];

/** What is measured of each network, and the client's processor; rates per second, throughput in bits per second. */
const figures = {
  nearRoundTrips: { pod: 'near', mode: 'rr', value: trips, on: processor.server },
  nearThroughput: { pod: 'near', mode: 'stream', value: bits, on: processor.client },
  farRoundTrips: { pod: 'far', mode: 'rr', value: trips, on: processor.client },
  farThroughput: { pod: 'far', mode: 'stream', value: bits, on: processor.client },
  farNewConnections: { pod: 'far', mode: 'crr', value: trips, on: processor.client },
} as const;
type Figure = keyof typeof figures;

/** The same between the nodes themselves, beside those of the pods. */
const betweenHosts: readonly Figure[] = ['farRoundTrips', 'farNewConnections'];

/** The turns' values, by network (or the hosts of one) and figure. */
type Series = Map<string, readonly number[]>;

async function measure(clusters: Clusters<Measured>, { turns }: Effort): Promise<Series> {
  const series: Series = new Map();
  for (const figure of Object.keys(figures) as Figure[]) {
    const { pod, mode, value, on } = figures[figure];
    const clients = new Map<string, Client>();
    for (const network of networks)
      await clusters.within(network, async () => {
        clients.set(network, clientInPod(pod, [mode, '--to', `${await addressOf('server')}:9000`], turn, on));
        if (network === 'fairlead-native' && betweenHosts.includes(figure)) {
          const to = `${await addressOf('host-server')}:${hostPort}`;
          clients.set('hosts', clientInPod('host-far', [mode, '--to', to], turn, on));
        }
      });
    for (const [who, measurements] of await takeTurns(clients, turns))
      series.set(`${who} ${figure}`, measurements.map(value));
  }
  process.stderr.write(`${JSON.stringify(Object.fromEntries(series))}\n`);
  return series;
}

/** Measures and compares. Ours is measured with a policy on the server; the baselines have none. */
export async function paths(effort: Effort): Promise<Row[]> {
  const series = await sideBySide(
    Object.fromEntries(networks.map((network) => [network, network])) as Record<Measured, Measured>,
    async (network) => {
      await startPods();
      if (network === 'fairlead-native') await startHostPods();
      if (network.startsWith('fairlead')) await governServer();
    },
    (clusters) => measure(clusters, effort),
  );
  const of = (who: string, figure: Figure): readonly number[] => series.get(`${who} ${figure}`) ?? [];
  const [bridge, proxied, tunnel, native] = networks;
  const row = (what: string, figure: Figure, who: Measured, than: string, against: string, budget?: number): Row =>
    paired(what, of(who, figure), of(than, figure), against, budget);
  return [
    row('one node, round trips (tunnel mode)', 'nearRoundTrips', tunnel, bridge, 'bridge CNI', 1.1),
    row('one node, round trips (native mode)', 'nearRoundTrips', native, bridge, 'bridge CNI', 1.1),
    row('one node, throughput (native mode)', 'nearThroughput', native, bridge, 'bridge CNI', 1.1),
    row('one node, round trips (native mode)', 'nearRoundTrips', native, proxied, 'bridge CNI and kube-proxy', 1.1),
    row('one node, throughput (native mode)', 'nearThroughput', native, proxied, 'bridge CNI and kube-proxy', 1.1),
    row('across nodes, native, round trips', 'farRoundTrips', native, bridge, 'bridge CNI', 1),
    row('across nodes, native, throughput', 'farThroughput', native, bridge, 'bridge CNI', 1),
    row('across nodes, native, new connections', 'farNewConnections', native, proxied, 'bridge CNI and kube-proxy', 1),
    row('across nodes, native, round trips', 'farRoundTrips', native, 'hosts', 'host to host', 0.95),
    row('across nodes, native, new connections', 'farNewConnections', native, 'hosts', 'host to host', 0.95),
    row('across nodes, VXLAN, round trips', 'farRoundTrips', tunnel, native, 'own native', 0.9),
    row('across nodes, VXLAN, throughput', 'farThroughput', tunnel, bridge, 'bridge CNI (no tunnel)'),
  ];
}
