import { spawn } from 'node:child_process';
import { root } from './bootstrap.mjs';

/**
 * Runs a program to its end. `echo` shows what it writes on standard error; the text is returned in any case (only the
 * last 8 MiB of it). Never throws: a program that could not be started has code 127.
 */
export function run(command, args, options = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: options.cwd ?? root,
      env: { ...process.env, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    let stdout = '';
    const keep = (text, more) => (text.length > 8 << 20 ? text.slice(4 << 20) : text) + more;
    child.stdout.setEncoding('utf8').on('data', (text) => {
      stdout = keep(stdout, text);
      output = keep(output, text);
      if (options.echo) process.stderr.write(text);
    });
    child.stderr.setEncoding('utf8').on('data', (text) => {
      output = keep(output, text);
      if (options.echo) process.stderr.write(text);
    });
    const timer = options.seconds ? setTimeout(() => child.kill('SIGKILL'), options.seconds * 1000) : undefined;
    child.on('error', (error) => {
      clearTimeout(timer);
      resolve({ code: 127, output: error.message, stdout: '' });
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ code: code ?? (signal ? 137 : 1), output, stdout });
    });
  });
}

/** Whether a program is on PATH. */
export async function has(program) {
  const { code } = await run(
    process.platform === 'win32' ? 'where' : 'sh',
    process.platform === 'win32' ? [program] : ['-c', `command -v ${program}`],
  );
  return code === 0;
}
