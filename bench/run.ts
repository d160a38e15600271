/**
 * Measures the datapath against the bridge CNI and kube-proxy, all in one run on one machine, and keeps ratios: absolute
 * figures belong to the machine, ratios to the software. `npm run bench -- --quick` makes every measurement shorter.
 */
import { mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { lab, must, root } from '../lab/client.ts';
import { agentFacts } from './agent.ts';
import { type Network, up } from './lab.ts';
import {
  addressOf,
  fillServices,
  governServer,
  type Measurement,
  measureBetweenHosts,
  measureInPod,
  serviceAddress,
  startPods,
} from './pods.ts';
import { median, type Row, table } from './report.ts';

const quick = process.argv.includes('--quick');
const seconds = quick ? 2 : 5;
const repeats = quick ? 1 : 3;

/** What one network gave; rates per second, throughput in bits per second. */
interface Figures {
  readonly hostRoundTrips: number;
  readonly nearRoundTrips: number;
  readonly nearThroughput: number;
  readonly farRoundTrips: number;
  readonly farThroughput: number;
  readonly farNewConnections: number;
  readonly hostNewConnections: number;
  /** New connections to a ClusterIP by the number of services in the cluster. */
  readonly serviceConnections: ReadonlyMap<number, number>;
}

async function repeated(take: () => Promise<Measurement>, value: (m: Measurement) => number): Promise<number> {
  const values: number[] = [];
  for (let round = 0; round < repeats; round += 1) {
    const measurement = await take();
    if (measurement.errors > 0)
      throw new Error(`a measurement failed ${measurement.errors} times: ${measurement.firstError ?? ''}`);
    values.push(value(measurement));
  }
  return median(values);
}

const trips = (m: Measurement): number => m.perSecond;
const bits = (m: Measurement): number => m.bitsPerSecond ?? 0;

async function measure(network: Network, services: readonly number[]): Promise<Figures> {
  process.stderr.write(`\n== ${network}\n`);
  await up(network);
  await startPods();
  // Ours is measured with a policy on the server; the baselines have none.
  if (network.startsWith('fairlead')) await governServer();
  const server = `${await addressOf('server')}:9000`;
  const client = (mode: string, to: string): string[] => [mode, '--to', to, '--seconds', String(seconds)];
  const host = (mode: string, port: number): Promise<number> =>
    repeated(() => measureBetweenHosts(client(mode, `172.31.77.11:${port}`), port, seconds), trips);
  const figures = {
    hostRoundTrips: await host('rr', 19100),
    hostNewConnections: await host('crr', 19101),
    nearRoundTrips: await repeated(() => measureInPod('near', client('rr', server)), trips),
    nearThroughput: await repeated(() => measureInPod('near', client('stream', server)), bits),
    farRoundTrips: await repeated(() => measureInPod('far', client('rr', server)), trips),
    farThroughput: await repeated(() => measureInPod('far', client('stream', server)), bits),
    farNewConnections: await repeated(() => measureInPod('far', client('crr', server)), trips),
  };
  const serviceConnections = new Map<number, number>();
  const service = `${await serviceAddress()}:9000`;
  for (const total of services) {
    await fillServices(total);
    await settled(service);
    serviceConnections.set(total, await repeated(() => measureInPod('far', client('crr', service)), trips));
  }
  process.stderr.write(
    `${JSON.stringify({ ...figures, serviceConnections: Object.fromEntries(serviceConnections) })}\n`,
  );
  return { ...figures, serviceConnections };
}

/** Waits until the newest filler service answers, so that nothing is measured while the proxy still writes its rules. */
async function settled(service: string): Promise<void> {
  const names = (
    await lab([
      'kubectl',
      'get',
      'services',
      '-o',
      'jsonpath={range .items[*]}{.spec.clusterIP}{"\\n"}{end}',
      '--sort-by=.metadata.creationTimestamp',
    ])
  )
    .trim()
    .split('\n');
  const newest = names.at(-1);
  for (const target of [service, ...(newest === undefined || newest === 'None' ? [] : [`${newest}:9000`])]) {
    const end = Date.now() + 180_000;
    for (;;) {
      const probe = await measureInPod('far', ['crr', '--to', target, '--seconds', '0.2']);
      if (probe.count > 0 && probe.errors === 0) break;
      if (Date.now() > end) throw new Error(`service ${target} does not answer within 180 s`);
    }
  }
}

function rowsFor(
  bridge: Figures,
  proxy: Figures,
  tunnel: Figures,
  native: Figures,
  services: readonly number[],
): Row[] {
  const rows: Row[] = [];
  const add = (what: string, value: number, baseline: number, against: string, budget?: number): void => {
    rows.push({ what, value, baseline, against, ratio: value / baseline, ...(budget === undefined ? {} : { budget }) });
  };
  add('one node, round trips (tunnel mode)', tunnel.nearRoundTrips, bridge.nearRoundTrips, 'bridge CNI', 1.1);
  add('one node, round trips (native mode)', native.nearRoundTrips, bridge.nearRoundTrips, 'bridge CNI', 1.1);
  add('one node, throughput (native mode)', native.nearThroughput, bridge.nearThroughput, 'bridge CNI', 1.1);
  add('across nodes, native, round trips', native.farRoundTrips, bridge.farRoundTrips, 'bridge CNI', 1);
  add('across nodes, native, throughput', native.farThroughput, bridge.farThroughput, 'bridge CNI', 1);
  add('across nodes, native, round trips', native.farRoundTrips, native.hostRoundTrips, 'host to host', 0.95);
  add(
    'across nodes, native, new connections',
    native.farNewConnections,
    native.hostNewConnections,
    'host to host',
    0.95,
  );
  add('across nodes, VXLAN, round trips', tunnel.farRoundTrips, native.farRoundTrips, 'own native', 0.9);
  add('across nodes, VXLAN, throughput', tunnel.farThroughput, bridge.farThroughput, 'bridge CNI (no tunnel)');
  const [few, many] = [services[0] ?? 10, services.at(-1) ?? 5000];
  for (const total of services) {
    const mine = native.serviceConnections.get(total) ?? Number.NaN;
    add(
      `new connections to a ClusterIP, ${total} services`,
      mine,
      proxy.serviceConnections.get(total) ?? Number.NaN,
      'kube-proxy iptables',
      total === few ? 1.05 : 1.5,
    );
  }
  add(
    `new connections, ${many} services`,
    native.serviceConnections.get(many) ?? Number.NaN,
    native.serviceConnections.get(few) ?? Number.NaN,
    `own with ${few}`,
    0.97,
  );
  return rows;
}

async function main(): Promise<void> {
  const services = [10, 5000];
  const started = new Date();
  await must(process.execPath, [join(root, 'scripts/build-agent.mjs')], { echo: true, seconds: 1200 });
  try {
    const bridge = await measure('bridge', []);
    const proxy = await measure('bridge+kube-proxy', services);
    const tunnel = await measure('fairlead-tunnel', []);
    const native = await measure('fairlead-native', services);
    const facts = await agentFacts();
    const rows = rowsFor(bridge, proxy, tunnel, native, services);
    const binaryMegabytes = statSync(join(root, 'dist/fairlead-agent')).size / 1e6;
    const text = `${table(rows)}\n${facts.text}binary ${binaryMegabytes.toFixed(1)} MB (budget 45)\n`;
    process.stdout.write(`\n${text}`);
    mkdirSync(join(root, 'bench/results'), { recursive: true });
    const file = join(root, 'bench/results', `${started.toISOString().replaceAll(':', '-').slice(0, 19)}.json`);
    writeFileSync(
      file,
      `${JSON.stringify({ started, quick, rows, agent: { ...facts.values, binaryMegabytes } }, undefined, 2)}\n`,
    );
    process.stdout.write(`kept in ${file.slice(root.length + 1)}\n`);
  } finally {
    await lab(['down']).catch(() => undefined);
  }
}

await main();
