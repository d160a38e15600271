import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createEngine } from '../engine/engine.ts';
import { createLog } from '../engine/log.ts';
import { readOptions } from './options.ts';
import { startServer } from './server.ts';

/** Directory of the built renderer: beside this file's bundle, or in out/ of the checkout. */
const here = fileURLToPath(new URL('.', import.meta.url));
const content = here.includes(`${join('out', 'serve')}`)
  ? join(here, '..', 'renderer')
  : join(here, '..', '..', 'out', 'renderer');

async function main(): Promise<void> {
  const options = readOptions(process.argv.slice(2));
  const log = createLog({
    file: join(options.stateDirectory, 'fairlead.log'),
    least: options.verbose ? 'debug' : 'info',
  });
  const engine = await createEngine({
    stateDirectory: options.stateDirectory,
    log,
    mode: 'browser',
    kubeconfigs: options.kubeconfigs,
    ...(options.sshConfig === undefined ? {} : { sshConfig: options.sshConfig }),
  });
  const serving = await startServer({
    implementation: engine.implementation,
    log,
    content,
    port: options.port,
    portRequired: options.portRequired,
    ...(options.token === undefined ? {} : { token: options.token }),
  });
  // The one line on standard output: scripts read it.
  process.stdout.write(`${serving.address}\n`);
  let closing = false;
  const close = () => {
    if (closing) return;
    closing = true;
    void serving
      .close()
      .then(() => engine.close())
      .then(() => process.exit(0));
    setTimeout(() => process.exit(1), 5000).unref();
  };
  process.on('SIGINT', close);
  process.on('SIGTERM', close);
}

main().catch((error: unknown) => {
  process.stderr.write(`Fairlead did not start.\nWhy: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(1);
});
