/**
 * Kubernetes' own end-to-end tests of sig-network against the lab with our agent. `npm run conformance --` takes
 *
 *   --network-policy    the NetworkPolicy tests alone        --focus REGEX    the tests whose full name fits
 *   --conformance       the conformance tests alone          --list           says what would run, and what not and why
 *   --procs N           tests side by side (4)               --keep           leaves the lab up at the end
 *   --set key=value     a value of the installation          --use            the lab that is up, with what is installed
 *   --out NAME          where to keep the table (docs/conformance.md and bench/results/conformance.json unless narrowed)
 *
 * It ends with 1 when a test failed.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { kubectl, lab, must, on, root, run } from '../client.ts';
import { type GinkgoReport, markdown, results } from './report.ts';
import { exactly, exclusionsFor, type Facilities, namesOf, type Selected, select } from './selection.ts';

/** What `lab conformance` prints. */
interface Built {
  readonly suite: string;
  readonly images: string;
  readonly kubectl: string;
  readonly kubernetes: string;
}

/** Everything ends by then, whatever a test does. */
const runMinutes = 60;
const nodes = ['node1', 'node2', 'node3'];

const { values: options } = parseArgs({
  options: {
    focus: { type: 'string' },
    'network-policy': { type: 'boolean', default: false },
    conformance: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
    use: { type: 'boolean', default: false },
    procs: { type: 'string', default: '4' },
    set: { type: 'string', multiple: true, default: [] },
    out: { type: 'string' },
  },
});

const narrowed = options.focus !== undefined || options['network-policy'] || options.conformance;

function focus(): RegExp {
  if (options.focus !== undefined) return new RegExp(options.focus);
  if (options['network-policy']) return /\[Feature:NetworkPolicy\]|Netpol/;
  if (options.conformance) return /\[Conformance\]/;
  return /./;
}

/** Whether a socket of SCTP can be made. */
async function hasSctp(): Promise<boolean> {
  const { code } = await run('sh', ['-c', 'grep -qw SCTP /proc/net/protocols || modprobe -q sctp']);
  return code === 0;
}

/** The lab with the agent, the suite's images on every node, and a zone for every node. */
async function start(built: Built): Promise<void> {
  if (!options.use) {
    await must(process.execPath, [join(root, 'scripts/build-agent.mjs')], { echo: true, seconds: 1200 });
    await lab(['down']);
    await lab(['up', '--nodes', String(nodes.length), '--cni', 'fairlead'], { echo: true });
    const values = options.set.flatMap((value) => ['--set', value]);
    const installer = join(root, 'scripts/install-agent.mjs');
    await must(process.execPath, [installer, '--lab', ...values], { echo: true, seconds: 300 });
  }
  const archives = ['agnhost', 'dnsutils', 'busybox', 'nginx', 'regression', 'pause'];
  await lab(['load', ...archives.map((name) => join(built.images, `${name}.tar`))]);
  for (const [index, node] of nodes.entries()) {
    // An API server proxies to pods. As with any control plane beside the cluster's nodes, somebody has to route them.
    const address = (
      await kubectl(['get', 'node', node, '-o', 'jsonpath={.spec.podCIDR} via {.status.addresses[0].address}'])
    ).split(' ');
    await on('cp', ['ip', 'route', 'replace', ...address]);
    await kubectl(['label', '--overwrite', 'node', node, `topology.kubernetes.io/zone=zone-${index + 1}`]);
  }
  await kubectl(['-n', 'kube-system', 'rollout', 'status', 'deployment/coredns', '--timeout=120s']);
}

/** Runs tests on the control plane's machine, which reaches the API server and the nodes, and reads Ginkgo's report. */
async function ginkgo(built: Built, names: readonly string[], procs: string, title: string): Promise<GinkgoReport[]> {
  const directory = join((await lab(['run-directory'])).trim(), 'cp', 'conformance');
  mkdirSync(directory, { recursive: true });
  const report = `${title}.json`;
  const log = join(directory, `${title}.log`);
  rmSync(join(directory, report), { force: true });
  const admin = join((await lab(['run-directory'])).trim(), 'pki', 'admin.kubeconfig');
  await run(
    join(root, 'lab/lab'),
    [
      ...['exec', 'cp', '--', 'sh', '-c', 'log=$1; shift; exec "$@" >"$log" 2>&1', 'sh', log],
      ...['env', `HOME=${directory}`, `PATH=${process.env.PATH ?? ''}`],
      ...[join(built.suite, 'ginkgo'), `--procs=${procs}`, `--timeout=${runMinutes}m`, '--no-color', '--succinct'],
      ...[`--json-report=${report}`, `--output-dir=${directory}`, `--focus=${exactly(names)}`],
      ...[join(built.suite, 'e2e.test'), '--', `--kubeconfig=${admin}`, `--kubectl-path=${built.kubectl}`],
      ...['--provider=skeleton', '--num-nodes=3', '--disable-log-dump', '--dump-logs-on-failure=false'],
      ...[`--report-dir=${directory}`, `--report-prefix=${title}-`],
    ],
    { seconds: (runMinutes + 2) * 60 },
  );
  // The full output, with what every failed test logged, is kept beside the results.
  mkdirSync(join(root, 'out/conformance'), { recursive: true });
  copyFileSync(log, join(root, 'out/conformance', `${title}.log`));
  const file = join(directory, report);
  if (!existsSync(file)) throw new Error(`Ginkgo left no report: ${readFileSync(log, 'utf8').slice(-1500)}`);
  return JSON.parse(readFileSync(file, 'utf8')) as GinkgoReport[];
}

/** The agents that run and how they are configured, for the heading. */
async function subject(built: Built): Promise<string[]> {
  const image = await kubectl([
    '-n',
    'kube-system',
    'get',
    'pods',
    '-l',
    'app.kubernetes.io/name=fairlead-agent',
    '-o',
    'jsonpath={.items[0].spec.containers[0].image}',
  ]);
  const kernel = (await on('node1', ['uname', '-r'])).trim();
  const set = options.set.length === 0 ? 'default values' : options.set.join(', ');
  return [
    '# Conformance',
    '',
    `Kubernetes ${built.kubernetes}’s own end-to-end tests of sig-network, built from the Kubernetes module, against the lab`,
    `(${nodes.length} nodes, no kube-proxy) with \`${image.split('/').at(-1) ?? ''}\`, ${set}, Linux ${kernel}. Made by \`npm run conformance\`.`,
  ];
}

async function main(): Promise<number> {
  const built = JSON.parse((await lab(['conformance'], { seconds: 3600 })).trim()) as Built;
  const names = namesOf(await must(join(built.suite, 'e2e.test'), ['--list-tests']));
  const facilities: Facilities = { sctp: await hasSctp(), dualStack: options.set.includes('ipv6.enabled=true') };
  const selected: Selected[] = select(names, focus(), exclusionsFor(facilities));
  const wanted = selected.filter((test) => test.reason === undefined).map((test) => test.name);
  if (options.list) {
    for (const { name, reason } of selected)
      process.stdout.write(
        `${reason === undefined ? 'run    ' : 'not run'} ${name}${reason === undefined ? '' : `: ${reason}`}\n`,
      );
    process.stdout.write(`${wanted.length} of ${selected.length} tests would run\n`);
    return 0;
  }
  if (wanted.length === 0) throw new Error('No test fits.');
  const began = new Date();
  try {
    await start(built);
    const heading = await subject(built);
    const together = await ginkgo(built, wanted, options.procs, 'together');
    const failed = results(selected, together, []).filter((result) => result.outcome === 'failed');
    const alone =
      failed.length === 0
        ? []
        : await ginkgo(
            built,
            failed.map((result) => result.name),
            '1',
            'alone',
          );
    const all = results(selected, together, alone);
    const minutes = ((Date.now() - began.getTime()) / 60_000).toFixed(0);
    const text = markdown(all, [
      ...heading,
      '',
      `Last run ${began.toISOString().slice(0, 16).replace('T', ' ')}, ${minutes} minutes.`,
    ]);
    const name = options.out ?? (narrowed ? join('out/conformance', 'table') : undefined);
    const table = name === undefined ? join(root, 'docs/conformance.md') : `${join(root, name)}.md`;
    const data = name === undefined ? join(root, 'bench/results/conformance.json') : `${join(root, name)}.json`;
    writeFileSync(table, text);
    writeFileSync(
      data,
      `${JSON.stringify({ began, kubernetes: built.kubernetes, values: options.set, tests: all }, undefined, 1)}\n`,
    );
    process.stdout.write(text.slice(0, text.indexOf('## Passed\n')));
    process.stdout.write(
      `kept in ${table.slice(root.length + 1)} and ${data.slice(root.length + 1)}; log in out/conformance/\n`,
    );
    return all.some((result) => result.outcome === 'failed') ? 1 : 0;
  } finally {
    if (!options.keep && !options.use) await lab(['down']).catch(() => undefined);
  }
}

process.exit(await main());
