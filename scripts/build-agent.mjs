// Builds the agent: one static binary, and an image archive of it.
//
//   node scripts/build-agent.mjs      → dist/fairlead-agent and dist/fairlead-agent.tar; prints name and digest
//
// Kept by content in $FAIRLEAD_CACHE (default ~/.cache/fairlead)/agent/<hash>: the same sources are built once.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const module = join(root, 'node-agent');
const cacheRoot =
  process.env.FAIRLEAD_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'fairlead');
const names = ['fairlead-agent', 'fairlead-agent.tar', 'fairlead-agent.json'];
/** A node has to fetch and keep it: it stays below this. */
const sizeLimit = 45e6;

function fail(what, why, fix) {
  process.stderr.write(`${what}\nWhy: ${why}\nFix: ${fix}\n`);
  process.exit(1);
}

function go(args, environment = {}) {
  const result = spawnSync('go', args, { cwd: module, env: { ...process.env, ...environment }, encoding: 'utf8' });
  if (result.error || result.status !== 0) {
    fail(
      'The agent could not be built.',
      result.error ? `Go cannot be started: ${result.error.message}` : result.stderr.trim(),
      'Install Go 1.26, and correct what the message above points at.',
    );
  }
  return result.stdout.trim();
}

/** Everything that is compiled or embedded; tests and their data are not. */
function sources(directory) {
  return readdirSync(directory, { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = join(directory, entry.name);
      if (entry.isDirectory()) return ['testdata', 'tools'].includes(entry.name) ? [] : sources(path);
      return /\.(go|mod|sum|o|yaml)$/.test(entry.name) && !entry.name.endsWith('_test.go') ? [path] : [];
    });
}

const hash = createHash('sha256');
hash.update(`${go(['env', 'GOVERSION', 'GOARCH'])}\0${readFileSync(fileURLToPath(import.meta.url))}`);
for (const file of sources(module)) hash.update(`\0${file.slice(root.length)}\0`).update(readFileSync(file));
const digest = hash.digest('hex').slice(0, 12);
const cache = join(cacheRoot, 'agent', digest);

if (!names.every((name) => existsSync(join(cache, name)))) {
  const version = `${JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).version}-${digest}`;
  const image = `fairlead.dev/fairlead-agent:${version}`;
  const unfinished = `${cache}.${process.pid}`;
  rmSync(unfinished, { recursive: true, force: true });
  mkdirSync(unfinished, { recursive: true });
  const binary = join(unfinished, 'fairlead-agent');
  const linker = `-s -w -X fairlead.dev/node-agent/internal/version.Version=${version}`;
  go(['build', '-trimpath', '-buildvcs=false', '-ldflags', linker, '-o', binary, './cmd/fairlead-agent'], {
    CGO_ENABLED: '0',
  });
  const size = statSync(binary).size;
  if (size > sizeLimit) {
    fail(
      `The agent is ${(size / 1e6).toFixed(1)} MB.`,
      `Its budget is ${sizeLimit / 1e6} MB.`,
      'Look at what was added with `go version -m` and `go tool nm -size`.',
    );
  }
  const manifest = go([
    'run',
    './image',
    '-binary',
    binary,
    '-name',
    image,
    '-o',
    join(unfinished, 'fairlead-agent.tar'),
  ]);
  writeFileSync(
    join(unfinished, 'fairlead-agent.json'),
    `${JSON.stringify({ image, version, digest: manifest, bytes: size })}\n`,
  );
  rmSync(cache, { recursive: true, force: true });
  renameSync(unfinished, cache);
}

const dist = join(root, 'dist');
mkdirSync(dist, { recursive: true });
for (const name of names) {
  const unfinished = join(dist, `${name}.${process.pid}`);
  copyFileSync(join(cache, name), unfinished);
  renameSync(unfinished, join(dist, name));
}
const built = JSON.parse(readFileSync(join(dist, 'fairlead-agent.json'), 'utf8'));
process.stdout.write(`${built.image} ${built.digest} ${(built.bytes / 1e6).toFixed(1)} MB\n`);
