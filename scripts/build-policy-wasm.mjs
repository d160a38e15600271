// Builds the policy engine as WebAssembly for the console: the very code that the agent enforces with.
//
//   node scripts/build-policy-wasm.mjs      → out/wasm/policy.wasm and out/wasm/wasm_exec.js
//
// Built once per content of its sources and version of Go; the result is kept in $FAIRLEAD_CACHE (default
// ~/.cache/fairlead) /wasm/<hash> and copied from there. wasm_exec.js is the Go distribution's own and has to be of the
// very version that compiled the program.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const agent = join(root, 'node-agent');
const out = join(root, 'out', 'wasm');
const cacheRoot =
  process.env.FAIRLEAD_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'fairlead');
const names = ['policy.wasm', 'wasm_exec.js'];
/** A console that loads slowly is not used: the engine has to stay below this. */
const sizeLimit = 6 * 1024 * 1024;

function fail(what, why, fix) {
  process.stderr.write(`${what}\nWhy: ${why}\nFix: ${fix}\n`);
  process.exit(1);
}

function go(args, env) {
  const result = spawnSync('go', args, { cwd: agent, env: { ...process.env, ...env }, encoding: 'utf8' });
  if (result.error || result.status !== 0) {
    fail(
      'The policy engine could not be built for the console.',
      result.error ? `Go cannot be started: ${result.error.message}` : result.stderr.trim(),
      'Install Go 1.26, and correct what the message above points at.',
    );
  }
  return result.stdout.trim();
}

function sources() {
  const files = ['node-agent/go.mod'];
  for (const directory of ['node-agent/policy', 'node-agent/policy/spec', 'node-agent/cmd/policy-wasm']) {
    for (const name of readdirSync(join(root, directory)).sort()) {
      if (name.endsWith('.go') && !name.endsWith('_test.go')) files.push(`${directory}/${name}`);
    }
  }
  return files;
}

const hash = createHash('sha256');
hash.update(`${go(['env', 'GOVERSION'])}\0${readFileSync(fileURLToPath(import.meta.url))}`);
for (const file of sources()) hash.update(`\0${file}\0`).update(readFileSync(join(root, file)));
const cache = join(cacheRoot, 'wasm', hash.digest('hex').slice(0, 16));

if (!names.every((name) => existsSync(join(cache, name)))) {
  mkdirSync(dirname(cache), { recursive: true });
  const unfinished = `${cache}.${process.pid}`;
  mkdirSync(unfinished, { recursive: true });
  const output = join(unfinished, 'policy.wasm');
  go(['build', '-trimpath', '-buildvcs=false', '-ldflags=-s -w', '-o', output, './cmd/policy-wasm'], {
    GOOS: 'js',
    GOARCH: 'wasm',
  });
  copyFileSync(join(go(['env', 'GOROOT']), 'lib', 'wasm', 'wasm_exec.js'), join(unfinished, 'wasm_exec.js'));
  if (statSync(output).size > sizeLimit) {
    fail(
      'The policy engine has grown too large for the console.',
      `it has ${statSync(output).size} bytes; the limit is ${sizeLimit}`,
      'Look for a new import in node-agent/policy: it may use the standard library only.',
    );
  }
  rmSync(cache, { recursive: true, force: true });
  renameSync(unfinished, cache);
}
mkdirSync(out, { recursive: true });
for (const name of names) {
  // Copied under another name and renamed: somebody may be reading the old one.
  const copy = join(out, `${name}.${process.pid}`);
  copyFileSync(join(cache, name), copy);
  renameSync(copy, join(out, name));
}
process.stdout.write(`${out}\n`);
