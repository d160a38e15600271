/**
 * Measures the datapath and the agent, all in one run on one machine, and keeps ratios: absolute figures belong to the
 * machine, ratios to the software. `npm run bench --` takes
 *
 *   --only ROWS     some of: prefilter, nodeport, events, paths, services, policy, footprint (separated by commas,
 *                   or with --only before each)
 *   --quick         every measurement shorter, for a look
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { lab, must, root } from '../lab/client.ts';
import { footprint } from './footprint.ts';
import { events, nodePort, prefilter } from './kernel.ts';
import type { Effort } from './measure.ts';
import { paths } from './paths.ts';
import { policy } from './policy.ts';
import { type Row, table } from './report.ts';
import { services } from './services.ts';

/** What is measured together; `lab` says that it needs clusters. */
const groups: Readonly<
  Record<string, { readonly lab: boolean; readonly measure: (effort: Effort) => Promise<Row[]> }>
> = {
  prefilter: { lab: false, measure: ({ quick }) => prefilter(quick) },
  nodeport: { lab: false, measure: ({ quick }) => nodePort(quick) },
  events: { lab: false, measure: ({ quick }) => events(quick) },
  paths: { lab: true, measure: paths },
  services: { lab: true, measure: services },
  policy: { lab: true, measure: policy },
  footprint: { lab: true, measure: footprint },
};

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { only: { type: 'string', multiple: true }, quick: { type: 'boolean', default: false } },
  });
  const wanted = values.only?.flatMap((rows) => rows.split(',')) ?? Object.keys(groups);
  const unknown = wanted.filter((name) => groups[name] === undefined);
  if (unknown.length > 0)
    throw new Error(`There are no rows ${unknown.join(', ')}. There are: ${Object.keys(groups).join(', ')}.`);
  const effort: Effort = values.quick ? { quick: true, turns: 15 } : { quick: false, turns: 60 };
  const started = new Date();
  const rows: Row[] = [];
  const needsLab = wanted.some((name) => groups[name]?.lab);
  try {
    if (needsLab) await must(process.execPath, [join(root, 'scripts/build-agent.mjs')], { echo: true, seconds: 1200 });
    for (const name of wanted) {
      const found = await groups[name]?.measure(effort).catch((error: unknown) => {
        // What cannot be measured is said, fails the run, and takes no other group with it.
        process.exitCode = 1;
        process.stderr.write(`${name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
        const row: Row = { what: `${name}: could not be measured`, value: Number.NaN, budget: 0, note: String(error) };
        return [row];
      });
      process.stderr.write(table(found ?? []));
      rows.push(...(found ?? []));
    }
  } finally {
    if (needsLab) await lab(['down']).catch(() => undefined);
    if (rows.length > 0) {
      process.stdout.write(`\n${table(rows)}`);
      mkdirSync(join(root, 'bench/results'), { recursive: true });
      const file = join(root, 'bench/results', `${started.toISOString().replaceAll(':', '-').slice(0, 19)}.json`);
      writeFileSync(
        file,
        `${JSON.stringify({ started, quick: values.quick, only: values.only?.join(','), rows }, undefined, 2)}\n`,
      );
      process.stdout.write(`kept in ${file.slice(root.length + 1)}\n`);
    }
  }
}

await main();
