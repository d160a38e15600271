// Generates the code of both protocols the console and the agent speak:
//
//   node-agent/api/fairlead/v1/agent.proto   → Go (beside it) and TypeScript (main/engine/agents/gen)
//   Hubble's flow, observer, peer and relay  → TypeScript only; the .proto files are read from the Go module cache, at the
//                                              very version that the agent is built with (Go imports Hubble's own package)
//
//   node scripts/generate-api.mjs            writes
//   node scripts/generate-api.mjs --check    writes nothing; exit code 1 when a committed file is not what would be written
//
// Works offline once `npm install` and `go mod download` have run.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const agent = join(root, 'node-agent');
const check = process.argv.includes('--check');
const hubbleProtos = ['flow', 'observer', 'peer', 'relay'];

/** Runs a program and returns its output; ends the script with what, why and fix when it fails. */
function run(command, args, options, fix) {
  const result = spawnSync(command, args, { encoding: 'utf8', ...options });
  if (result.error || result.status !== 0) {
    process.stderr.write(
      `Generating the API failed at: ${command} ${args.join(' ')}\n` +
        `Why: ${result.error?.message ?? result.stderr.trim()}\nFix: ${fix}\n`,
    );
    process.exit(1);
  }
  return result.stdout.trim();
}

/** Every generated file below a directory, as paths relative to it. */
function generatedFiles(directory, isGenerated) {
  if (!existsSync(directory)) return [];
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && isGenerated(entry.name))
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)))
    .sort();
}

const work = mkdtempSync(join(tmpdir(), 'fairlead-generate-api-'));
try {
  const bin = join(work, 'bin');
  mkdirSync(bin);
  const plugins = ['google.golang.org/protobuf/cmd/protoc-gen-go', 'google.golang.org/grpc/cmd/protoc-gen-go-grpc'];
  run(
    'go',
    ['build', '-o', bin, ...plugins],
    { cwd: agent },
    'install Go 1.26 and run `go mod download` in node-agent.',
  );
  const cilium = run(
    'go',
    ['list', '-m', '-f', '{{.Dir}}', 'github.com/cilium/cilium'],
    { cwd: agent },
    'run `go mod download` in node-agent.',
  );
  const npmBin = join(root, 'node_modules', '.bin');
  const env = {
    ...process.env,
    PATH: [bin, npmBin, process.env.PATH].join(delimiter),
    BUF_CACHE_DIR: join(work, 'cache'),
  };
  const out = join(work, 'out');
  const fix = 'run `npm install`, and look at the message above for a mistake in the .proto file.';
  const template = join(root, 'buf.gen.yaml');
  const buf = join(npmBin, 'buf');
  run(buf, ['generate', '--template', template, '--output', out], { cwd: root, env }, fix);

  const api = join(cilium, 'api', 'v1');
  const esOnly = JSON.stringify({
    version: 'v2',
    plugins: [
      {
        local: 'protoc-gen-es',
        out: 'main/engine/agents/gen',
        opt: ['target=ts', 'import_extension=ts', 'erasable_syntax=true'],
      },
    ],
  });
  const paths = hubbleProtos.flatMap((name) => ['--path', join(api, name)]);
  run(buf, ['generate', api, '--template', esOnly, '--output', out, ...paths], { cwd: root, env }, fix);

  const targets = [
    { directory: 'main/engine/agents/gen', isGenerated: () => true },
    { directory: 'node-agent/api', isGenerated: (name) => name.endsWith('.pb.go') },
  ];
  const stale = [];
  for (const { directory, isGenerated } of targets) {
    const fresh = generatedFiles(join(out, directory), isGenerated);
    const committed = generatedFiles(join(root, directory), isGenerated);
    for (const name of new Set([...fresh, ...committed])) {
      const from = join(out, directory, name);
      const to = join(root, directory, name);
      const same = existsSync(from) && existsSync(to) && readFileSync(from).equals(readFileSync(to));
      if (same) continue;
      stale.push(`${directory}/${name}`);
      if (check) continue;
      if (existsSync(from)) cpSync(from, to, { recursive: true });
      else rmSync(to);
    }
  }
  if (check && stale.length > 0) {
    process.stderr.write(
      `Generated API code is stale:\n${stale.map((name) => `  ${name}\n`).join('')}` +
        'Why: a .proto file, a plugin or the Hubble module changed after the code was generated.\n' +
        'Fix: node scripts/generate-api.mjs, and commit the result.\n',
    );
    process.exitCode = 1;
  } else {
    const what = check ? 'Generated API code is fresh.' : `Generated API code: ${stale.length} file(s) changed.`;
    process.stdout.write(`${what}\n`);
  }
} finally {
  rmSync(work, { recursive: true, force: true });
}
