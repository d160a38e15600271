import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';

/**
 * Path of a file that is shipped beside the code ("node-agent/api/crds"). The code may run from its sources, from a
 * bundle in out/, or inside a packaged application: all three have it at a parent of the running file.
 */
export function projectFile(relative: string): string {
  let directory = import.meta.dirname;
  for (;;) {
    const candidate = join(directory, relative);
    if (existsSync(candidate)) return candidate;
    const parent = dirname(directory);
    if (parent === directory) throw new Error(`${relative} is missing from this build`);
    directory = parent;
  }
}
