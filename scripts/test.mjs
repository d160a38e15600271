// npm test: sets this machine up and runs everything that it can run.
//
//   node scripts/test.mjs [--only unit,bpf,go,lab] [--without e2e]
//
// Ends with one line "N passed, N failed, N skipped" over all stages; exit code 1 when anything failed.
import { bootstrap } from './lib/bootstrap.mjs';

await bootstrap(import.meta.url);

const { installPackages } = await import('./lib/packages.mjs');
const { stages } = await import('./test-stages.mjs');

function listed(option) {
  const at = process.argv.findIndex((arg) => arg === option || arg.startsWith(`${option}=`));
  if (at < 0) return undefined;
  const text = process.argv[at].includes('=') ? process.argv[at].split('=')[1] : process.argv[at + 1];
  return (text ?? '').split(',').filter(Boolean);
}
const only = listed('--only');
const without = listed('--without') ?? [];
const unknown = [...(only ?? []), ...without].filter((name) => !stages.some((stage) => stage.name === name));
if (unknown.length > 0) {
  process.stderr.write(
    `There is no stage ${unknown.join(', ')}. There are: ${stages.map((stage) => stage.name).join(', ')}.\n`,
  );
  process.exit(2);
}

const say = (text) => process.stdout.write(`${text}\n`);
const took = (began) => `${((performance.now() - began) / 1000).toFixed(1)} s`;
const total = { passed: 0, failed: 0, skipped: 0 };
const began = performance.now();

say(`== setup: ${await installPackages()} (${took(began)})`);
for (const stage of stages) {
  if ((only && !only.includes(stage.name)) || without.includes(stage.name)) continue;
  const start = performance.now();
  say(`== ${stage.name}: ${stage.title}`);
  const reason = await stage.skip?.();
  if (reason !== undefined) {
    total.skipped += 1;
    say(`   skipped: ${reason}`);
    continue;
  }
  let sum;
  try {
    sum = await stage.run((text) => say(text.replace(/^/gm, '   ')));
  } catch (error) {
    say(`   the stage itself broke: ${error instanceof Error ? error.stack : error}`);
    sum = { passed: 0, failed: 1, skipped: 0 };
  }
  for (const key of ['passed', 'failed', 'skipped']) total[key] += sum[key];
  say(
    `   ${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped in ${took(start)}`
      .replace(' passed,', ' passing,')
      .replace(' failed,', ' failing,'),
  );
}
say(`== all stages took ${took(began)}`);
say(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exit(total.failed > 0 ? 1 : 0);
