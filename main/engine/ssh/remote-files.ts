import { failed, ok, type Result } from '../../../contract/failure.ts';
import { quote } from '../flows/shell.ts';
import type { SshSession } from './ssh-connector.ts';

/** A file of another machine, in memory. */
export interface RemoteFile {
  readonly path: string;
  readonly content: Buffer;
}

const largestFile = 4 << 20;

/**
 * Prints every file of the list that can be read: a line "FILE size path", then the bytes. Plain POSIX shell, since that
 * is all one can count on; sudo only where it asks nothing. Nothing is written there.
 */
function script(paths: readonly string[]): string {
  return [
    'show() {',
    '  for run in "" "sudo -n"; do',
    '    size=$($run cat "$1" 2>/dev/null | wc -c) || continue',
    '    size=$((size))',
    '    [ "$size" -gt 0 ] || continue',
    `    [ "$size" -le ${largestFile} ] || return 0`,
    '    printf "FILE %d %s\\n" "$size" "$1"',
    '    $run cat "$1" 2>/dev/null | head -c "$size"',
    '    printf "\\n"',
    '    return 0',
    '  done',
    '}',
    // A path may begin with the home directory or be the value of KUBECONFIG there.
    ...paths.map((path) =>
      path === '$KUBECONFIG'
        ? 'IFS_WAS=$IFS; IFS=:; for file in $KUBECONFIG; do IFS=$IFS_WAS; [ -z "$file" ] || show "$file"; done; IFS=$IFS_WAS'
        : path.startsWith('~/')
          ? `show "$HOME"/${quote(path.slice(2))}`
          : `show ${quote(path)}`,
    ),
  ].join('\n');
}

/** Reads the output of the script above. What does not fit its form ends the reading: nothing is guessed. */
export function parseFiles(output: Buffer): readonly RemoteFile[] {
  const files: RemoteFile[] = [];
  let at = 0;
  while (at < output.length) {
    const end = output.indexOf(10, at);
    if (end < 0) break;
    const header = /^FILE (\d{1,8}) (.+)$/.exec(output.toString('utf8', at, end));
    if (!header) break;
    const size = Number(header[1]);
    const from = end + 1;
    if (from + size > output.length) break;
    files.push({ path: header[2] ?? '', content: output.subarray(from, from + size) });
    at = from + size + 1;
  }
  return files;
}

/** Reads files of the machine into memory; what is missing or may not be read is left out. */
export async function readRemoteFiles(
  session: SshSession,
  paths: readonly string[],
  signal?: AbortSignal,
): Promise<Result<readonly RemoteFile[]>> {
  const ran = await session.run(`sh -c ${quote(script(paths))}`, signal ? { signal } : {});
  if (!ran.ok) return ran;
  const files = parseFiles(ran.value.stdout);
  if (files.length === 0 && ran.value.code !== 0 && ran.value.stderr.trim() !== '')
    return failed({
      code: 'ssh.read-failed',
      what: `Files of ${session.host} could not be read.`,
      why: `Its shell answered: ${ran.value.stderr.trim().slice(0, 300)}`,
      fix: 'Log in with a user that has a POSIX shell.',
    });
  return ok(files);
}
