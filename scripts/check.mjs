// The fast checks: node scripts/check.mjs [name …]     (all of them unless named; --fix formats what can be formatted)
//
// Each is one command that says nothing when all is well. What this machine lacks is skipped with a reason.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { bootstrap, root } from './lib/bootstrap.mjs';
import { has, run } from './lib/run.mjs';

await bootstrap(import.meta.url);

const fix = process.argv.includes('--fix');
const node = process.execPath;
const agent = join(root, 'node-agent');
// Hubble's API keeps deprecated fields that its clients still read: filling them is not a mistake.
const goChecks = 'inherit,-SA1019';
const staticcheck = 'honnef.co/go/tools/cmd/staticcheck@v0.8.2';

function below(directory, pattern) {
  if (!existsSync(join(root, directory))) return [];
  return readdirSync(join(root, directory), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && pattern.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name));
}

/** The project's Go files that people write. */
const goFiles = () =>
  ['node-agent', 'lab', 'bench']
    .flatMap((directory) => below(directory, /\.go$/))
    .filter((file) => !/node_modules|\.pb\.go$|zz_generated/.test(file));

/** `needs`: programs; `command`: what must end with 0; `quiet`: it must print nothing either. */
const checks = [
  {
    name: 'biome',
    title: 'format and lint (Biome)',
    command: () => ['biome', fix ? ['check', '--write', '.'] : ['ci', '--colors=off', '--diagnostic-level=error', '.']],
  },
  {
    name: 'oxlint',
    title: 'type-aware lint (oxlint)',
    command: () => [
      'oxlint',
      ['--type-aware', '--quiet', 'contract', 'main', 'renderer', 'scripts', 'e2e', 'lab', 'bench'],
    ],
  },
  { name: 'tsc', title: 'types (tsc)', command: () => ['tsc', ['-p', '.']] },
  {
    name: 'imports',
    title: 'direction of imports',
    command: () => [node, [join(root, 'scripts', 'check-imports.mjs')]],
  },
  {
    name: 'length',
    title: 'files of at most 500 lines',
    command: () => [node, [join(root, 'scripts', 'check-length.mjs')]],
  },
  {
    name: 'gofmt',
    title: 'Go formatting',
    needs: ['gofmt'],
    quiet: true,
    command: () => ['gofmt', [fix ? '-w' : '-l', ...goFiles()]],
  },
  { name: 'vet', title: 'go vet', needs: ['go'], command: () => ['go', ['vet', './...'], agent] },
  {
    name: 'staticcheck',
    title: 'staticcheck',
    needs: ['go'],
    command: () => ['go', ['run', staticcheck, '-checks', goChecks, './...'], agent],
  },
  {
    name: 'clang-format',
    title: 'C formatting',
    needs: ['clang-format'],
    command: () => ['clang-format', [...(fix ? ['-i'] : ['--dry-run', '-Werror']), ...below('bpf', /\.[ch]$/)]],
  },
  {
    name: 'shellcheck',
    title: 'shell scripts',
    needs: ['shellcheck'],
    command: () => [
      'shellcheck',
      [
        '-x',
        '-S',
        'warning',
        join(root, 'lab', 'lab'),
        ...below('lab', /\.sh$/),
        ...below('bpf', /\.sh$/),
        join(root, '.ci', 'run'),
      ].filter((file) => file.startsWith('-') || file === 'warning' || existsSync(file)),
    ],
  },
  {
    name: 'generated-api',
    title: 'generated API is fresh',
    needs: ['go'],
    file: 'scripts/generate-api.mjs',
    command: () => [node, [join(root, 'scripts', 'generate-api.mjs'), '--check']],
  },
  {
    name: 'generated-crds',
    title: 'generated definitions are fresh',
    needs: ['go'],
    file: 'node-agent/check-generated.sh',
    command: () => [join(agent, 'check-generated.sh'), []],
  },
  {
    name: 'objects',
    title: 'BPF objects are fresh',
    needs: ['clang', 'llvm-strip'],
    file: 'node-agent/internal/datapath/check-objects.sh',
    command: () => [join(agent, 'internal', 'datapath', 'check-objects.sh'), []],
  },
];

const named = process.argv.slice(2).filter((arg) => !arg.startsWith('--'));
const unknown = named.filter((name) => !checks.some((check) => check.name === name));
if (unknown.length > 0) {
  process.stderr.write(
    `There is no check ${unknown.join(', ')}. There are: ${checks.map((check) => check.name).join(', ')}.\n`,
  );
  process.exit(2);
}
const counts = { passed: 0, failed: 0, skipped: 0 };
for (const check of checks.filter((entry) => named.length === 0 || named.includes(entry.name))) {
  const missing = [];
  for (const program of check.needs ?? []) if (!(await has(program))) missing.push(program);
  if (missing.length > 0 || (check.file && !existsSync(join(root, check.file)))) {
    counts.skipped += 1;
    process.stdout.write(
      `skipped  ${check.title}: ${missing.length > 0 ? `${missing.join(', ')} is not installed` : `${check.file} does not exist`}\n`,
    );
    continue;
  }
  const began = performance.now();
  const [command, args, cwd] = check.command();
  const { code, output } = await run(command, args, { cwd, seconds: 1200 });
  const ok = code === 0 && !(check.quiet && output.trim() !== '');
  counts[ok ? 'passed' : 'failed'] += 1;
  process.stdout.write(
    `${ok ? 'ok      ' : 'FAILED  '} ${check.title} (${((performance.now() - began) / 1000).toFixed(1)} s)\n`,
  );
  if (!ok) process.stdout.write(`${output.trim().split('\n').slice(-60).join('\n').replace(/^/gm, '    ')}\n`);
}
process.stdout.write(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped\n`);
process.exit(counts.failed > 0 ? 1 : 0);
