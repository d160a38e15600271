import { createReadStream } from 'node:fs';
import type { Readable } from 'node:stream';
import { failed, ok, type Result } from '../../../contract/failure.ts';
import type { SshConnector, SshSession } from '../ssh/ssh-connector.ts';
import type { ImageArchive } from './image.ts';
import type { StepContext } from './steps.ts';

/** Where containerd listens; k3s has its own. */
const sockets = ['/run/containerd/containerd.sock', '/run/k3s/containerd/containerd.sock'] as const;

/** `ctr` for the kubelet's images, with sudo where the login is not root's. */
async function containerCommand(session: SshSession, signal: AbortSignal): Promise<Result<string>> {
  const probe = await session.run(
    'if [ "$(id -u)" = 0 ]; then echo root; elif sudo -n true 2>/dev/null; then echo sudo; else echo none; fi; command -v ctr || ls /usr/local/bin/ctr /var/lib/rancher/k3s/data/current/bin/ctr 2>/dev/null | head -1',
    { signal },
  );
  if (!probe.ok) return probe;
  const [right, command] = probe.value.stdout.toString('utf8').trim().split('\n');
  if (right === 'none')
    return failed({
      code: 'install.no-root',
      what: `The SSH login on ${session.host} may not load images.`,
      why: 'It is not root and sudo asks for a password.',
      fix: 'Log in as root, or allow sudo without a password for this user.',
    });
  if (!command)
    return failed({
      code: 'install.no-ctr',
      what: `containerd's client ctr was not found on ${session.host}.`,
      why: 'It is not in the path of the SSH login.',
      fix: 'Install it (it comes with containerd), or load the image by other means.',
    });
  const sudo = right === 'sudo' ? 'sudo -n ' : '';
  const socket = `"$(for s in ${sockets.join(' ')}; do if [ -S $s ]; then echo $s; break; fi; done)"`;
  return ok(`${sudo}${command} --address ${socket} -n k8s.io`);
}

/** Digest under which the node's containerd holds a name; undefined if it does not. */
async function digestOn(
  session: SshSession,
  ctr: string,
  name: string,
  signal: AbortSignal,
): Promise<Result<string | undefined>> {
  const listed = await session.run(`${ctr} images list name==${name}`, { signal });
  if (!listed.ok) return listed;
  if (listed.value.code !== 0)
    return failed({
      code: 'install.containerd',
      what: `containerd on ${session.host} does not answer.`,
      why: listed.value.stderr.trim() || `ctr ended with ${listed.value.code}.`,
      fix: 'Look at the containerd service of the node.',
    });
  return ok(/(sha256:[0-9a-f]{64})/.exec(listed.value.stdout.toString('utf8'))?.[1]);
}

/** The archive as a stream that tells in steps of ten percent how far it was read. */
function counted(image: ImageArchive, message: (text: string) => void): Readable {
  const file = createReadStream(image.path, { highWaterMark: 1 << 18 });
  let read = 0;
  let shown = -1;
  file.on('data', (chunk) => {
    read += chunk.length;
    const percent = Math.floor((read / Math.max(image.bytes, 1)) * 10) * 10;
    if (percent === shown) return;
    shown = percent;
    message(percent >= 100 ? 'importing' : `copying: ${percent} %`);
  });
  // Nothing may flow before the command on the other side reads.
  file.pause();
  return file;
}

/**
 * Brings the image into the containerd of a node: streams the archive into it, gives it the name made of its digest,
 * and checks that containerd holds exactly that digest. Says `skipped` where it is there already.
 */
export async function sideLoad(
  ssh: SshConnector,
  alias: string,
  image: ImageArchive,
  { signal, log, message }: StepContext,
): Promise<Result<{ readonly message: string; readonly skipped?: boolean }>> {
  const connected = await ssh.connect(alias, { signal });
  if (!connected.ok) return connected;
  const session = connected.value;
  try {
    const found = await containerCommand(session, signal);
    if (!found.ok) return found;
    const ctr = found.value;
    const before = await digestOn(session, ctr, image.reference, signal);
    if (!before.ok) return before;
    if (before.value === image.digest) return ok({ message: `${image.reference} is there already`, skipped: true });

    log(`copying ${Math.ceil(image.bytes / 1e6)} MB to ${alias}`);
    // Straight into containerd: nothing is written to the node that would have to be removed again.
    const imported = await session.run(`${ctr} images import -`, { input: counted(image, message), signal });
    if (!imported.ok) return imported;
    for (const line of imported.value.stdout.toString('utf8').trim().split('\n')) log(line);
    if (imported.value.code !== 0)
      return failed({
        code: 'install.import-failed',
        what: `containerd on ${alias} refused the image.`,
        why: imported.value.stderr.trim() || `ctr ended with ${imported.value.code}.`,
        fix: 'Look at free space below /var/lib/containerd and at the containerd log of the node.',
      });
    const tagged = await session.run(`${ctr} images tag --force ${image.name} ${image.reference}`, { signal });
    if (!tagged.ok) return tagged;
    const after = await digestOn(session, ctr, image.reference, signal);
    if (!after.ok) return after;
    if (after.value !== image.digest)
      return failed({
        code: 'install.wrong-digest',
        what: `${alias} holds another image than was sent.`,
        why: `containerd says ${after.value ?? 'nothing'} for ${image.reference}; the archive has ${image.digest}.`,
        fix: 'Build the archive again and plan anew.',
      });
    return ok({ message: `${image.reference} loaded` });
  } finally {
    session.close();
  }
}
