import { spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { createEngine } from '../engine/engine.ts';
import { createLog } from '../engine/log.ts';
import { projectFile } from '../engine/project.ts';
import { readOptions } from './options.ts';
import { startServer } from './server.ts';
import { beginSession } from './session.ts';

/** Opens the user's browser; nothing happens where there is none (no display, no opener). */
function openBrowser(address: string): void {
  if (process.platform === 'linux' && !process.env.DISPLAY && !process.env.WAYLAND_DISPLAY) return;
  const [program, args] =
    process.platform === 'darwin'
      ? ['open', [address]]
      : process.platform === 'win32'
        ? ['rundll32', ['url.dll,FileProtocolHandler', address]]
        : ['xdg-open', [address]];
  const child = spawn(program as string, args as string[], { stdio: 'ignore', detached: true });
  child.on('error', () => {});
  child.unref();
}

/** Browser mode: engine and server until a signal ends them. Standard output carries the address and nothing else. */
export async function main(args: readonly string[]): Promise<void> {
  const options = readOptions(args);
  const log = createLog({
    file: join(options.stateDirectory, 'fairlead.log'),
    least: options.verbose ? 'debug' : 'info',
    // The file has everything; the terminal has what a person should look at.
    shown: options.verbose ? 'debug' : 'warn',
  });
  const tell = (line: string) => process.stderr.write(`${line}\n`);
  const engine = await createEngine({
    stateDirectory: options.stateDirectory,
    log,
    mode: 'browser',
    denyLoginPrograms: options.denyLoginPrograms,
    kubeconfigs: options.kubeconfigs,
    ...(options.context === undefined ? {} : { context: options.context }),
    ...(options.sshConfig === undefined ? {} : { sshConfig: options.sshConfig }),
  });
  const serving = await startServer({
    implementation: engine.implementation,
    log,
    content: dirname(projectFile('out/renderer/index.html')),
    port: options.port,
    portRequired: options.portRequired,
    ...(options.token === undefined ? {} : { token: options.token }),
  });
  // Before anything that takes long: signals must find something that closes.
  let session: Awaited<ReturnType<typeof beginSession>> | undefined;
  let closing = false;
  const close = () => {
    if (closing) {
      process.exit(1);
    }
    closing = true;
    void serving
      .close()
      .then(() => engine.close())
      .then(() => session?.close())
      .then(() => process.exit(0));
    // A second signal ends at once; a lab that is being taken down gets its time.
    setTimeout(() => process.exit(1), 60_000).unref();
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, close);

  process.stdout.write(`${serving.address}\n`);
  session = await beginSession({
    engine,
    lab: options.lab,
    recording: options.recording,
    keepLab: options.keepLab,
    tell,
  });
  if (options.open && !options.lab) openBrowser(serving.address);
  const ready = await session.ready;
  if (!options.lab) return;
  if (ready) {
    tell(`The console is at ${serving.address}`);
    if (options.open) openBrowser(serving.address);
  } else tell('The console stays open; Ctrl-C ends it.');
}

if (import.meta.main) {
  main(process.argv.slice(2)).catch((error: unknown) => {
    process.stderr.write(`Fairlead did not start.\nWhy: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(1);
  });
}
