import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import type { Log } from './log.ts';

/** Longer than any sane shell takes to start; a shell that asks something never ends by itself. */
const timeout = 8_000;
const largest = 4 << 20;
/** What belongs to the shell that was asked and not to this process. */
const own = new Set(['_', 'SHLVL', 'PWD', 'OLDPWD', 'TERM', 'ELECTRON_RUN_AS_NODE']);

/** Reads "NAME=value" entries that end in NUL, between the marks; undefined when the marks are not there. */
export function parseEnvironment(output: string, mark: string): ReadonlyMap<string, string> | undefined {
  const [, between] = output.split(mark);
  if (between === undefined || output.split(mark).length !== 3) return undefined;
  const found = new Map<string, string>();
  for (const entry of between.split('\0')) {
    const at = entry.indexOf('=');
    if (at > 0) found.set(entry.slice(0, at), entry.slice(at + 1));
  }
  return found;
}

/**
 * A program that is started from a desktop has the desktop's environment: without what the user's shell adds, login
 * programs of kubeconfigs are not found, and the SSH agent and KUBECONFIG are others than in a terminal. Asks the login
 * shell once and puts what it has into `environment`. What goes wrong is logged, and the environment stays as it was.
 */
export async function applyLoginEnvironment(environment: NodeJS.ProcessEnv, log: Log): Promise<void> {
  const shell = environment.SHELL;
  // Started from a terminal, everything is there already; Windows has one environment for both.
  if (process.platform === 'win32' || !shell || environment.TERM_PROGRAM !== undefined) return;
  const mark = randomBytes(12).toString('hex');
  const output = await new Promise<string | undefined>((resolve) => {
    const command = `printf %s ${mark}; env -0; printf %s ${mark}`;
    const child = spawn(shell, ['-i', '-l', '-c', command], {
      env: { ...environment, TERM: 'dumb' },
      stdio: ['ignore', 'pipe', 'ignore'],
      timeout,
      killSignal: 'SIGKILL',
      // An interactive shell takes the terminal of whoever started it.
      detached: true,
    });
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (more: string) => {
      text += more;
      if (text.length > largest) child.kill('SIGKILL');
    });
    child.on('error', (error) => {
      log.warn('environment', `the login shell ${shell} could not be asked: ${error.message}`);
      resolve(undefined);
    });
    child.on('close', (code, signal) => {
      if (signal) log.warn('environment', `the login shell ${shell} was ended by ${signal} after ${timeout / 1000} s`);
      else if (code !== 0) log.warn('environment', `the login shell ${shell} ended with ${code}`);
      resolve(text);
    });
  });
  const found = output === undefined ? undefined : parseEnvironment(output, mark);
  if (!found) {
    if (output !== undefined) log.warn('environment', `the login shell ${shell} did not say what its environment is`);
    return;
  }
  for (const [name, value] of found) if (!own.has(name)) environment[name] = value;
  log.info('environment', `${found.size} variables taken from the login shell ${shell}`);
}
