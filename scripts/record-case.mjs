// Records a running cluster into a case file with the product's own recorder:
//   node scripts/record-case.mjs [--out recordings/galaxy.fairlead] [--title TEXT] [--seconds N] [--kubeconfig PATH]
// Without --kubeconfig the lab that is up is recorded. The file is replaced.
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { bootstrap } from './lib/bootstrap.mjs';

await bootstrap(import.meta.url);

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { values } = parseArgs({
  options: {
    out: { type: 'string', default: join(root, 'recordings/galaxy.fairlead') },
    title: { type: 'string', default: 'A galaxy far away (recorded lab)' },
    seconds: { type: 'string', default: '60' },
    kubeconfig: { type: 'string' },
  },
});
const kubeconfig =
  values.kubeconfig ??
  JSON.parse(execFileSync(join(root, 'lab/lab'), ['status', '-o', 'json'], { encoding: 'utf8' })).kubeconfig;
if (!kubeconfig) throw new Error('No lab is up and no --kubeconfig was given.');

const { createEngine } = await import('../main/engine/engine.ts');
const { createLog } = await import('../main/engine/log.ts');
const state = mkdtempSync(join(tmpdir(), 'fairlead-record-'));
const engine = await createEngine({
  stateDirectory: state,
  log: createLog({ least: 'warn' }),
  mode: 'desktop',
  kubeconfigs: [kubeconfig],
});
const context = (signal) => ({ signal, connection: 'record-case' });

let code = 1;
try {
  const { implementation } = engine;
  const found = new AbortController();
  let cluster;
  await implementation.clusters
    .watch(
      {},
      {
        push: async (items) => {
          cluster = items.at(-1)?.clusters[0]?.id;
          found.abort();
        },
      },
      context(found.signal),
    )
    .catch(() => undefined);
  if (!cluster) throw new Error('The kubeconfig names no cluster.');
  const connected = await implementation.clusters.connect({ cluster }, context(new AbortController().signal));
  if (!connected.ok) throw new Error(`${connected.failure.what} ${connected.failure.why}`);

  const out = resolve(values.out);
  mkdirSync(dirname(out), { recursive: true });
  const part = join(state, 'case.fairlead');
  const seconds = Number(values.seconds);
  const signal = AbortSignal.timeout(seconds * 1000);
  process.on('SIGINT', () => process.exit(130));
  let last = { flows: 0, bytes: 0 };
  const failure = await implementation.application.record(
    { cluster, title: values.title, path: part },
    {
      push: async (items) => {
        last = items.at(-1) ?? last;
        process.stdout.write(`\r${last.flows} flows, ${(last.bytes / 1e6).toFixed(2)} MB `);
      },
    },
    context(signal),
  );
  process.stdout.write('\n');
  if (failure) throw new Error(`${failure.what} ${failure.why}`);
  rmSync(out, { force: true });
  copyFileSync(part, out);
  process.stdout.write(`${out}: ${(statSync(out).size / 1e6).toFixed(2)} MB\n`);
  code = 0;
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
} finally {
  await engine.close();
  rmSync(state, { recursive: true, force: true });
}
process.exit(code);
