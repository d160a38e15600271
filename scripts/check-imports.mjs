// Dependencies point one way: renderer → contract ← main/engine ← main/shell, main/serve. This says where they do not.
//
//   node scripts/check-imports.mjs        exit code 1 and one line per wrong import
import { readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const builtins = new Set([...builtinModules, ...builtinModules.map((name) => `node:${name}`)]);

/** Which room of the house a file is in. */
export function roomOf(path) {
  if (path.startsWith('contract/')) return 'contract';
  if (path.startsWith('renderer/')) return 'renderer';
  for (const room of ['engine', 'serve', 'shell']) if (path.startsWith(`main/${room}/`)) return `main/${room}`;
  return 'outside';
}

const mayImport = {
  contract: ['contract'],
  renderer: ['renderer', 'contract'],
  'main/engine': ['main/engine', 'contract'],
  'main/serve': ['main/serve', 'main/engine', 'contract'],
  'main/shell': ['main/shell', 'main/engine', 'contract'],
};

/** Every import of a source text: static, dynamic, re-export, require; type-only ones are marked. */
export function importsOf(source) {
  const text = source
    .replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ' '))
    .replace(/^\s*\/\/.*$/gm, '');
  const found = [];
  const add = (match, specifier, type) =>
    found.push({ specifier, type, line: text.slice(0, match.index).split('\n').length });
  for (const match of text.matchAll(/^\s*(import|export)\s+(type\s+)?([^'"`;]*?\sfrom\s+)?['"]([^'"\n]+)['"]/gm)) {
    // "import { type A, type B }" brings no value either.
    const names = /\{([^}]*)\}/.exec(match[3] ?? '')?.[1];
    const onlyTypes =
      names !== undefined &&
      !/^\s*\w+\s*,/.test(match[3] ?? '') &&
      names.split(',').every((name) => name.trim() === '' || name.trim().startsWith('type '));
    add(match, match[4], match[2] !== undefined || onlyTypes);
  }
  for (const match of text.matchAll(/\b(import|require)\(\s*['"]([^'"\n]+)['"]\s*\)/g)) {
    // "import('x').Y" in a type position loads nothing, but cannot be told apart by text: only electron cares.
    add(match, match[2], false);
  }
  return found;
}

/** Why an import is wrong; undefined when it is right. */
export function problemOf(path, { specifier, type }) {
  const room = roomOf(path);
  if (room === 'outside') return undefined;
  const test = /\.test\.tsx?$|\/testing(\.ts$|\/)|\/testing\.ts$/.test(path);
  if (specifier.startsWith('.')) {
    const target = relative(root, join(root, dirname(path), specifier))
      .split(sep)
      .join('/');
    const targetRoom = roomOf(target);
    if (targetRoom === 'outside') return test ? undefined : `${room} may not import ${target}`;
    return mayImport[room].includes(targetRoom) ? undefined : `${room} may not import ${targetRoom}`;
  }
  const name = specifier.startsWith('@') ? specifier.split('/').slice(0, 2).join('/') : specifier.split('/')[0];
  if (name === 'electron' && room !== 'main/shell' && !type)
    return 'only main/shell may import electron (types may be imported anywhere in main/)';
  if (test) return undefined;
  if (room === 'contract' && name !== 'zod') return `contract may import only zod, not ${name}`;
  if (room === 'renderer' && (builtins.has(specifier) || name === 'electron'))
    return `the renderer runs in a sandbox: it may not import ${specifier}`;
  if (room.startsWith('main/') && /^react(-dom)?$/.test(name)) return `${room} may not import ${name}`;
  return undefined;
}

function sourcesBelow(directory) {
  return readdirSync(join(root, directory), { recursive: true, withFileTypes: true })
    .filter(
      (entry) =>
        entry.isFile() &&
        /\.tsx?$/.test(entry.name) &&
        !entry.parentPath.endsWith('/gen') &&
        !entry.parentPath.includes('/gen/'),
    )
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join('/'));
}

/** All wrong imports of the checkout, as "file:line: why". */
export function checkImports() {
  const problems = [];
  for (const path of ['contract', 'main', 'renderer'].flatMap(sourcesBelow)) {
    for (const found of importsOf(readFileSync(join(root, path), 'utf8'))) {
      const problem = problemOf(path, found);
      if (problem) problems.push(`${path}:${found.line}: ${problem} (${found.specifier})`);
    }
  }
  return problems;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const problems = checkImports();
  for (const problem of problems) process.stderr.write(`${problem}\n`);
  process.exit(problems.length > 0 ? 1 : 0);
}
