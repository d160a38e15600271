/** Running tests by Ginkgo's own command. */
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { lab, root, run } from '../client.ts';
import type { Built } from './cluster.ts';
import { type Ended, ended, type GinkgoReport } from './report.ts';
import { exactly } from './selection.ts';

/** Whether a socket of SCTP can be made. */
export async function hasSctp(): Promise<boolean> {
  const { code } = await run('sh', ['-c', 'grep -qw SCTP /proc/net/protocols || modprobe -q sctp']);
  return code === 0;
}

/**
 * Runs tests until `end` (a time of day in milliseconds), on the control plane's machine, which reaches the API server
 * and the nodes, and says how those ended that did. The log is kept in out/conformance.
 */
export async function runTests(
  built: Built,
  names: readonly string[],
  procs: number,
  title: string,
  end: number,
): Promise<Ended[]> {
  const seconds = Math.floor((end - Date.now()) / 1000);
  if (seconds < 60) return [];
  const home = (await lab(['run-directory'])).trim();
  const directory = join(home, 'cp', 'conformance');
  mkdirSync(directory, { recursive: true });
  const [report, log] = [join(directory, `${title}.json`), join(directory, `${title}.log`)];
  for (const file of [report, log]) rmSync(file, { force: true });
  process.stderr.write(
    `${title}: ${names.length} tests, ${procs} side by side, at most ${Math.ceil(seconds / 60)} minutes\n`,
  );
  await run(
    join(root, 'lab/lab'),
    [
      ...['exec', 'cp', '--', 'sh', '-c', 'log=$1; shift; exec "$@" >"$log" 2>&1', 'sh', log],
      ...['env', `HOME=${directory}`, `PATH=${process.env.PATH ?? ''}`],
      ...[
        join(built.suite, 'ginkgo'),
        `--procs=${procs}`,
        `--timeout=${seconds}s`,
        '--grace-period=15s',
        '--no-color',
        '--succinct',
      ],
      ...[`--json-report=${title}.json`, `--output-dir=${directory}`, `--focus=${exactly(names)}`],
      ...[join(built.suite, 'e2e.test'), '--', `--kubeconfig=${join(home, 'pki', 'admin.kubeconfig')}`],
      ...[`--kubectl-path=${built.kubectl}`, '--provider=skeleton', '--num-nodes=3', '--disable-log-dump'],
      ...['--dump-logs-on-failure=false', `--report-dir=${directory}`, `--report-prefix=${title}-`],
    ],
    { seconds: seconds + 120 },
  );
  mkdirSync(join(root, 'out/conformance'), { recursive: true });
  if (existsSync(log)) copyFileSync(log, join(root, 'out/conformance', `${title}.log`));
  if (!existsSync(report)) throw new Error(`Ginkgo left no report; see out/conformance/${title}.log`);
  return ended(JSON.parse(readFileSync(report, 'utf8')) as GinkgoReport[], Date.now() >= end);
}
