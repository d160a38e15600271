import { AsyncLocalStorage } from 'node:async_hooks';
import { spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** The project's root. */
export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandOptions {
  readonly input?: string;
  /** Shows its output on stderr while it runs. */
  readonly echo?: boolean;
  /** Ended with SIGKILL after so many seconds; 600 unless told. */
  readonly seconds?: number;
  readonly environment?: Readonly<Record<string, string>>;
}

/** Which lab the commands are for; none means that of the environment. */
const labDirectory = new AsyncLocalStorage<string>();

/**
 * Runs `fn` with another lab: all that it and whatever it awaits ask of a lab is asked of the one in `directory`. Several
 * labs can be up side by side, each in a directory of its own.
 */
export function inLab<T>(directory: string, fn: () => T): T {
  return labDirectory.run(directory, fn);
}

/** Starts a command in the project's root, for the lab that is asked for. */
function start(command: string, args: readonly string[], environment: CommandOptions['environment'] = {}) {
  const directory = labDirectory.getStore();
  return spawn(command, args, {
    cwd: root,
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, ...(directory === undefined ? {} : { FAIRLEAD_LAB_RUN: directory }), ...environment },
  });
}

/** Runs a command to its end, whatever its exit code. */
export function run(command: string, args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = start(command, args, options.environment);
    let stdout = '';
    let stderr = '';
    const timer = setTimeout(() => child.kill('SIGKILL'), (options.seconds ?? 600) * 1000);
    child.stdout.on('data', (data: Buffer) => {
      stdout += data.toString();
      if (options.echo) process.stderr.write(data);
    });
    child.stderr.on('data', (data: Buffer) => {
      stderr += data.toString();
      if (options.echo) process.stderr.write(data);
    });
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(timer);
      resolve({ code: code ?? -1, stdout, stderr });
    });
    child.stdin.on('error', () => undefined);
    child.stdin.end(options.input ?? '');
  });
}

/** Runs a command; throws with the end of its output when it fails. */
export async function must(command: string, args: readonly string[], options: CommandOptions = {}): Promise<string> {
  const result = await run(command, args, options);
  if (result.code !== 0) {
    const output = `${result.stdout}\n${result.stderr}`.trim().slice(-1200);
    throw new Error(`${command} ${args.join(' ')} ended with ${result.code}: ${output}`);
  }
  return result.stdout;
}

/** A command that runs on and answers each line that it is told with one line. */
export interface Conversation {
  /** Tells it a line and gives its answer; throws, with the end of its error output, when it ends instead. */
  ask(line: string, seconds: number): Promise<string>;
  /** Ends its input and waits until it has ended. */
  end(): Promise<void>;
}

/** Starts a command to talk with. */
export function converse(command: string, args: readonly string[]): Conversation {
  const child = start(command, args);
  let stderr = '';
  child.stderr.on('data', (data: Buffer) => {
    stderr = (stderr + data.toString()).slice(-1200);
  });
  child.stdin.on('error', () => undefined);
  child.on('error', (error) => {
    stderr += error.message;
  });
  const ended = new Promise<void>((resolve) => {
    child.on('close', () => resolve());
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    ask: async (line, seconds) => {
      const timer = setTimeout(() => child.kill('SIGKILL'), seconds * 1000);
      child.stdin.write(`${line}\n`);
      const answer = await lines.next();
      clearTimeout(timer);
      if (answer.done) throw new Error(`${command} ${args.join(' ')} ended without an answer: ${stderr.trim()}`);
      return answer.value;
    },
    end: async () => {
      child.stdin.end();
      await ended;
    },
  };
}

/** Runs `lab/lab ARGS`. */
export function lab(args: readonly string[], options: CommandOptions = {}): Promise<string> {
  return must(join(root, 'lab/lab'), args, options);
}

/** Runs a command on a machine of the lab: "node1", "cp", "router", "outside". */
export function on(machine: string, command: readonly string[], options: CommandOptions = {}): Promise<string> {
  return lab(['exec', machine, '--', ...command], options);
}

/** Runs kubectl in the lab. */
export function kubectl(args: readonly string[], options: CommandOptions = {}): Promise<string> {
  return lab(['kubectl', ...args], options);
}

/** Starts a program in a pod of the lab to talk with. */
export function converseInPod(pod: string, command: readonly string[]): Conversation {
  return converse(join(root, 'lab/lab'), ['kubectl', 'exec', '-i', pod, '--', ...command]);
}

/** Creates or changes objects given as values. */
export async function apply(objects: readonly unknown[]): Promise<void> {
  await kubectl(['apply', '-f', '-'], { input: JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects }) });
}

/** Waits until `probe` gives a value; throws with the last reason after `seconds`. It asks again as soon as the last answer is in. */
export async function eventually<T>(what: string, seconds: number, probe: () => Promise<T | undefined>): Promise<T> {
  const end = performance.now() + seconds * 1000;
  let last = 'no answer yet';
  for (;;) {
    const before = performance.now();
    try {
      const value = await probe();
      if (value !== undefined) return value;
    } catch (error) {
      last = error instanceof Error ? error.message : String(error);
    }
    if (performance.now() > end) throw new Error(`${what}: not within ${seconds} s (${last})`);
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, 100 - (performance.now() - before))));
  }
}
