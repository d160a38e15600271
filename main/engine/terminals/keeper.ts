import { randomBytes } from 'node:crypto';

/** How long what was made for a shell stays when no console takes it away. */
export const keptSeconds = 4 * 3600;

/** A name that no other shell has. */
export function freshName(): string {
  return `fairlead-debug-${randomBytes(4).toString('hex')}`;
}

/**
 * First process of a container that is made for a shell. The shell itself is run beside it, so that a lost connection
 * can be taken up again; this one only waits, ends when it is told to, and ends by itself when nobody does. Its name is
 * an argument of its own, by which it is found among the processes of a pod.
 */
export function keeper(name: string): readonly string[] {
  return ['sh', '-c', `trap 'exit 0' TERM HUP INT; sleep ${keptSeconds} & wait $!`, name];
}

/** Ends a keeper from beside it, whatever process number it has; the container ends with it. */
export function endKeeper(name: string): readonly string[] {
  const script =
    'for p in /proc/[0-9]*; do [ "${p#/proc/}" = "$$" ] || case "$(cat "$p/cmdline" 2>/dev/null)" in *"$0"*) kill -TERM "${p#/proc/}" ;; esac; done 2>/dev/null; true';
  return ['sh', '-c', script, name];
}

const betterShell = 'if command -v bash >/dev/null 2>&1; then exec bash -l; fi; exec sh -l';

/** A shell of the container's own image. */
export const shellCommand: readonly string[] = ['sh', '-c', betterShell];

/** A shell of the node, whose files are below /host. */
export const nodeShellCommand: readonly string[] = [
  'sh',
  '-c',
  `PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH; c=chroot; command -v chroot >/dev/null 2>&1 || c='busybox chroot'; exec $c /host /bin/sh -c 'cd /root 2>/dev/null || cd /; ${betterShell}'`,
];
