/** Rows of services: new connections to a ClusterIP by their number, against kube-proxy in both modes. */
import { kubectl } from '../lab/client.ts';
import { type Clusters, sideBySide } from './lab.ts';
import { type Effort, takeTurns, trips, turn } from './measure.ts';
import { type Client, clientInPod, fillServices, measureInPod, serviceAddress, startPods } from './pods.ts';
import { paired, type Row } from './report.ts';

/** Waits until the newest filler service answers, so that nothing is measured while the proxy still writes its rules. */
async function settled(service: string): Promise<void> {
  const listing = await kubectl([
    ...['get', 'services', '--sort-by=.metadata.creationTimestamp'],
    ...['-o', 'jsonpath={range .items[*]}{.spec.clusterIP}{"\\n"}{end}'],
  ]);
  const newest = listing.trim().split('\n').at(-1);
  for (const target of [service, ...(newest === undefined || newest === 'None' ? [] : [`${newest}:9000`])]) {
    const end = Date.now() + 600_000;
    for (;;) {
      const probe = await measureInPod('far', ['crr', '--to', target, '--seconds', '0.2']);
      if (probe.count > 0 && probe.errors === 0) break;
      if (Date.now() > end) throw new Error(`service ${target} does not answer within 600 s`);
    }
  }
}

/** New connections per second, by network and number of services, in turns. */
type Rates = Map<string, readonly number[]>;

/** Ours twice: the one stays at few services while the other gets many. */
const networks = {
  iptables: 'kube-proxy-iptables',
  nftables: 'kube-proxy-nftables',
  ours: 'fairlead-native',
  few: 'fairlead-native',
} as const;
type Measured = keyof typeof networks;
const names = Object.keys(networks) as Measured[];

async function measure(clusters: Clusters<Measured>, totals: readonly number[], { turns }: Effort): Promise<Rates> {
  const rates: Rates = new Map();
  for (const total of totals) {
    for (const name of names)
      await clusters.within(name, async () => {
        await fillServices(name === 'few' ? (totals[0] ?? 0) : total);
        await settled(`${await serviceAddress()}:9000`);
      });
    const clients = new Map<Measured, Client>();
    for (const name of names)
      await clusters.within(name, async () => {
        clients.set(name, clientInPod('far', ['crr', '--to', `${await serviceAddress()}:9000`], turn));
      });
    for (const [name, measurements] of await takeTurns(clients, turns))
      rates.set(`${name} ${total}`, measurements.map(trips));
  }
  process.stderr.write(`${JSON.stringify(Object.fromEntries(rates))}\n`);
  return rates;
}

/** Measures and compares. */
export async function services(effort: Effort): Promise<Row[]> {
  const totals = effort.quick ? [10, 1000] : [10, 1000, 10_000];
  const few = totals[0] ?? 0;
  const many = totals.at(-1) ?? 0;
  const rates = await sideBySide(
    networks,
    () => startPods(),
    (clusters) => measure(clusters, totals, effort),
  );
  const of = (name: Measured, total: number): readonly number[] => rates.get(`${name} ${total}`) ?? [];
  const against = (total: number, mode: 'iptables' | 'nftables', budget?: number): Row =>
    paired(
      `new connections to a ClusterIP, ${total} services`,
      of('ours', total),
      of(mode, total),
      `kube-proxy ${mode}`,
      budget,
    );
  return [
    ...totals.flatMap((total) => [
      against(total, 'iptables', total === few ? 1.05 : total === 10_000 ? 2 : undefined),
      against(total, 'nftables', total === 10_000 ? 1.05 : undefined),
    ]),
    paired(`new connections, ${many} services`, of('ours', many), of('few', many), `own with ${few}`, 0.97),
  ];
}
