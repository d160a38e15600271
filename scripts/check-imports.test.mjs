import { describe, expect, it } from 'vitest';
import { checkImports, importsOf, problemOf } from './check-imports.mjs';

const value = (specifier) => ({ specifier, type: false });

describe('the direction of imports', () => {
  it.each([
    ['contract/flows.ts', 'zod/mini'],
    ['contract/rpc/client.ts', '../failure.ts'],
    ['renderer/views/flows/table.tsx', '../../../contract/index.ts'],
    ['renderer/views/flows/table.tsx', 'react'],
    ['main/engine/flows/index.ts', '../../../contract/index.ts'],
    ['main/engine/flows/index.ts', 'node:fs'],
    ['main/serve/server.ts', '../engine/engine.ts'],
    ['main/shell/index.ts', 'electron'],
    ['contract/rpc/rpc.test.ts', 'node:worker_threads'],
    ['scripts/x.ts', 'electron'],
  ])('%s may import %s', (path, specifier) => expect(problemOf(path, value(specifier))).toBeUndefined());

  it.each([
    ['contract/flows.ts', 'node:fs'],
    ['contract/flows.ts', 'react'],
    ['contract/flows.ts', '../main/engine/engine.ts'],
    ['renderer/app/x.ts', '../../main/engine/engine.ts'],
    ['renderer/app/x.ts', 'fs'],
    ['renderer/app/x.ts', 'electron'],
    ['main/engine/x.ts', 'electron'],
    ['main/engine/x.test.ts', 'electron'],
    ['main/engine/flows/x.ts', '../../serve/server.ts'],
    ['main/engine/flows/x.ts', '../../../renderer/app/x.ts'],
    ['main/engine/flows/x.ts', 'react'],
    ['main/serve/x.ts', '../shell/index.ts'],
    ['main/shell/x.ts', '../serve/server.ts'],
    ['main/engine/x.ts', '../../scripts/y.ts'],
  ])('%s may not import %s', (path, specifier) => expect(problemOf(path, value(specifier))).toBeTypeOf('string'));

  it('lets the engine name electron’s types', () => {
    expect(problemOf('main/engine/x.ts', { specifier: 'electron', type: true })).toBeUndefined();
  });

  it('finds every kind of import', () => {
    const source = `import a from 'a';\nimport type { B } from 'b';\nimport { type C, type D } from 'c';\nimport { type E, f } from 'd';\nimport 'e';\nexport * from 'f';\nexport type { G } from 'g';\nconst h = await import('h');\nrequire('i');\n// import 'j'\n/* import 'k' */\nimport {\n  l,\n} from 'l';\n`;
    expect(
      importsOf(source)
        .map(({ specifier, type }) => `${specifier}${type ? ' type' : ''}`)
        .sort(),
    ).toEqual(['a', 'b type', 'c type', 'd', 'e', 'f', 'g type', 'h', 'i', 'l']);
  });

  it('holds in this checkout', () => {
    expect(checkImports()).toEqual([]);
  });
});
