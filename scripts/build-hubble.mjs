// Builds the stock Hubble command line client out of its Go module, once per content of e2e/hubble.
//
//   node scripts/build-hubble.mjs           builds when missing (about three minutes), prints the binary's path
//   node scripts/build-hubble.mjs --path    prints where the binary is or would be, and builds nothing
//
// The client is a test dependency: our observer has to satisfy it unchanged. The result lies outside the checkout, in
// $FAIRLEAD_CACHE (default ~/.cache/fairlead) /hubble/<hash>/hubble.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const source = join(root, 'e2e', 'hubble');
const cache = process.env.FAIRLEAD_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'fairlead');

/** The hash names exactly what the binary is made of: the module's pins. Tests compute the same one (see hubblecli_test.go). */
function contentHash() {
  const hash = createHash('sha256');
  for (const name of ['go.mod', 'go.sum']) hash.update(readFileSync(join(source, name)));
  return hash.digest('hex').slice(0, 16);
}

const binary = join(cache, 'hubble', contentHash(), 'hubble');
if (!process.argv.includes('--path') && !existsSync(binary)) {
  mkdirSync(dirname(binary), { recursive: true });
  // Built under another name and renamed, so that a broken build never looks like a finished one.
  const unfinished = `${binary}.${process.pid}`;
  const args = [
    'go',
    'build',
    '-trimpath',
    '-buildvcs=false',
    '-ldflags=-s -w',
    '-o',
    unfinished,
    'github.com/cilium/cilium/hubble',
  ];
  const built = spawnSync('nice', ['-n', '10', ...args], {
    cwd: source,
    env: { ...process.env, CGO_ENABLED: '0' },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if (built.error || built.status !== 0) {
    process.stderr.write(
      `The hubble client could not be built${built.error ? `: ${built.error.message}` : ''}.\n` +
        "Why: the Go tool chain is missing, or its module cache has no copy of the client's modules and the Go proxy is out of reach.\n" +
        'Fix: install Go 1.26 and run this once with the Go proxy reachable.\n',
    );
    process.exit(1);
  }
  renameSync(unfinished, binary);
}
process.stdout.write(`${binary}\n`);
