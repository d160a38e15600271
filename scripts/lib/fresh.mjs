// Skips work whose inputs have not changed: a stamp with the hash of their contents lies beside the output.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { root } from './bootstrap.mjs';

/** Every file below the given paths (relative to the root), in a stable order. */
function filesOf(paths) {
  const files = [];
  for (const path of paths) {
    const full = join(root, path);
    if (!existsSync(full)) continue;
    if (!statSync(full).isDirectory()) {
      files.push(full);
      continue;
    }
    for (const entry of readdirSync(full, { recursive: true, withFileTypes: true })) {
      const file = join(entry.parentPath, entry.name);
      if (entry.isFile() && !file.includes('node_modules')) files.push(file);
    }
  }
  return files.sort();
}

/** The hash of what lies in files: names and contents. */
export function hashOf(paths) {
  const hash = createHash('sha256');
  for (const file of filesOf(paths)) {
    hash.update(relative(root, file)).update('\0').update(readFileSync(file)).update('\0');
  }
  return hash.digest('hex');
}

/** Runs `work` unless `output` exists and was made from the same inputs. True when it ran. */
export async function unlessFresh(output, inputs, work) {
  const stamp = join(root, 'out', '.stamps', output.replaceAll('/', '-'));
  const hash = hashOf(inputs);
  if (existsSync(join(root, output)) && existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return false;
  await work();
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, hash);
  return true;
}
