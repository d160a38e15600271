/** Rows that need no cluster: Go benchmarks of the datapath between network namespaces. */
import { join } from 'node:path';
import { must, root } from '../lab/client.ts';
import { absolute, median, type Row, ratio } from './report.ts';

/** Runs one Go benchmark and gives the medians of its metrics. */
async function goBenchmark(name: string, count: number, times = '3x'): Promise<Map<string, number>> {
  const output = await must(
    'sh',
    [
      '-c',
      `cd "$1" && go test ./internal/datapath -run - -bench "^$2\\$" -benchtime "$3" -count "$4"`,
      ...['sh', join(root, 'node-agent'), name, times, String(count)],
    ],
    { seconds: 900 },
  );
  const found = new Map<string, number[]>();
  for (const line of output.split('\n')) {
    if (!line.startsWith(name)) continue;
    for (const [, value, unit] of line.matchAll(/\s([\d.e+-]+) (\S+)/g)) {
      if (unit === undefined) continue;
      found.set(unit, [...(found.get(unit) ?? []), Number(value)]);
    }
  }
  if (found.size === 0) throw new Error(`${name} printed no figures: ${output.slice(-800)}`);
  return new Map([...found].map(([unit, values]) => [unit, median(values)]));
}

/** Drops by the prefilter, by a bare XDP_DROP and by iptables' raw table, turn by turn on one cable. */
export async function prefilter(quick: boolean): Promise<Row[]> {
  const figures = await goBenchmark('BenchmarkPrefilter', quick ? 1 : 3, '20x');
  const get = (name: string): number => figures.get(name) ?? Number.NaN;
  const ours = get('packets/s/prefilter-1');
  const net =
    `beyond generator and cable (${(1e9 / get('packets/s/bare')).toFixed(0)} ns for each packet), which are the same for all, ` +
    `a packet costs ${get('ns-more-than-bare/prefilter').toFixed(0)} ns here and ${get('ns-more-than-bare/iptables').toFixed(0)} ns there`;
  return [
    ratio('XDP prefilter, packets dropped', ours, get('packets/s/bare'), 'bare XDP_DROP', 0.9),
    ratio('XDP prefilter, packets dropped', ours, get('packets/s/iptables-raw'), 'iptables raw DROP', 5, net),
    ratio('XDP prefilter with 10,000 networks', get('packets/s/prefilter-10000'), ours, 'own with 1'),
  ];
}

/** Clients' packets sent on to a backend of another node, by XDP and by tc, turn by turn on two cables. */
export async function nodePort(quick: boolean): Promise<Row[]> {
  const figures = await goBenchmark('BenchmarkNodePort', quick ? 1 : 3, '10x');
  const get = (name: string): number => figures.get(name) ?? Number.NaN;
  const parts =
    `a packet takes ${get('ns/xdp').toFixed(0)} ns by XDP and ${get('ns/tc').toFixed(0)} ns by tc, of which the program ` +
    `${get('program-ns/xdp').toFixed(0)} and ${get('program-ns/tc').toFixed(0)}, the generator ${get('generator-ns').toFixed(0)}`;
  return [ratio('NodePort, packets sent on by XDP', get('packets/s/xdp'), get('packets/s/tc'), 'by tc', 1.2, parts)];
}

/** Events of real packets, from the kernel's ring to the agent's flows, with an exact count of what was lost. */
export async function events(quick: boolean): Promise<Row[]> {
  const figures = await goBenchmark('BenchmarkEvents', quick ? 1 : 5, '1x');
  const rate = figures.get('events/s') ?? Number.NaN;
  return [absolute('flow events without unaccounted loss', rate, 'per second', 100_000, 'least')];
}
