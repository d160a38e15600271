import { mkdirSync, readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { Server } from 'ssh2';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { silent } from '../log.ts';
import { createSshConnector } from './connector.ts';
import type { SshSession } from './ssh-connector.ts';
import { makeKey, openFixture, type SshFixture, sshd } from './testing.ts';

let fixture: SshFixture;
beforeAll(() => {
  fixture = openFixture();
});
afterAll(() => fixture?.close());

let count = 0;
/** A session with a server on this port of loopback, its key checked. */
async function connect(port: number, hostKey: string): Promise<SshSession> {
  count += 1;
  const known = fixture.file(`known-${count}`, `[127.0.0.1]:${port} ${hostKey}\n`);
  const configPath = fixture.file(
    `config-${count}`,
    `Host one\n  HostName 127.0.0.1\n  Port ${port}\nHost *\n  User ${userInfo().username}\n  IdentityFile ${fixture.identity}\n  IdentityAgent none\n  UserKnownHostsFile ${known}\n  GlobalKnownHostsFile /dev/null\n`,
  );
  const stateDirectory = join(fixture.directory, `state-${count}`);
  mkdirSync(stateDirectory);
  const connected = await createSshConnector({ configPath, stateDirectory, log: silent }).connect('one');
  if (!connected.ok) throw new Error(connected.failure.why);
  return connected.value;
}

/**
 * A server that says everything about a command in one go, from "it has begun" to "the channel is closed", as a loaded
 * client finds it in its socket. It runs on this very event loop, so that nothing of it can be read in between.
 */
describe('an answer that comes in one piece', () => {
  let server: Server;
  let session: SshSession;
  beforeAll(async () => {
    const key = makeKey(join(fixture.directory, 'piece'));
    server = new Server({ hostKeys: [readFileSync(key)] }, (client) => {
      client.on('error', () => undefined);
      client.on('authentication', (context) => context.accept());
      client.on('ready', () =>
        client.on('session', (accept) => {
          const channel = accept();
          channel.on('exec', (begin, _refuse, { command }) => {
            const stream = begin();
            stream.write(command);
            if (command.startsWith('kill')) stream.exit('KILL', false, '');
            else stream.exit(Number(command.split(' ')[1]));
            stream.end();
          });
          channel.on('pty', (yes) => yes?.());
          channel.on('shell', (begin) => {
            const stream = begin();
            stream.write('bye');
            stream.exit(7);
            stream.end();
          });
        }),
      );
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const hostKey = readFileSync(`${key}.pub`, 'utf8').split(' ').slice(0, 2).join(' ');
    session = await connect((server.address() as AddressInfo).port, hostKey);
  });
  afterAll(() => {
    session?.close();
    server?.close();
  });

  it('loses nothing of how a command ended', async () => {
    for (const [command, code] of [
      ['exit 0', 0],
      ['exit 3', 3],
      ['kill', null],
    ] as const) {
      const ran = await session.run(command);
      expect(ran, command).toMatchObject({ ok: true, value: { code } });
      expect(ran.ok && ran.value.stdout.toString(), command).toBe(command);
    }
  });

  it('loses nothing of how a shell ended', async () => {
    const shell = await session.shell(80, 24);
    if (!shell.ok) throw new Error(shell.failure.why);
    let text = '';
    for await (const chunk of shell.value.stream) text += String(chunk);
    expect(await shell.value.exit).toEqual({ code: 7, signal: null });
    expect(text).toBe('bye');
  });
});

describe.skipIf(!sshd)(`commands over a real sshd${sshd ? '' : ' (skipped: openssh-server is not installed)'}`, () => {
  let session: SshSession;
  beforeAll(async () => {
    const server = await fixture.start();
    session = await connect(server.port, server.hostKey);
  });
  afterAll(() => session?.close());

  it('side by side, that a signal ends, that read nothing of their input', async () => {
    // As many as sshd lets one connection have.
    const commands = Array.from({ length: 10 }, (_, index) => (index % 2 ? 'kill -9 $$' : `exit ${index}`));
    const results = await Promise.all(commands.map((command) => session.run(command)));
    expect(results.map((result) => (result.ok ? result.value.code : result.failure.why))).toEqual(
      commands.map((command, index) => (command.startsWith('kill') ? null : index)),
    );
    const unread = await session.run('exit 5', { input: Readable.from([Buffer.alloc(8 << 20)]) });
    expect(unread).toMatchObject({ ok: true, value: { code: 5 } });
  });

  it('one more than sshd allows is refused in its own words', async () => {
    const stop = new AbortController();
    const held = Array.from({ length: 10 }, () => session.run('sleep 60', { signal: stop.signal }));
    const begun = await session.run('true');
    stop.abort();
    await Promise.all(held);
    expect(begun).toMatchObject({ ok: false, failure: { code: 'ssh.broke' } });
    expect(begun.ok ? '' : begun.failure.why).toMatch(/open failed/i);
  });
});
