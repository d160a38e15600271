// npm run bench: the measurements of bench/, see bench/run.ts. Arguments are passed on.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { bootstrap, root } from './lib/bootstrap.mjs';

await bootstrap(import.meta.url);
const { installPackages } = await import('./lib/packages.mjs');
await installPackages();
await import(pathToFileURL(join(root, 'bench', 'run.ts')).href);
