import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { connect as connectTcp } from 'node:net';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import ssh2 from 'ssh2';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { Log } from '../log.ts';
import { type Login, prepareLogin, type UnlockedKeys } from './authentication.ts';
import { type HostSettings, hopSettings, loadSshConfig, type SshConfiguration } from './config.ts';
import {
  fingerprint,
  judge,
  type KnownHost,
  keyAlgorithm,
  knownHostName,
  parseKnownHosts,
  preferredAlgorithms,
} from './known-hosts.ts';
import { createSession } from './session.ts';
import type { ConnectOptions, HostKeyQuestion, SecretQuestion, SshConnector, SshSession } from './ssh-connector.ts';

export interface SshOptions {
  /** OpenSSH configuration; ~/.ssh/config unless told. */
  readonly configPath?: string;
  /** Accepted host keys are kept here; the user's known_hosts files are read and never written. */
  readonly stateDirectory: string;
  readonly log: Log;
  /** Who answers what a login needs, where the caller of `connect` does not say otherwise. */
  readonly ask?: {
    readonly hostKey: (question: HostKeyQuestion, signal: AbortSignal) => Promise<boolean>;
    readonly secrets: (question: SecretQuestion, signal: AbortSignal) => Promise<readonly string[] | undefined>;
  };
}

type Ask = ConnectOptions['askHostKey'];

/** What ssh2 offers by default, in its order; chosen from so that a server shows a key that is on record. */
const supported = [
  'ssh-ed25519',
  'ecdsa-sha2-nistp256',
  'ecdsa-sha2-nistp384',
  'ecdsa-sha2-nistp521',
  'rsa-sha2-512',
  'rsa-sha2-256',
];
const maxHops = 8;

interface Hop {
  readonly settings: HostSettings;
  readonly client: ssh2.Client;
}

/** Connects to machines as the user's SSH configuration says, with host keys checked before anything is sent to them. */
export function createSshConnector(options: SshOptions): SshConnector {
  const { log } = options;
  const own = join(options.stateDirectory, 'known_hosts');
  const unlocked: UnlockedKeys = new Map();

  const readKnown = (settings: HostSettings): readonly KnownHost[] => {
    const entries: KnownHost[] = [];
    for (const file of [...settings.knownHostsFiles, own]) {
      if (!existsSync(file)) continue;
      try {
        entries.push(...parseKnownHosts(readFileSync(file, 'utf8'), file));
      } catch (error) {
        log.warn('ssh', `${file} cannot be read: ${String(error)}`);
      }
    }
    return entries;
  };
  const remember = (name: string, blob: Buffer) => {
    mkdirSync(options.stateDirectory, { recursive: true, mode: 0o700 });
    appendFileSync(own, `${name} ${keyAlgorithm(blob)} ${blob.toString('base64')}\n`, { mode: 0o600 });
  };

  /** Undefined when the key may be trusted. */
  const checkKey = async (settings: HostSettings, blob: Buffer, ask: Ask | undefined): Promise<Failure | undefined> => {
    const name = settings.hostKeyAlias
      ? settings.hostKeyAlias.toLowerCase()
      : knownHostName(settings.hostName, settings.port);
    const verdict = judge(readKnown(settings), [name], blob);
    const shown = fingerprint(blob);
    const algorithm = keyAlgorithm(blob);
    switch (verdict.kind) {
      case 'known':
        return undefined;
      case 'revoked':
        return {
          code: 'ssh.host-key-revoked',
          what: `${settings.alias} was not connected: its host key has been revoked.`,
          why: `It showed ${shown} (${algorithm}), which ${verdict.entry.file}, line ${verdict.entry.line}, marks as revoked.`,
          fix: 'Do not connect. Ask whoever runs the machine for a new host key.',
        };
      case 'changed': {
        const recorded = verdict.entries.map(
          (entry) =>
            `${fingerprint(Buffer.from(entry.key, 'base64'))} (${entry.algorithm}; ${entry.file}, line ${entry.line})`,
        );
        return {
          code: 'ssh.host-key-changed',
          what: `${settings.alias} was not connected: its host key is not the one on record.`,
          why: `It showed ${shown} (${algorithm}); on record is ${recorded.join(' and ')}. Either the machine was set up anew, or somebody is in between.`,
          fix: `Compare with the machine’s own (ssh-keygen -lf /etc/ssh/ssh_host_*.pub there). Only if it is right, remove the old line: ssh-keygen -R '${name}' -f ${verdict.entries[0]?.file ?? '~/.ssh/known_hosts'}`,
        };
      }
      case 'unknown': {
        const accept =
          settings.strict === 'accept-new' ||
          (settings.strict === 'ask' &&
            ask !== undefined &&
            (await ask({ host: settings.alias, algorithm, fingerprint: shown })));
        if (accept) {
          remember(name, blob);
          log.info('ssh', `${settings.alias}: the host key ${shown} was accepted`);
          return undefined;
        }
        return {
          code: 'ssh.host-key-unknown',
          what: `${settings.alias} was not connected: its host key is not known.`,
          why: `It showed ${shown} (${algorithm}), and no known_hosts file has a key for ${name}.${settings.strict === 'yes' ? ' The SSH configuration has StrictHostKeyChecking yes.' : ''}`,
          fix: `Compare it with the machine’s own, then connect once with ssh ${settings.alias} (or connect from Fairlead’s window and accept it there).`,
        };
      }
    }
  };

  const openClient = async (
    settings: HostSettings,
    sock: Duplex | undefined,
    { askHostKey: ask, askSecrets, signal }: ConnectOptions,
  ): Promise<Result<ssh2.Client>> => {
    // The time a person takes to answer does not count against the server.
    let pause: () => () => void = () => () => {};
    const askUncounted =
      askSecrets &&
      (async (question: SecretQuestion) => {
        const resume = pause();
        try {
          return await askSecrets(question);
        } finally {
          resume();
        }
      });
    const auth = prepareLogin(settings, unlocked, askUncounted);
    if (!auth.ok) return auth;
    let stream = sock;
    if (!stream) {
      const dialled = await dialTcp(settings);
      if (!dialled.ok) return dialled;
      stream = dialled.value;
    }
    const names = [
      settings.hostKeyAlias ? settings.hostKeyAlias.toLowerCase() : knownHostName(settings.hostName, settings.port),
    ];
    const client = new ssh2.Client();
    let refusal: Failure | undefined;
    return new Promise((resolve) => {
      let settled = false;
      const settle = (result: Result<ssh2.Client>) => {
        if (settled) return;
        settled = true;
        signal?.removeEventListener('abort', abort);
        clearTimeout(timer);
        if (!result.ok) {
          client.end();
          stream.destroy();
        }
        resolve(result);
      };
      const abort = () =>
        settle(
          failed({
            code: 'cancelled',
            what: `Connecting to ${settings.alias} was ended.`,
            why: 'It was no longer needed.',
            fix: 'Nothing to do.',
          }),
        );
      const count = () => setTimeout(() => settle(failed(timedOut(settings))), settings.connectTimeout);
      let timer = count();
      pause = () => {
        clearTimeout(timer);
        return () => {
          if (!settled) timer = count();
        };
      };
      const refused = (error: Error & { readonly level?: string }) =>
        refusal ?? (auth.value.cancelled() ? givenUp(settings) : connectFailure(settings, error, auth.value));
      signal?.addEventListener('abort', abort, { once: true });
      if (signal?.aborted) return abort();
      client.on('ready', () => settle(ok(client)));
      client.on('error', (error: Error & { readonly level?: string }) => settle(failed(refused(error))));
      client.on('close', () => settle(failed(refused(new Error('the connection was closed')))));
      try {
        client.connect({
          sock: stream,
          host: settings.hostName,
          port: settings.port,
          username: settings.user,
          readyTimeout: 0,
          keepaliveInterval: settings.keepaliveInterval,
          keepaliveCountMax: settings.keepaliveCountMax,
          algorithms: {
            serverHostKey: [
              ...preferredAlgorithms(readKnown(settings), names, supported),
            ] as ssh2.ServerHostKeyAlgorithm[],
          },
          hostVerifier: (key: Buffer, verify: (valid: boolean) => void) => {
            const resume = pause();
            void checkKey(settings, key, ask).then(
              (failure) => {
                refusal = failure;
                if (failure) log.warn('ssh', `${failure.code}: ${failure.why}`);
                resume();
                verify(failure === undefined);
              },
              (error: unknown) => {
                refusal = connectFailure(
                  settings,
                  error instanceof Error ? error : new Error(String(error)),
                  undefined,
                );
                verify(false);
              },
            );
          },
          authHandler: auth.value.handler,
        });
      } catch (error) {
        settle(failed(connectFailure(settings, error instanceof Error ? error : new Error(String(error)), auth.value)));
      }
    });
  };

  /** The chain of hops to a host, nearest first, the host itself last. */
  const chain = (config: SshConfiguration, settings: HostSettings, depth = 0): Result<readonly HostSettings[]> => {
    if (depth > maxHops) {
      return failed({
        code: 'ssh.too-many-hops',
        what: `${settings.alias} cannot be reached.`,
        why: `Its ProxyJump chain has more than ${maxHops} hops, or goes in a circle.`,
        fix: 'Correct ProxyJump in the SSH configuration.',
      });
    }
    if (settings.proxyCommand) {
      return failed({
        code: 'ssh.proxy-command',
        what: `${settings.alias} cannot be reached.`,
        why: `Its SSH configuration uses ProxyCommand (${settings.proxyCommand.split(' ')[0]}), and Fairlead runs no programs to connect.`,
        fix: 'Use ProxyJump instead.',
      });
    }
    const hops: HostSettings[] = [];
    for (const [index, name] of settings.proxyJump.entries()) {
      const hop = hopSettings(config, name);
      // Only the first hop brings its own way; the others are reached through the one before.
      if (index > 0) {
        hops.push(hop);
        continue;
      }
      const before = chain(config, hop, depth + 1);
      if (!before.ok) return before;
      hops.push(...before.value);
    }
    return hops.length > maxHops ? chain(config, settings, maxHops + 1) : ok([...hops, settings]);
  };

  const connectorBehind = (gateway: string | undefined): SshConnector => ({
    async hosts() {
      const config = loadSshConfig(options.configPath);
      return config.ok ? ok(config.value.aliases) : config;
    },
    async aliasFor({ name, address }) {
      const config = loadSshConfig(options.configPath);
      if (!config.ok) return undefined;
      const { aliases, settings } = config.value;
      if (aliases.includes(name)) return name;
      const named = aliases.find((alias) => settings(alias).hostName === address);
      if (named !== undefined || gateway === undefined) return named;
      return address === '' ? undefined : address;
    },
    async connect(alias, given = {}) {
      const waits = given.signal ?? new AbortController().signal;
      const { ask } = options;
      const connectOptions: ConnectOptions = {
        ...(ask
          ? {
              askHostKey: (question) => ask.hostKey(question, waits),
              askSecrets: (question) => ask.secrets(question, waits),
            }
          : {}),
        ...given,
      };
      const config = loadSshConfig(options.configPath);
      if (!config.ok) return config;
      const route = chain(config.value, settingsBehind(config.value, alias, gateway));
      if (!route.ok) return route;
      const impossible = route.value.find(({ hostName, port }) => hostName === '' || !isPort(port));
      if (impossible) return failed(noAddress(alias, impossible));
      const hops: Hop[] = [];
      const ended = new AbortController();
      const close = () => {
        ended.abort();
        for (const { client } of [...hops].reverse()) client.end();
      };
      let sock: Duplex | undefined;
      for (const [index, settings] of route.value.entries()) {
        const opened = await openClient(settings, sock, connectOptions);
        if (!opened.ok) {
          close();
          return opened;
        }
        const client = opened.value;
        hops.push({ settings, client });
        client.on('close', close);
        const next = route.value[index + 1];
        if (!next) break;
        const forwarded = await new Promise<Result<Duplex>>((resolve) => {
          client.forwardOut('127.0.0.1', 0, next.hostName, next.port, (error, channel) =>
            resolve(
              error
                ? failed(
                    connectFailure(
                      next,
                      new Error(`${settings.alias} cannot reach ${next.hostName}:${next.port}: ${error.message}`),
                      undefined,
                    ),
                  )
                : ok(channel),
            ),
          );
        });
        if (!forwarded.ok) {
          close();
          return forwarded;
        }
        sock = forwarded.value;
      }
      const last = hops.at(-1);
      if (!last)
        return failed({
          code: 'ssh.no-route',
          what: `${alias} cannot be reached.`,
          why: 'Its configuration has no route.',
          fix: 'Correct the SSH configuration.',
        });
      const names = route.value.slice(0, -1).map((settings) => settings.alias);
      const session: SshSession = createSession([...names, alias], last.client, ended.signal, close);
      return ok(session);
    },
    behind: (host) => connectorBehind(host),
  });
  return connectorBehind(undefined);
}

/** Settings of a host; one that the configuration does not name is reached through the gateway, as the user there. */
function settingsBehind(config: SshConfiguration, alias: string, gateway: string | undefined): HostSettings {
  const settings = hopSettings(config, alias);
  if (gateway === undefined || alias === gateway || config.aliases.includes(alias) || settings.proxyJump.length > 0)
    return settings;
  return { ...settings, user: hopSettings(config, gateway).user, proxyJump: [gateway] };
}

const isPort = (port: number) => Number.isInteger(port) && port >= 1 && port <= 65_535;

function noAddress(alias: string, { alias: hop, hostName, port }: HostSettings): Failure {
  return {
    code: 'ssh.bad-host',
    what: `${alias} cannot be reached.`,
    why: hostName === '' ? `“${hop}” names no machine.` : `${hop} has port ${port}, and ports go from 1 to 65535.`,
    fix: 'Give an alias of the SSH configuration, or user@host:port; correct Port or ProxyJump where it comes from there.',
  };
}

function givenUp(settings: HostSettings): Failure {
  return {
    code: 'ssh.login-cancelled',
    what: `${settings.alias} was not connected.`,
    why: 'Its login asked for something, and nobody answered.',
    fix: 'Connect again and answer, or load a key into the SSH agent (ssh-add) so that nothing is asked.',
  };
}

function dialTcp(settings: HostSettings): Promise<Result<Duplex>> {
  return new Promise((resolve) => {
    const socket = connectTcp({ host: settings.hostName, port: settings.port, noDelay: true, keepAlive: true });
    const timer = setTimeout(
      () => socket.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })),
      settings.connectTimeout,
    );
    socket.once('error', (error) => {
      clearTimeout(timer);
      resolve(failed(connectFailure(settings, error, undefined)));
    });
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.removeAllListeners('error');
      resolve(ok(socket));
    });
  });
}

function timedOut(settings: HostSettings): Failure {
  return {
    code: 'ssh.timeout',
    what: `${settings.alias} was not connected.`,
    why: `${settings.hostName}:${settings.port} did not complete the login within ${settings.connectTimeout / 1000} s.`,
    fix: 'Check the machine and the network; ConnectTimeout in the SSH configuration allows more.',
  };
}

function connectFailure(
  settings: HostSettings,
  error: Error & { readonly level?: string },
  login: Pick<Login, 'notes' | 'certificates'> | undefined,
): Failure {
  const notes = login?.notes ?? [];
  const [certificate] = login?.certificates ?? [];
  const what = `${settings.alias} was not connected.`;
  const at = `${settings.hostName}:${settings.port}`;
  if (error.level === 'client-authentication' && certificate !== undefined)
    return {
      code: 'ssh.certificates-unsupported',
      what,
      why: `${at} accepted none of the keys for user ${settings.user} by themselves, and the certificate ${certificate} was not used: the SSH library names the certificate’s algorithm in its signatures, which OpenSSH refuses. This also goes for a certificate in an SSH agent.${notes.length > 0 ? ` ${notes.join(' ')}` : ''}`,
      fix: `Have a key of yours accepted there as it is (authorized_keys of ${settings.user}), or log in with a password or code. For a node of a cluster, its debug pod needs no SSH.`,
    };
  if (error.level === 'client-authentication') {
    return {
      code: 'ssh.authentication-failed',
      what,
      why: `${at} accepted none of the keys for user ${settings.user}.${notes.length > 0 ? ` ${notes.join(' ')}` : ''}`,
      fix: 'Load the right key into the SSH agent (ssh-add), or name it as IdentityFile; check the user name.',
    };
  }
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ECONNREFUSED')
    return {
      code: 'ssh.unreachable',
      what,
      why: `Nothing listens at ${at}.`,
      fix: 'Check that sshd runs there and that the address and port are right.',
    };
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN')
    return {
      code: 'ssh.unknown-host',
      what,
      why: `The name ${settings.hostName} cannot be resolved.`,
      fix: 'Check HostName in the SSH configuration.',
    };
  if (code === 'ETIMEDOUT') return timedOut(settings);
  if (/no matching (key exchange|host key|cipher|C->S)/i.test(error.message)) {
    return {
      code: 'ssh.no-common-algorithm',
      what,
      why: `${at} and Fairlead have no algorithm in common: ${error.message}`,
      fix: 'Allow curve25519-sha256 and ssh-ed25519 or rsa-sha2 on the server; post-quantum-only servers are not supported.',
    };
  }
  return {
    code: 'ssh.unreachable',
    what,
    why: `${at}: ${error.message}`,
    fix: 'Check the machine, its sshd and the network, then try again.',
  };
}
