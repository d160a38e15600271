// The engine and the renderer with hot reload, for work on the renderer:
//
//   node scripts/dev.mjs [--port N] [--kubeconfig PATH] …     the same options as npm start has
//
// Everything but the page's files is exactly browser mode: the same engine, token, checks and headers.
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bootstrap } from './lib/bootstrap.mjs';

await bootstrap(import.meta.url);

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { createServer } = await import('vite');
const { createEngine } = await import('../main/engine/engine.ts');
const { createLog } = await import('../main/engine/log.ts');
const { readOptions } = await import('../main/serve/options.ts');
const { startServer } = await import('../main/serve/server.ts');

const options = readOptions(process.argv.slice(2));
const log = createLog({ least: options.verbose ? 'debug' : 'info' });
const engine = await createEngine({
  stateDirectory: options.stateDirectory,
  log,
  mode: 'browser',
  kubeconfigs: options.kubeconfigs,
  ...(options.sshConfig === undefined ? {} : { sshConfig: options.sshConfig }),
});

let vite;
const serving = await startServer({
  implementation: engine.implementation,
  log,
  content: join(root, 'out', 'renderer'),
  port: options.port,
  token: options.token,
  development: async (server) => {
    vite = await createServer({
      configFile: join(root, 'vite.config.ts'),
      mode: 'development',
      server: { middlewareMode: true, hmr: { server } },
    });
    return { handle: vite.middlewares, upgradePath: '/' };
  },
});
process.stdout.write(`${serving.address}\n`);

const close = async () => {
  await vite?.close();
  await serving.close();
  await engine.close();
  process.exit(0);
};
process.on('SIGINT', close);
process.on('SIGTERM', close);
