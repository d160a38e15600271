import { builtinModules } from 'node:module';
import { fileURLToPath } from 'node:url';
import react from '@vitejs/plugin-react';
import { defineConfig, type UserConfig } from 'vite';

const root = fileURLToPath(new URL('.', import.meta.url));

// ssh2 loads its optional native parts relative to itself, so it stays a package of its own.
const external = [/^electron($|\/)/, /^node:/, 'ssh2', 'bufferutil', 'utf-8-validate', ...builtinModules];

function node(entry: string, outDir: string, format: 'es' | 'cjs', file: string): UserConfig {
  return {
    root,
    publicDir: false,
    build: {
      ssr: entry,
      outDir,
      target: 'node24',
      minify: false,
      sourcemap: true,
      rolldownOptions: { external, output: { format, entryFileNames: file } },
    },
    ssr: { noExternal: true },
  };
}

/** One build per place where code runs: `vite build --mode main|serve|preload|renderer`. */
export default defineConfig(({ mode }): UserConfig => {
  switch (mode) {
    case 'main':
      return node('main/shell/index.ts', 'out/main', 'es', 'index.js');
    case 'serve':
      return node('main/serve/index.ts', 'out/serve', 'es', 'index.js');
    case 'preload':
      // A sandboxed preload must be CommonJS.
      return node('main/shell/preload.ts', 'out/preload', 'cjs', 'index.cjs');
    default:
      return {
        root: `${root}renderer`,
        base: './',
        plugins: [react()],
        worker: { format: 'es' },
        build: { outDir: '../out/renderer', emptyOutDir: true, target: 'chrome140', chunkSizeWarningLimit: 1200 },
      };
  }
});
