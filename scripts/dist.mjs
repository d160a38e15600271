// npm run dist: packages the desktop application for this system (electron-builder.yml). Arguments are passed on.
//
// Needs Electron's own binary, which electron-builder downloads once.
import { join } from 'node:path';
import { bootstrap, root } from './lib/bootstrap.mjs';
import { has, run } from './lib/run.mjs';

await bootstrap(import.meta.url);

const steps = [[process.execPath, [join(root, 'scripts', 'build.mjs'), 'wasm', 'renderer', 'main', 'preload']]];
if (await has('go')) steps.push([process.execPath, [join(root, 'scripts', 'build-agent.mjs')]]);
steps.push(['electron-builder', ['--config', 'electron-builder.yml', '--publish', 'never', ...process.argv.slice(2)]]);
for (const [command, args] of steps) {
  const { code } = await run(command, args, { echo: true });
  if (code !== 0) process.exit(1);
}
