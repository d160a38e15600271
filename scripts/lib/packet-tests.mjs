// Which Go tests give packets to the programs of bpf/ without real traffic: those of the files of package datapath itself. The
// files of package datapath_test beside them have network namespaces with traffic between them.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './bootstrap.mjs';

const directory = join(root, 'node-agent', 'internal', 'datapath');
const testFile = (name) => name.endsWith('_test.go');
const testsOf = (text) => [...text.matchAll(/^func (Test\w+)\(t \*testing\.T\)/gm)].map((match) => match[1]);

/** Their names; with `unique` without those that a test of another package has too. */
export function packetTests({ unique = false } = {}) {
  const names = readdirSync(directory)
    .filter(testFile)
    .map((name) => readFileSync(join(directory, name), 'utf8'))
    .filter((text) => /^package datapath$/m.test(text))
    .flatMap(testsOf);
  if (!unique) return names;
  const module = join(root, 'node-agent');
  const others = new Set(
    readdirSync(module, { recursive: true, withFileTypes: true })
      .filter((entry) => testFile(entry.name) && entry.parentPath !== directory)
      .flatMap((entry) => testsOf(readFileSync(join(entry.parentPath, entry.name), 'utf8'))),
  );
  return names.filter((name) => !others.has(name));
}
