// No file that people write is longer than about 500 lines: past that it is two things.
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const limit = 500;
const written = /\.(ts|tsx|mjs|go|c|h|css|sh)$/;
const generated = /node_modules|\/gen\/|\.pb\.go$|zz_generated|\/out\/|\/dist\/|lab\/run/;

let failed = false;
for (const directory of ['contract', 'main', 'renderer', 'node-agent', 'bpf', 'lab', 'bench', 'e2e', 'scripts']) {
  for (const entry of readdirSync(join(root, directory), { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath, entry.name);
    if (!entry.isFile() || !written.test(entry.name) || generated.test(file)) continue;
    const lines = readFileSync(file, 'utf8').split('\n').length - 1;
    if (lines <= limit) continue;
    failed = true;
    process.stderr.write(`${relative(root, file)}: ${lines} lines (at most ${limit})\n`);
  }
}
process.exit(failed ? 1 : 0);
