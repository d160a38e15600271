import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import ssh2 from 'ssh2';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silent } from '../log.ts';
import { createSshConnector } from './connector.ts';
import type { SecretQuestion } from './ssh-connector.ts';
import { makeKey } from './testing.ts';

/** What the server below lets in. */
interface Doors {
  readonly password?: string;
  readonly code?: string;
  readonly publicKey?: string;
  readonly methods: ('password' | 'keyboard-interactive' | 'publickey')[];
}

const cleanups: (() => unknown)[] = [];
let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'fairlead-login-'));
  cleanups.push(() => rmSync(directory, { recursive: true, force: true }));
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** A real SSH server that asks for passwords and codes: the system's own would need accounts made for that. */
async function serve(doors: Doors): Promise<{ readonly port: number; readonly key: string; readonly tried: string[] }> {
  const file = makeKey(join(directory, 'host'));
  const tried: string[] = [];
  const server = new ssh2.Server({ hostKeys: [readFileSync(file)] }, (client) => {
    client.on('authentication', (context) => {
      tried.push(context.method);
      switch (context.method) {
        case 'password':
          if (doors.password !== undefined && context.password === doors.password) return context.accept();
          return context.reject(doors.methods);
        case 'keyboard-interactive':
          if (doors.code === undefined) return context.reject(doors.methods);
          return context.prompt([{ prompt: 'Verification code: ', echo: false }], 'Two factors', '', (answers) =>
            answers?.[0] === doors.code ? context.accept() : context.reject(doors.methods),
          );
        case 'publickey': {
          const allowed = doors.publicKey === undefined ? undefined : ssh2.utils.parseKey(doors.publicKey);
          if (!allowed || allowed instanceof Error || Array.isArray(allowed)) return context.reject(doors.methods);
          const same = allowed.getPublicSSH().equals(context.key.data);
          const signed =
            !context.signature || allowed.verify(context.blob as Buffer, context.signature, context.hashAlgo) === true;
          return same && signed ? context.accept() : context.reject(doors.methods);
        }
        default:
          return context.reject(doors.methods);
      }
    });
    client.on('error', () => {});
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => new Promise<void>((resolve) => server.close(() => resolve())));
  const address = server.address() as { readonly port: number };
  const key = readFileSync(`${file}.pub`, 'utf8').split(' ').slice(0, 2).join(' ');
  return { port: address.port, key, tried };
}

function connectorFor(server: { readonly port: number; readonly key: string }, more = '') {
  const known = join(directory, 'known');
  writeFileSync(known, `[127.0.0.1]:${server.port} ${server.key}\n`);
  const configPath = join(directory, 'config');
  writeFileSync(
    configPath,
    `Host box\n  HostName 127.0.0.1\n  Port ${server.port}\n  User ops\n  IdentityAgent none\n  UserKnownHostsFile ${known}\n  GlobalKnownHostsFile /dev/null\n${more}`,
  );
  const stateDirectory = join(directory, 'state');
  mkdirSync(stateDirectory, { recursive: true });
  return createSshConnector({ configPath, stateDirectory, log: silent });
}

/** Answers questions in turn and keeps what was asked. */
function answering(...answers: (readonly string[] | undefined)[]) {
  const asked: SecretQuestion[] = [];
  return {
    asked,
    askSecrets: async (question: SecretQuestion) => {
      asked.push(question);
      return answers[asked.length - 1];
    },
  };
}

const noKeys = '  IdentityFile /nowhere/key\n';

describe('logins that a person answers', () => {
  it('asks for a password again when it was wrong, and says for whom', async () => {
    const server = await serve({ password: 'right', methods: ['password'] });
    const { asked, askSecrets } = answering(['wrong'], ['right']);
    const session = await connectorFor(server, noKeys).connect('box', { askSecrets });
    if (!session.ok) throw new Error(session.failure.why);
    session.value.close();
    expect(asked).toEqual([
      {
        about: `ops@127.0.0.1:${server.port}`,
        title: 'Password',
        instructions: '',
        prompts: [{ label: `Password of ops@127.0.0.1:${server.port}`, hidden: true }],
      },
      expect.objectContaining({ title: 'That password was not accepted' }),
    ]);
    expect(server.tried).toEqual(['none', 'password', 'password']);
  });

  it('asks at most as often as the configuration says', async () => {
    const server = await serve({ password: 'right', methods: ['password'] });
    const { asked, askSecrets } = answering(['a'], ['b'], ['c'], ['right']);
    const session = await connectorFor(server, `${noKeys}  NumberOfPasswordPrompts 2\n`).connect('box', { askSecrets });
    expect(session).toMatchObject({ ok: false, failure: { code: 'ssh.authentication-failed' } });
    expect(asked).toHaveLength(2);
  });

  it('shows what the server asks, in the server’s words', async () => {
    const server = await serve({ code: '123456', methods: ['keyboard-interactive'] });
    const { asked, askSecrets } = answering(['123456']);
    const session = await connectorFor(server, noKeys).connect('box', { askSecrets });
    if (!session.ok) throw new Error(session.failure.why);
    session.value.close();
    expect(asked).toEqual([
      {
        about: `ops@127.0.0.1:${server.port}`,
        title: 'Two factors',
        instructions: '',
        prompts: [{ label: 'Verification code', hidden: true }],
      },
    ]);
  });

  it('tries no password where the configuration forbids it, and asks nothing in BatchMode', async () => {
    const server = await serve({ password: 'right', methods: ['password'] });
    for (const line of ['PasswordAuthentication no', 'PreferredAuthentications publickey', 'BatchMode yes']) {
      const { asked, askSecrets } = answering(['right']);
      const session = await connectorFor(server, `${noKeys}  ${line}\n`).connect('box', { askSecrets });
      expect(session.ok).toBe(false);
      expect(asked).toEqual([]);
    }
    expect(server.tried).not.toContain('password');
  });

  it('ends at once when the person gives up, and says so', async () => {
    const server = await serve({ password: 'right', methods: ['password'] });
    const { asked, askSecrets } = answering(undefined, ['right']);
    const session = await connectorFor(server, noKeys).connect('box', { askSecrets });
    expect(session).toMatchObject({ ok: false, failure: { code: 'ssh.login-cancelled' } });
    expect(asked).toHaveLength(1);
  });

  it('unlocks a key with its passphrase, once for as long as Fairlead runs', async () => {
    const file = makeKey(join(directory, 'locked'), 'open sesame');
    const server = await serve({ publicKey: readFileSync(`${file}.pub`, 'utf8'), methods: ['publickey'] });
    const connector = connectorFor(server, `  IdentityFile ${file}\n`);
    const { asked, askSecrets } = answering(['wrong'], ['open sesame']);
    for (let round = 0; round < 2; round++) {
      const session = await connector.connect('box', { askSecrets });
      if (!session.ok) throw new Error(session.failure.why);
      session.value.close();
    }
    expect(asked.map((question) => question.title)).toEqual(['Unlock an SSH key', 'That was not the passphrase']);
    expect(asked[0]?.instructions).toContain(file);
    // Another key in the same place is another key.
    rmSync(file);
    rmSync(`${file}.pub`);
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', 'other', '-f', file]);
    const again = answering(undefined);
    expect((await connector.connect('box', again)).ok).toBe(false);
    expect(again.asked).toHaveLength(1);
  });

  it('does not count the time that a person takes', async () => {
    const server = await serve({ password: 'right', methods: ['password'] });
    const session = await connectorFor(server, `${noKeys}  ConnectTimeout 1\n`).connect('box', {
      askSecrets: () => new Promise((resolve) => setTimeout(() => resolve(['right']), 1500)),
    });
    if (!session.ok) throw new Error(session.failure.why);
    session.value.close();
  });
});
