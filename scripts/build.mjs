// Builds what is run: node scripts/build.mjs [renderer] [serve] [main] [preload] [wasm]   (all of them unless named)
//
// A part whose sources have not changed since its last build is left as it is; --force builds it anyway.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { bootstrap, root } from './lib/bootstrap.mjs';
import { unlessFresh } from './lib/fresh.mjs';
import { has, run } from './lib/run.mjs';

await bootstrap(import.meta.url);

const shared = ['contract', 'package-lock.json', 'vite.config.ts'];
const parts = {
  renderer: { output: 'out/renderer/index.html', inputs: ['renderer', ...shared] },
  serve: { output: 'out/serve/index.js', inputs: ['main', ...shared] },
  main: { output: 'out/main/index.js', inputs: ['main', ...shared] },
  preload: { output: 'out/preload/index.cjs', inputs: ['main/shell', ...shared] },
};

/** Builds one part with vite. */
async function vite(mode) {
  const { code, output } = await run('vite', ['build', '--mode', mode, '--logLevel', 'warn']);
  if (code === 0) return;
  process.stderr.write(
    `${output}\nBuilding ${mode} failed.\nWhy: see above.\nFix: correct what it names; if packages are missing, delete node_modules and run this again.\n`,
  );
  process.exit(1);
}

const named = process.argv.slice(2).filter((arg) => !arg.startsWith('--'));
const force = process.argv.includes('--force');
const wanted = named.length > 0 ? named : ['wasm', ...Object.keys(parts)];
for (const name of wanted) {
  if (name === 'wasm') {
    // The policy engine as WebAssembly; its own script knows when it is fresh.
    if (!(await has('go'))) {
      process.stderr.write(
        'The policy engine is not built: Go is not installed. Policies are not validated in this console.\n',
      );
      continue;
    }
    const { code, output } = await run(process.execPath, [join(root, 'scripts', 'build-policy-wasm.mjs')]);
    if (code !== 0) {
      process.stderr.write(output);
      process.exit(1);
    }
    continue;
  }
  const part = parts[name];
  if (!part) {
    process.stderr.write(`There is no part “${name}”: ${['wasm', ...Object.keys(parts)].join(', ')}.\n`);
    process.exit(2);
  }
  if (!part.inputs.slice(0, 1).every((input) => existsSync(join(root, input)))) continue;
  if (force) await vite(name);
  else if (await unlessFresh(part.output, part.inputs, () => vite(name))) process.stderr.write(`Built ${name}.\n`);
}
