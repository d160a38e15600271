/** Rows of services: new connections to a ClusterIP by their number, against kube-proxy in both modes. */
import { kubectl } from '../lab/client.ts';
import { type Network, up } from './lab.ts';
import { type Effort, rateInPod } from './measure.ts';
import { fillServices, measureInPod, serviceAddress, startPods } from './pods.ts';
import { median, type Row, ratio } from './report.ts';

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

/** New connections per second by the number of services in the cluster. */
async function measure(
  network: Network,
  totals: readonly number[],
  { seconds, repeats }: Effort,
): Promise<Map<number, number>> {
  await up(network);
  await startPods();
  const service = `${await serviceAddress()}:9000`;
  const rates = new Map<number, number>();
  for (const total of totals) {
    await fillServices(total);
    await settled(service);
    const values: number[] = [];
    for (let round = 0; round < repeats; round += 1) values.push(await rateInPod('far', 'crr', service, seconds));
    rates.set(total, median(values));
  }
  process.stderr.write(`${JSON.stringify(Object.fromEntries(rates))}\n`);
  return rates;
}

/** Measures and compares. */
export async function services(effort: Effort): Promise<Row[]> {
  const totals = effort.quick ? [10, 1000] : [10, 1000, 10_000];
  const few = totals[0] ?? 0;
  const many = totals.at(-1) ?? 0;
  const iptables = await measure('kube-proxy-iptables', totals, effort);
  const nftables = await measure('kube-proxy-nftables', totals, effort);
  const ours = await measure('fairlead-native', totals, effort);
  const of = (rates: ReadonlyMap<number, number>, total: number): number => rates.get(total) ?? Number.NaN;
  return [
    ...totals.flatMap((total) => [
      ratio(
        `new connections to a ClusterIP, ${total} services`,
        of(ours, total),
        of(iptables, total),
        'kube-proxy iptables',
        total === few ? 1.05 : total === 10_000 ? 2 : undefined,
      ),
      ratio(
        `new connections to a ClusterIP, ${total} services`,
        of(ours, total),
        of(nftables, total),
        'kube-proxy nftables',
        total === 10_000 ? 1.05 : undefined,
      ),
    ]),
    ratio(`new connections, ${many} services`, of(ours, many), of(ours, few), `own with ${few}`, 0.97),
  ];
}
