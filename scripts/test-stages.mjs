// The stages of npm test, in their order. A stage is
//
//   { name, title, skip: async () => reason or undefined, run: async (tell) => ({ passed, failed, skipped }) }
//
// `run` counts real tests, prints what failed through `tell`, and never throws for a failing test. Anything that a stage
// starts it also ends. A stage that this machine cannot run says why in `skip`.
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './lib/bootstrap.mjs';
import { missingPackages } from './lib/packages.mjs';
import { packetTests } from './lib/packet-tests.mjs';
import { has, run } from './lib/run.mjs';

const node = process.execPath;
const results = join(root, 'out', 'test');
const isRoot = process.getuid?.() === 0;
const counts = (passed, failed, skipped = 0) => ({ passed, failed, skipped });
const last = (text, lines = 80) => text.trimEnd().split('\n').slice(-lines).join('\n');

/** Why the lab cannot run here; undefined when it can. */
async function noLab() {
  if (process.platform !== 'linux') return 'the lab needs Linux';
  if (!isRoot) return 'the lab needs root';
  const missing = await missingPackages();
  return missing.length > 0 ? `packages are missing: ${missing.join(' ')}` : undefined;
}

/** Reads "N passed, M failed" at the end of a script's output. */
function countsOf({ code, output }) {
  const found = [...output.matchAll(/^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\s*$/gm)].at(-1);
  if (!found) return counts(0, 1);
  const failed = Number(found[2]);
  // A script that ends badly without naming a failure has failed in itself.
  return counts(Number(found[1]), failed === 0 && code !== 0 ? 1 : failed, Number(found[3] ?? 0));
}

async function script(command, args, tell, options = {}) {
  const result = await run(command, args, { echo: process.env.FAIRLEAD_TEST_VERBOSE === '1', ...options });
  const sum = countsOf(result);
  if (sum.failed > 0) tell(last(result.output));
  return sum;
}

async function vitest(tell) {
  mkdirSync(results, { recursive: true });
  const file = join(results, 'vitest.json');
  rmSync(file, { force: true });
  const { output } = await run(
    'vitest',
    ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${file}`],
    { seconds: 1800, env: { NO_COLOR: '1' } },
  );
  if (!existsSync(file)) {
    tell(last(output));
    return counts(0, 1);
  }
  const report = JSON.parse(readFileSync(file, 'utf8'));
  const failed =
    report.numFailedTests +
    report.testResults.filter(
      (suite) => suite.status === 'failed' && suite.assertionResults.every((test) => test.status !== 'failed'),
    ).length;
  if (failed > 0) tell(last(output, 150));
  return counts(report.numPassedTests, failed, report.numPendingTests + (report.numTodoTests ?? 0));
}

/**
 * go test -json: every test and subtest counts; a package that does not build counts as one failure. The sum has `seconds`
 * too, what the tests themselves took without compiling, of all packages together.
 */
async function goTest(directory, tell, extra = [], packages = './...') {
  const { stdout, output } = await run('go', ['test', '-json', ...extra, packages], {
    cwd: join(root, directory),
    seconds: 2400,
  });
  let sum = counts(0, 0, 0);
  let seconds = 0;
  const texts = new Map();
  const failedPackages = new Set();
  const failedTests = new Map();
  for (const line of stdout.split('\n')) {
    let event;
    try {
      event = JSON.parse(line);
    } catch {
      continue;
    }
    const key = `${event.Package ?? event.ImportPath} ${event.Test ?? ''}`;
    if (event.Action === 'output' || event.Action === 'build-output')
      texts.set(key, (texts.get(key) ?? '') + event.Output);
    if (!event.Test) {
      seconds += event.Elapsed ?? 0;
      if (event.Action === 'fail') failedPackages.add(event.Package);
      continue;
    }
    if (event.Action === 'pass') sum = { ...sum, passed: sum.passed + 1 };
    if (event.Action === 'skip') {
      sum = { ...sum, skipped: sum.skipped + 1 };
      tell(
        `skipped ${event.Test}: ${(texts.get(key) ?? '')
          .replace(/=== RUN.*|--- SKIP.*/g, '')
          .trim()
          .replace(/\s+/g, ' ')}`,
      );
    }
    if (event.Action === 'fail') {
      sum = { ...sum, failed: sum.failed + 1 };
      failedTests.set(event.Package, true);
      tell(`${event.Package} ${event.Test}\n${last(texts.get(key) ?? '', 30)}`);
    }
  }
  for (const name of failedPackages) {
    if (failedTests.has(name)) continue;
    sum = { ...sum, failed: sum.failed + 1 };
    tell(
      `${name} did not run\n${last(
        [...texts]
          .filter(([key]) => key.startsWith(name))
          .map(([, text]) => text)
          .join(''),
        30,
      )}`,
    );
  }
  if (sum.passed + sum.failed + sum.skipped === 0) {
    tell(last(output));
    return counts(0, 1);
  }
  return { ...sum, seconds };
}

async function playwright(tell) {
  const file = join(root, 'out', 'e2e', 'results.json');
  rmSync(file, { force: true });
  const { output } = await run('playwright', ['test', '-c', 'e2e/playwright.config.ts'], {
    seconds: 3600,
    echo: process.env.FAIRLEAD_TEST_VERBOSE === '1',
    env: { NO_COLOR: '1' },
  });
  if (!existsSync(file)) {
    tell(last(output));
    return counts(0, 1);
  }
  const { stats, errors } = JSON.parse(readFileSync(file, 'utf8'));
  const failed = stats.unexpected + (stats.unexpected === 0 && errors.length > 0 ? 1 : 0);
  if (failed > 0) tell(last(output, 150));
  if (stats.flaky > 0) tell(`${stats.flaky} passed only when tried again`);
  return counts(stats.expected + stats.flaky, failed, stats.skipped);
}

export const stages = [
  {
    name: 'prepare',
    title: 'Kubernetes, images and the hubble client built from their modules (kept outside the checkout)',
    skip: noLab,
    run: async (tell) => {
      let sum = counts(0, 0);
      for (const [command, args] of [
        [join(root, 'lab', 'lab'), ['build']],
        [node, [join(root, 'scripts', 'build-hubble.mjs')]],
      ]) {
        const { code, output } = await run(command, args, { seconds: 2700 });
        if (code !== 0) tell(last(output));
        sum = code === 0 ? { ...sum, passed: sum.passed + 1 } : { ...sum, failed: sum.failed + 1 };
      }
      return sum;
    },
  },
  {
    name: 'check',
    title: 'format, lint, types, imports, generated files',
    run: (tell) => script(node, [join(root, 'scripts', 'check.mjs')], tell, { seconds: 1800 }),
  },
  {
    name: 'build',
    title: 'renderer, engine and shell build',
    run: async (tell) => {
      const { code, output } = await run(node, [join(root, 'scripts', 'build.mjs')], { seconds: 900 });
      if (code !== 0) tell(last(output));
      return code === 0 ? counts(1, 0) : counts(0, 1);
    },
  },
  { name: 'unit', title: 'TypeScript tests', run: vitest },
  {
    name: 'bpf',
    title: 'packets through every program and header of bpf/, by BPF_PROG_TEST_RUN',
    skip: async () => ((await has('go')) ? undefined : 'Go is not installed'),
    run: async (tell) => {
      const { seconds, ...sum } = await goTest(
        'node-agent',
        tell,
        ['-run', `^(${packetTests().join('|')})$`],
        './internal/datapath',
      );
      if (seconds !== undefined) tell(`${packetTests().length} tests with their parts took ${seconds.toFixed(1)} s`);
      return sum;
    },
  },
  {
    name: 'go',
    title: 'Go tests of the agent, with its datapath in network namespaces (but those of the stage bpf)',
    skip: async () => ((await has('go')) ? undefined : 'Go is not installed'),
    run: (tell) =>
      goTest('node-agent', tell, ['-timeout', '20m', '-skip', `^(${packetTests({ unique: true }).join('|')})$`]),
  },
  {
    name: 'lab',
    title: 'the lab: up, inside, down, residue',
    skip: noLab,
    run: async (tell) => {
      const programs = await goTest('lab', tell);
      const cluster = await script(join(root, 'lab', 'test', 'lab.sh'), [], tell, { seconds: 2400 });
      return counts(
        programs.passed + cluster.passed,
        programs.failed + cluster.failed,
        programs.skipped + cluster.skipped,
      );
    },
  },
  {
    name: 'image',
    title: 'the agent’s image',
    skip: async () => ((await has('go')) ? undefined : 'Go is not installed'),
    run: async (tell) => {
      const { code, output } = await run(node, [join(root, 'scripts', 'build-agent.mjs')], { seconds: 1200 });
      if (code !== 0) tell(last(output));
      return code === 0 ? counts(1, 0) : counts(0, 1);
    },
  },
  {
    name: 'e2e',
    title: 'end to end: the lab, the agent and the console in Chromium',
    skip: async () => (await noLab()) ?? ((await has('chromium')) ? undefined : 'chromium is not installed'),
    run: playwright,
  },
];
