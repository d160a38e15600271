import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Names this console in what it makes in clusters, so that a later one of the same user knows what was left behind. */
export interface Owner {
  readonly name: string;
  /** True for a name of this user's consoles whose process is gone. */
  readonly isGone: (name: string) => boolean;
}

function runs(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // Somebody else's process: it is there, but it is no console of this user.
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}

/** Reads, or makes, the name in the state directory; the number of the process stands behind it. */
export function openOwner(stateDirectory: string): Owner {
  const file = join(stateDirectory, 'console-id');
  let id = '';
  try {
    id = readFileSync(file, 'utf8').trim();
  } catch {
    // The first start.
  }
  if (!/^[0-9a-f-]{36}$/.test(id)) {
    id = randomUUID();
    try {
      mkdirSync(stateDirectory, { recursive: true, mode: 0o700 });
      writeFileSync(file, `${id}\n`, { mode: 0o600 });
    } catch {
      // Without it the next console does not know this one's: they go at their deadline.
    }
  }
  return {
    name: `${id}.${process.pid}`,
    isGone(name) {
      const [other, pid] = name.split('.');
      return other === id && Number(pid) !== process.pid && !runs(Number(pid));
    },
  };
}
