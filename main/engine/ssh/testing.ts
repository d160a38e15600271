import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The system's OpenSSH server; undefined when it is not installed. */
export const sshd = ['/usr/sbin/sshd', '/usr/local/sbin/sshd', '/usr/bin/sshd'].find((path) => existsSync(path));

export interface TestServer {
  readonly port: number;
  /** "ssh-ed25519 AAAA…" of the host key. */
  readonly hostKey: string;
  readonly stop: () => Promise<void>;
}

export interface SshFixture {
  readonly directory: string;
  readonly identity: string;
  /** Starts a real sshd on loopback with a host key of its own. */
  readonly start: (options?: {
    readonly hostKey?: string;
    readonly port?: number;
    /** Channels that one connection may have; sshd's own default unless told. */
    readonly sessions?: number;
    /** Lets users in by certificates of this authority, and by nothing else. */
    readonly userAuthority?: string;
  }) => Promise<TestServer>;
  readonly file: (name: string, text: string) => string;
  readonly close: () => Promise<void>;
}

/** Makes a key pair; gives the private key's path. */
export function makeKey(path: string, passphrase = '', type = 'ed25519'): string {
  execFileSync('ssh-keygen', ['-q', '-t', type, '-N', passphrase, '-C', 'test', '-f', path]);
  return path;
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}

async function answering(port: number): Promise<void> {
  for (;;) {
    const up = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1');
      socket.once('data', () => {
        socket.destroy();
        resolve(true);
      });
      socket.once('error', () => resolve(false));
    });
    if (up) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A directory with a client key, and servers that let it in. */
export function openFixture(): SshFixture {
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-ssh-'));
  const identity = makeKey(join(directory, 'id'));
  const servers: (() => Promise<void>)[] = [];
  const file = (name: string, text: string) => {
    writeFileSync(join(directory, name), text, { mode: 0o600 });
    return join(directory, name);
  };
  return {
    directory,
    identity,
    file,
    async start(options = {}) {
      if (!sshd) throw new Error('no sshd');
      const port = options.port ?? (await freePort());
      const key = options.hostKey ?? makeKey(join(directory, `host-${port}-${servers.length}`));
      if (process.getuid?.() === 0) mkdirSync('/run/sshd', { recursive: true });
      const config = file(
        `sshd-${port}`,
        `Port ${port}\nListenAddress 127.0.0.1\nHostKey ${key}\nPidFile none\nAuthorizedKeysFile ${options.userAuthority ? 'none' : `${identity}.pub`}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\nLogLevel ERROR\n${options.sessions ? `MaxSessions ${options.sessions}\n` : ''}${options.userAuthority ? `TrustedUserCAKeys ${options.userAuthority}\n` : ''}`,
      );
      const child: ChildProcess = spawn(sshd, ['-D', '-e', '-f', config], { stdio: 'ignore', detached: false });
      const stop = async () => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        const gone = new Promise((resolve) => child.once('exit', resolve));
        child.kill('SIGKILL');
        await gone;
      };
      servers.push(stop);
      await answering(port);
      return { port, hostKey: readFileSync(`${key}.pub`, 'utf8').split(' ').slice(0, 2).join(' '), stop };
    },
    async close() {
      for (const stop of servers) await stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
