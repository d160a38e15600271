/**
 * Kubernetes' own end-to-end tests of sig-network against the lab with our agent. `npm run conformance --` takes
 *
 *   --network-policy    the NetworkPolicy tests alone        --focus REGEX    the tests whose full name fits
 *   --conformance       the conformance tests alone          --again          those that did not pass the last time, into
 *   --list              says what would run, and what                         the table that is kept
 *                       not and why                          --minutes N      the time for all tests (60); what does not
 *   --procs N           tests side by side (2)                                begin by then is named as not run
 *   --set key=value     a value of the installation          --keep           leaves the lab up at the end
 *   --use               the lab that is up, with what is installed in it
 *   --dual-stack        in a lab of both families, with ipv6.enabled; without any other choice the dual-stack tests alone
 *
 * Conformance tests come first, then those of NetworkPolicy, then all others; the table is written after each part. What
 * failed is run once more at the end, alone. It ends with 1 when a test failed.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { lab, must, root } from '../client.ts';
import { type Built, start, subject } from './cluster.ts';
import { hasSctp, runTests } from './ginkgo.ts';
import { groups, markdown, type Result, results } from './report.ts';
import { exclusionsFor, namesOf, type Selected, select } from './selection.ts';

const { values: options } = parseArgs({
  options: {
    focus: { type: 'string' },
    'network-policy': { type: 'boolean', default: false },
    conformance: { type: 'boolean', default: false },
    'dual-stack': { type: 'boolean', default: false },
    again: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
    use: { type: 'boolean', default: false },
    procs: { type: 'string', default: '2' },
    minutes: { type: 'string', default: '60' },
    set: { type: 'string', multiple: true, default: [] },
  },
});

const dualStack = options['dual-stack'];
const narrowed = options.focus !== undefined || options['network-policy'] || options.conformance || dualStack;
const values = [...(dualStack ? ['ipv6.enabled=true'] : []), ...options.set];
const kept = join(root, 'bench/results/conformance.json');
const minute = 60_000;

function focus(): RegExp {
  if (options.focus !== undefined) return new RegExp(options.focus);
  if (options['network-policy']) return /\[Feature:NetworkPolicy\]|Netpol/;
  if (options.conformance) return /\[Conformance\]/;
  if (dualStack) return /\[Feature:IPv6DualStack\]/;
  return /./;
}

/** What is kept of the last whole run; nothing when there was none. */
function keptResults(): readonly Result[] {
  if (!existsSync(kept)) throw new Error('No results are kept: run npm run conformance without --again first.');
  return (JSON.parse(readFileSync(kept, 'utf8')) as { tests: Result[] }).tests;
}

/** Writes table and data: of a part beside the log, of everything where it is kept. */
function write(all: readonly Result[], heading: readonly string[]): string {
  mkdirSync(join(root, 'out/conformance'), { recursive: true });
  mkdirSync(join(root, 'bench/results'), { recursive: true });
  const table = join(root, narrowed ? 'out/conformance/table.md' : 'docs/conformance.md');
  const text = markdown(all, heading);
  writeFileSync(table, text);
  const data = narrowed ? join(root, 'out/conformance/table.json') : kept;
  writeFileSync(data, `${JSON.stringify({ heading, tests: all }, undefined, 1)}\n`);
  return text;
}

function list(selected: readonly Selected[]): void {
  for (const { name, reason } of selected)
    process.stdout.write(reason === undefined ? `run     ${name}\n` : `not run ${name}: ${reason}\n`);
  const count = selected.filter((test) => test.reason === undefined).length;
  process.stdout.write(`${count} of ${selected.length} tests would run\n`);
}

/** The names in the order of the table's groups, group by group. */
function parts(names: readonly string[]): string[][] {
  const rest = new Set(names);
  return groups
    .map(([, fits]) => {
      const part = [...rest].filter(fits);
      for (const name of part) rest.delete(name);
      return part;
    })
    .filter((part) => part.length > 0);
}

async function main(): Promise<number> {
  const built = JSON.parse((await lab(['conformance'], { seconds: 3600 })).trim()) as Built;
  const names = namesOf(await must(join(built.suite, 'e2e.test'), ['--list-tests']));
  const earlier = options.again ? keptResults() : [];
  const passed = new Set(earlier.filter((result) => result.outcome === 'passed').map((result) => result.name));
  const facilities = { sctp: await hasSctp(), dualStack };
  const selected = select(names, focus(), exclusionsFor(facilities)).filter((test) => !passed.has(test.name));
  if (options.list) {
    list(selected);
    return 0;
  }
  const wanted = selected.filter((test) => test.reason === undefined).map((test) => test.name);
  if (wanted.length === 0) throw new Error('No test fits.');
  const began = new Date();
  try {
    await start(built, values, { use: options.use, dualStack });
    const heading = await subject(built, values, dualStack);
    const end = Date.now() + Number(options.minutes) * minute;
    const procs = Number(options.procs);
    const found: Result[] = selected
      .filter((test) => test.reason !== undefined)
      .map(({ name, reason }) => ({ name, outcome: 'not run', seconds: 0, reason: reason ?? '' }));
    const whole = (): string => {
      const mine = new Set(found.map((result) => result.name));
      const all = [...earlier.filter((result) => !mine.has(result.name)), ...found];
      const took = ((Date.now() - began.getTime()) / minute).toFixed(0);
      const when = began.toISOString().slice(0, 16).replace('T', ' ');
      return write(all, [
        ...heading,
        '',
        `Last run ${when}, ${took} minutes${options.again ? ' for what had not passed before' : ''}.`,
      ]);
    };
    for (const [index, part] of parts(wanted).entries()) {
      const report = await runTests(built, part, procs, `part${index + 1}`, end);
      found.push(...results(part, report));
      whole();
    }
    const failed = found.filter((result) => result.outcome === 'failed').map((result) => result.name);
    if (failed.length > 0) {
      const alone = await runTests(built, failed, 1, 'alone', end);
      for (const [index, result] of found.entries())
        if (failed.includes(result.name) && alone.some((spec) => spec.name === result.name && spec.state === 'passed'))
          found[index] = { ...result, outcome: 'unstable' };
    }
    const text = whole();
    process.stdout.write(text.slice(0, text.indexOf('## Passed\n')));
    process.stdout.write('the logs are in out/conformance/\n');
    return found.some((result) => result.outcome === 'failed') ? 1 : 0;
  } finally {
    if (!options.keep && !options.use) await lab(['down']).catch(() => undefined);
  }
}

process.exit(await main());
