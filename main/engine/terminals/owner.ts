import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Names this console in what it makes in clusters, so that a later one of the same user knows what was left behind. */
export interface Owner {
  readonly name: string;
  /** True for a name of this user's consoles whose process is gone. */
  readonly isGone: (name: string) => boolean;
}

/** When a process began, as the kernel counts; "" where there is no /proc. Numbers of processes are used again, these are not. */
function began(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in the second field may hold anything, spaces and brackets too.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    return '';
  }
}

function runs(pid: number, since: string): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    // Somebody else's process is there, but it is no console of this user.
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
  }
  const now = began(pid);
  return since === '' || now === '' || now === since;
}

/** Reads, or makes, the name in the state directory; the number of the process, and since when it runs, stand behind it. */
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
  const own = `${id}.${process.pid}.${began(process.pid)}`;
  return {
    name: own,
    isGone(name) {
      const [other, pid, since = ''] = name.split('.');
      return other === id && name !== own && !runs(Number(pid), since);
    },
  };
}
