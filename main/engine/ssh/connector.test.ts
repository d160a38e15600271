import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { silent } from '../log.ts';
import { createSshConnector } from './connector.ts';
import type { SshSession } from './ssh-connector.ts';
import { makeKey, openFixture, type SshFixture, sshd, type TestServer } from './testing.ts';

const sessions: SshSession[] = [];
afterEach(() => {
  for (const session of sessions.splice(0)) session.close();
});

describe.skipIf(!sshd)(`real sshd on loopback${sshd ? '' : ' (skipped: openssh-server is not installed)'}`, () => {
  let fixture: SshFixture;
  let one: TestServer;
  let two: TestServer;
  let count = 0;
  beforeAll(async () => {
    fixture = openFixture();
    one = await fixture.start();
    two = await fixture.start();
  });
  afterAll(() => fixture?.close());

  const user = userInfo().username;
  function setUp(config: string, known: string) {
    count += 1;
    const knownHosts = fixture.file(`known-${count}`, known);
    const configPath = fixture.file(
      `config-${count}`,
      `${config}\nHost *\n  User ${user}\n  IdentityFile ${fixture.identity}\n  IdentityAgent none\n  UserKnownHostsFile ${knownHosts}\n  GlobalKnownHostsFile /dev/null\n`,
    );
    const stateDirectory = join(fixture.directory, `state-${count}`);
    mkdirSync(stateDirectory);
    return { connector: createSshConnector({ configPath, stateDirectory, log: silent }), stateDirectory, knownHosts };
  }
  const host = (alias: string, server: TestServer, more = '') =>
    `Host ${alias}\n  HostName 127.0.0.1\n  Port ${server.port}\n${more}`;
  const known = (server: TestServer) => `[127.0.0.1]:${server.port} ${server.hostKey}\n`;
  async function connect(
    connector: ReturnType<typeof setUp>['connector'],
    alias: string,
    options: Parameters<typeof connector.connect>[1] = {},
  ) {
    const result = await connector.connect(alias, options);
    if (!result.ok) throw new Error(`${result.failure.code}: ${result.failure.why}`);
    sessions.push(result.value);
    return result.value;
  }
  const failureOf = async (
    connector: ReturnType<typeof setUp>['connector'],
    alias: string,
    options: Parameters<typeof connector.connect>[1] = {},
  ) => {
    const result = await connector.connect(alias, options);
    if (result.ok) {
      result.value.close();
      throw new Error('connected');
    }
    return result.failure;
  };

  /** OpenSSH's own ssh gets in with this; the library cannot, by file or by agent, and the failure has to say so. */
  it('says that a certificate of the user cannot be used, and what can be done instead', async () => {
    const authority = makeKey(join(fixture.directory, 'authority'));
    const key = makeKey(join(fixture.directory, 'certified'));
    execFileSync('ssh-keygen', ['-q', '-s', authority, '-I', 'me', '-n', user, '-V', '+1d', `${key}.pub`]);
    const server = await fixture.start({ userAuthority: `${authority}.pub` });
    const certificate = `${key}-cert.pub`;
    const openssh = (...more: readonly string[]) =>
      execFileSync('ssh', [
        ...['-F', '/dev/null', '-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null'],
        ...['-o', 'BatchMode=yes', '-o', 'LogLevel=ERROR', '-i', key, '-p', String(server.port), ...more],
        ...[`${user}@127.0.0.1`, 'echo in'],
      ]).toString();
    expect(openssh()).toBe('in\n');
    const beside = setUp(host('certified', server, `  IdentityFile ${key}\n`), known(server));
    const named = setUp(host('certified', server, `  CertificateFile ${certificate}\n`), known(server));
    for (const { connector } of [beside, named]) {
      const failure = await failureOf(connector, 'certified');
      expect(failure.code).toBe('ssh.certificates-unsupported');
      expect(failure.why).toContain(certificate);
      expect(failure.fix).toContain('authorized_keys');
    }
    // What the failure says of agents is so: this one holds the certificate, and OpenSSH gets in with it.
    const socket = join(fixture.directory, 'agent');
    const started = execFileSync('ssh-agent', ['-a', socket]).toString();
    const agent = Number(/SSH_AGENT_PID=(\d+)/.exec(started)?.[1]);
    try {
      execFileSync('ssh-add', ['-q', key], { env: { ...process.env, SSH_AUTH_SOCK: socket } });
      const byAgent = setUp(
        host('certified', server, `  IdentityFile ${key}\n  IdentityAgent ${socket}\n`),
        known(server),
      );
      expect((await failureOf(byAgent.connector, 'certified')).code).toBe('ssh.certificates-unsupported');
    } finally {
      process.kill(agent);
    }
  });

  it('runs commands with input, exit code and errors', async () => {
    const { connector } = setUp(host('one', one), known(one));
    const session = await connect(connector, 'one');
    const result = await session.run('cat; echo problem >&2; exit 3', { input: Readable.from([Buffer.from('in')]) });
    expect(result).toMatchObject({ ok: true, value: { code: 3, stderr: 'problem\n' } });
    if (result.ok) expect(result.value.stdout.toString()).toBe('in');
    const abort = new AbortController();
    const endless = session.run('sleep 1000', { signal: abort.signal });
    abort.abort();
    expect(await endless).toMatchObject({ ok: false, failure: { code: 'cancelled' } });
  });

  it('opens a shell that can be resized and ends', async () => {
    const { connector } = setUp(host('one', one), known(one));
    const shell = await (await connect(connector, 'one')).shell(100, 30);
    if (!shell.ok) throw new Error(shell.failure.why);
    let text = '';
    shell.value.stream.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    shell.value.resize(91, 17);
    shell.value.stream.write('stty size; exit 4\n');
    expect((await shell.value.exit).code).toBe(4);
    expect(text).toContain('17 91');
  });

  it('uploads a file with progress', async () => {
    const { connector } = setUp(host('one', one), known(one));
    const session = await connect(connector, 'one');
    const local = join(fixture.directory, 'up');
    writeFileSync(local, randomBytes(3 << 20));
    let last = 0;
    expect(await session.upload(local, `${local}.there`, (bytes) => (last = bytes))).toEqual({
      ok: true,
      value: undefined,
    });
    expect(last).toBe(3 << 20);
    expect(readFileSync(`${local}.there`).equals(readFileSync(local))).toBe(true);
    expect(await session.upload(local, '/no/such/directory/x')).toMatchObject({ ok: false });
  });

  it('goes through jump hosts and streams to a port beyond them', async () => {
    const { connector } = setUp(`${host('one', one)}${host('two', two, '  ProxyJump one\n')}`, known(one) + known(two));
    const session = await connect(connector, 'two');
    const result = await session.run('echo $SSH_CONNECTION');
    expect(result.ok && result.value.stdout.toString()).toContain(String(two.port));
    const server = createServer((socket) => socket.end('hello'));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    const stream = await session.streamTo('127.0.0.1', typeof address === 'object' && address ? address.port : 0);
    if (!stream.ok) throw new Error(stream.failure.why);
    let text = '';
    for await (const chunk of stream.value) text += String(chunk);
    expect(text).toBe('hello');
    server.close();
  });

  it('refuses an unknown key before it authenticates, and keeps an accepted one in its own store', async () => {
    const { connector, stateDirectory, knownHosts } = setUp(host('one', one), '');
    expect(await failureOf(connector, 'one')).toMatchObject({ code: 'ssh.host-key-unknown' });
    expect(await failureOf(connector, 'one', { askHostKey: async () => false })).toMatchObject({
      code: 'ssh.host-key-unknown',
    });
    const fingerprint = execFileSync('ssh-keygen', ['-lf', '-'], { input: one.hostKey }).toString().split(' ')[1];
    let asked: unknown;
    await connect(connector, 'one', {
      askHostKey: async (question) => {
        asked = question;
        return true;
      },
    });
    expect(asked).toEqual({ host: 'one', algorithm: 'ssh-ed25519', fingerprint });
    expect(readFileSync(join(stateDirectory, 'known_hosts'), 'utf8')).toContain(one.hostKey);
    expect(readFileSync(knownHosts, 'utf8')).toBe('');
    await connect(connector, 'one');
  });

  it('does not ask when the configuration is strict', async () => {
    const { connector } = setUp(host('one', one, '  StrictHostKeyChecking yes\n'), '');
    expect(await failureOf(connector, 'one', { askHostKey: async () => true })).toMatchObject({
      code: 'ssh.host-key-unknown',
    });
  });

  it.each(['no', 'off'])('asks for an unknown key where the configuration would take any (%s)', async (value) => {
    const { connector } = setUp(host('one', one, `  StrictHostKeyChecking ${value}\n`), '');
    let asked = 0;
    const askHostKey = async () => {
      asked += 1;
      return false;
    };
    expect((await failureOf(connector, 'one', { askHostKey })).code).toBe('ssh.host-key-unknown');
    expect(asked).toBe(1);
  });

  it('stops hard at a changed key, whatever anybody answers, and shows both fingerprints', async () => {
    const { connector } = setUp(
      host('one', one, '  StrictHostKeyChecking no\n'),
      `[127.0.0.1]:${one.port} ${two.hostKey}\n`,
    );
    const failure = await failureOf(connector, 'one', { askHostKey: async () => true });
    expect(failure.code).toBe('ssh.host-key-changed');
    expect(failure.why.match(/SHA256:/g)).toHaveLength(2);
    expect(failure.fix).toContain('ssh-keygen -R');
  });

  it('stops hard at a changed key of a jump host and at a revoked key', async () => {
    const { connector } = setUp(
      `${host('one', one)}${host('two', two, '  ProxyJump one\n')}`,
      `[127.0.0.1]:${one.port} ${two.hostKey}\n${known(two)}`,
    );
    expect((await failureOf(connector, 'two')).code).toBe('ssh.host-key-changed');
    const revoked = setUp(host('one', one), `${known(one)}@revoked * ${one.hostKey}\n`);
    expect((await failureOf(revoked.connector, 'one')).code).toBe('ssh.host-key-revoked');
  });

  it('knows hashed names, wildcards and HostKeyAlias', async () => {
    const hashed = setUp(host('one', one), known(one));
    execFileSync('ssh-keygen', ['-q', '-H', '-f', hashed.knownHosts], { stdio: 'ignore' });
    expect(readFileSync(hashed.knownHosts, 'utf8')).toMatch(/^\|1\|/);
    await connect(hashed.connector, 'one');
    await connect(setUp(host('one', one), `[127.0.0.?]:* ${one.hostKey}\n`).connector, 'one');
    await connect(setUp(host('one', one, '  HostKeyAlias node-one\n'), `node-one ${one.hostKey}\n`).connector, 'one');
  });

  it('asks the server for the key that is on record when it has several', async () => {
    const rsa = makeKey(join(fixture.directory, `rsa-${count}`), '', 'rsa');
    const server = await fixture.start({ hostKey: rsa });
    await connect(setUp(host('rsa', server), known(server)).connector, 'rsa');
  });

  it('tells what is wrong with keys', async () => {
    const encrypted = makeKey(join(fixture.directory, `locked-${count}`), 'secret');
    const { connector } = setUp(
      host('one', one, `  IdentityFile ${encrypted}\n  IdentitiesOnly yes\n`).replace('Host one', 'Host one'),
      known(one),
    );
    // The fixture's own key comes after the encrypted one and is used.
    await connect(connector, 'one');
    const only = fixture.file(
      'only-locked',
      `Host one\n  HostName 127.0.0.1\n  Port ${one.port}\n  IdentityFile ${encrypted}\n  IdentityAgent none\n  UserKnownHostsFile ${fixture.file('kl', known(one))}\n`,
    );
    const locked = createSshConnector({ configPath: only, stateDirectory: fixture.directory, log: silent });
    expect(await failureOf(locked, 'one')).toMatchObject({ code: 'ssh.key-encrypted' });
    const stranger = makeKey(join(fixture.directory, `stranger-${count}`));
    const wrong = fixture.file(
      'wrong',
      `Host one\n  HostName 127.0.0.1\n  Port ${one.port}\n  User ${user}\n  IdentityFile ${stranger}\n  IdentityAgent none\n  UserKnownHostsFile ${fixture.file('kw', known(one))}\n`,
    );
    expect(
      await failureOf(createSshConnector({ configPath: wrong, stateDirectory: fixture.directory, log: silent }), 'one'),
    ).toMatchObject({ code: 'ssh.authentication-failed' });
    const none = fixture.file('none', `Host one\n  IdentityFile /nowhere/key\n  IdentityAgent none\n`);
    expect(
      await failureOf(createSshConnector({ configPath: none, stateDirectory: fixture.directory, log: silent }), 'one'),
    ).toMatchObject({ code: 'ssh.no-keys' });
  });

  it('tells of servers that are not there, chains that go in circles, and proxy commands', async () => {
    const gone = await fixture.start();
    await gone.stop();
    expect(await failureOf(setUp(host('gone', gone), known(gone)).connector, 'gone')).toMatchObject({
      code: 'ssh.unreachable',
    });
    expect(await failureOf(setUp('Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n', '').connector, 'a')).toMatchObject({
      code: 'ssh.too-many-hops',
    });
    const command = setUp(host('one', one, `  ProxyCommand touch ${fixture.directory}/ran\n`), known(one));
    expect(await failureOf(command.connector, 'one')).toMatchObject({ code: 'ssh.proxy-command' });
    const silentServer = createServer(() => {});
    await new Promise<void>((resolve) => silentServer.listen(0, '127.0.0.1', resolve));
    const address = silentServer.address();
    const port = typeof address === 'object' && address ? address.port : 0;
    expect(
      await failureOf(
        setUp(`Host quiet\n  HostName 127.0.0.1\n  Port ${port}\n  ConnectTimeout 1\n`, '').connector,
        'quiet',
      ),
    ).toMatchObject({ code: 'ssh.timeout' });
    silentServer.close();
  });

  it('reads Includes, lists hosts and finds nodes by name or address, without running Match exec', async () => {
    const marker = join(fixture.directory, 'match-ran');
    fixture.file('extra-1', `Host node7\n  HostName 10.0.0.7\n`);
    const { connector } = setUp(
      `Match exec "touch ${marker}"\n  Port 1\nInclude extra-*\nHost web db-*\n  HostName 10.0.0.9\n`,
      '',
    );
    expect(await connector.hosts()).toEqual({ ok: true, value: ['node7', 'web'] });
    expect(await connector.aliasFor({ name: 'node7', address: 'x' })).toBe('node7');
    expect(await connector.aliasFor({ name: 'worker', address: '10.0.0.9' })).toBe('web');
    expect(await connector.aliasFor({ name: 'worker', address: '10.0.0.1' })).toBeUndefined();
    expect(existsSync(marker)).toBe(false);
    const missing = createSshConnector({
      configPath: join(fixture.directory, 'nope'),
      stateDirectory: fixture.directory,
      log: silent,
    });
    expect(await missing.hosts()).toMatchObject({ ok: false, failure: { code: 'ssh.config-unreadable' } });
  });

  it('tells sessions when the server goes away', async () => {
    const server = await fixture.start();
    const session = await connect(setUp(host('x', server), known(server)).connector, 'x');
    const running = session.run('kill -9 $PPID; sleep 100');
    expect(await running).toMatchObject({ ok: false, failure: { code: 'ssh.broke' } });
    expect(await session.run('true')).toMatchObject({ ok: false, failure: { code: 'ssh.broke' } });
  });
});
