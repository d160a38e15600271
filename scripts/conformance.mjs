// npm run conformance: Kubernetes’ own network tests against the lab, see lab/conformance/run.ts. Arguments are passed on.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { bootstrap, root } from './lib/bootstrap.mjs';

await bootstrap(import.meta.url);
const { installPackages } = await import('./lib/packages.mjs');
await installPackages();
await import(pathToFileURL(join(root, 'lab', 'conformance', 'run.ts')).href);
