import { globSync, readFileSync } from 'node:fs';
import { homedir, userInfo } from 'node:os';
import { dirname, isAbsolute, join } from 'node:path';
import SSHConfig from 'ssh-config';
import { failed, ok, type Result } from '../../../contract/failure.ts';

/** What ssh_config says of one host, with defaults filled in. */
export interface HostSettings {
  readonly alias: string;
  readonly hostName: string;
  readonly port: number;
  readonly user: string;
  readonly identityFiles: readonly string[];
  readonly identitiesOnly: boolean;
  /** Certificates that the configuration names beside keys (CertificateFile). */
  readonly certificateFiles: readonly string[];
  /** Socket of the agent; "" for none. */
  readonly agent: string;
  /** Hops on the way, nearest first; each an alias or user@host:port. */
  readonly proxyJump: readonly string[];
  /** A command instead of a connection: not supported, named in the failure. */
  readonly proxyCommand: string;
  readonly knownHostsFiles: readonly string[];
  readonly hostKeyAlias: string;
  readonly strict: 'yes' | 'ask' | 'accept-new';
  /** Milliseconds until a hop has to have let us in, not counting the time a person takes to answer. */
  readonly connectTimeout: number;
  /** Milliseconds of silence after which the server is asked whether it is there; 0 never. */
  readonly keepaliveInterval: number;
  readonly keepaliveCountMax: number;
  /** Never ask anybody anything. */
  readonly batchMode: boolean;
  readonly keyboardInteractive: boolean;
  readonly password: boolean;
  readonly passwordPrompts: number;
}

const maxDepth = 16;

function home(path: string): string {
  return path === '~' || path.startsWith('~/') ? join(homedir(), path.slice(1)) : path;
}

/**
 * Text of a configuration with its Includes put in. Relative ones are relative to ~/.ssh, as OpenSSH has it for the
 * user's file, and to the including file's directory otherwise.
 */
export function readWithIncludes(path: string, depth = 0): string {
  const text = readFileSync(path, 'utf8');
  if (depth > maxDepth) throw new Error(`Include goes deeper than ${maxDepth} files at ${path}`);
  const lines: string[] = [];
  let block = '';
  for (const line of text.split(/\r?\n/)) {
    if (/^\s*(host|match)[\s=]/i.test(line)) block = line;
    const include = /^\s*include[\s=]+(.*)$/i.exec(line);
    if (!include) {
      lines.push(line);
      continue;
    }
    for (const pattern of (include[1] ?? '').match(/"[^"]*"|\S+/g) ?? []) {
      const name = home(pattern.replace(/^"|"$/g, ''));
      for (const file of globSync(isAbsolute(name) ? name : join(dirname(path), name)).sort()) {
        lines.push(readWithIncludes(file, depth + 1));
      }
    }
    // What follows belongs to the block that the Include stood in, not to the last one of the included file.
    lines.push(block || 'Host *');
  }
  return lines.join('\n');
}

const words = (value: unknown): readonly string[] =>
  Array.isArray(value) ? value.flatMap(words) : typeof value === 'string' ? [value] : [];

/** A parsed configuration. */
export interface SshConfiguration {
  readonly aliases: readonly string[];
  readonly settings: (alias: string) => HostSettings;
}

/** Reads a configuration. A missing file is an empty configuration unless it was named on purpose. */
export function loadSshConfig(path: string | undefined): Result<SshConfiguration> {
  const file = path ?? join(homedir(), '.ssh', 'config');
  let text = '';
  try {
    text = readWithIncludes(file);
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    if (path !== undefined || !missing) {
      return failed({
        code: 'ssh.config-unreadable',
        what: `The SSH configuration ${file} cannot be read.`,
        why: missing
          ? 'The file, or one that it includes, does not exist.'
          : error instanceof Error
            ? error.message
            : String(error),
        fix: 'Check the path (--ssh-config PATH) and who may read it.',
      });
    }
  }
  let parsed: SSHConfig;
  try {
    parsed = SSHConfig.parse(text);
  } catch (error) {
    return failed({
      code: 'ssh.config-malformed',
      what: `The SSH configuration ${file} cannot be read.`,
      why: error instanceof Error ? error.message : String(error),
      fix: 'Correct the file; ssh -G HOST shows what OpenSSH makes of it.',
    });
  }
  const aliases: string[] = [];
  for (const line of text.split('\n')) {
    const host = /^\s*host[\s=]+(.*)$/i.exec(line);
    if (!host) continue;
    for (const name of (host[1] ?? '').split(/\s+/)) {
      const alias = name.replace(/^"|"$/g, '');
      if (alias && !/[*?!]/.test(alias) && !aliases.includes(alias)) aliases.push(alias);
    }
  }
  return ok({ aliases, settings: (alias) => settingsOf(parsed, alias) });
}

function settingsOf(config: SSHConfig, alias: string): HostSettings {
  // "Match exec" would run programs to decide: such blocks are left out.
  const computed = config.compute(alias, { ignoreCase: true, matchExec: false }) as Readonly<Record<string, unknown>>;
  const one = (name: string) => words(computed[name])[0];
  const all = (name: string) => words(computed[name]);
  const user = one('user') ?? userInfo().username;
  const hostName = (one('hostname') ?? alias).replaceAll('%h', alias).replaceAll('%%', '%');
  const port = Number(one('port') ?? 22) || 22;
  const expand = (text: string) =>
    home(text).replace(/%(.)/g, (all, token: string) => {
      switch (token) {
        case '%':
          return '%';
        case 'h':
          return hostName;
        case 'n':
          return alias;
        case 'p':
          return String(port);
        case 'r':
          return user;
        case 'u':
          return userInfo().username;
        case 'd':
          return homedir();
        default:
          return all;
      }
    });
  const identities = all('identityfile').map(expand);
  const agent = one('identityagent');
  const socket =
    agent === undefined || agent === 'SSH_AUTH_SOCK'
      ? (process.env.SSH_AUTH_SOCK ?? '')
      : agent === 'none'
        ? ''
        : expand(agent.startsWith('$') ? (process.env[agent.slice(1)] ?? '') : agent);
  const jump = one('proxyjump');
  const proxyCommand = all('proxycommand').join(' ');
  const strict = (one('stricthostkeychecking') ?? 'ask').toLowerCase();
  const yes = (name: string, otherwise: boolean) => {
    const value = one(name)?.toLowerCase();
    return value === undefined ? otherwise : value === 'yes' || value === 'true';
  };
  const interval = (value: string | undefined, otherwise: number) =>
    value !== undefined && /^\d+$/.test(value) ? Number(value) : otherwise;
  const preferred = one('preferredauthentications')?.toLowerCase().split(',');
  const prefers = (method: string) => preferred === undefined || preferred.includes(method);
  const files = (name: string, fallback: readonly string[]) => {
    const given = all(name).flatMap((value) => value.split(/\s+/));
    return (given.length > 0 ? given : fallback).filter((value) => value.toLowerCase() !== 'none').map(expand);
  };
  return {
    alias,
    hostName,
    port,
    user,
    identityFiles:
      identities.length > 0
        ? identities
        : ['id_ed25519', 'id_ecdsa', 'id_rsa'].map((name) => join(homedir(), '.ssh', name)),
    certificateFiles: files('certificatefile', []),
    identitiesOnly: one('identitiesonly')?.toLowerCase() === 'yes',
    agent: socket,
    proxyJump: jump === undefined || jump.toLowerCase() === 'none' ? [] : jump.split(',').map((hop) => hop.trim()),
    proxyCommand: proxyCommand.toLowerCase() === 'none' ? '' : proxyCommand,
    knownHostsFiles: [
      ...files('userknownhostsfile', ['~/.ssh/known_hosts', '~/.ssh/known_hosts2']),
      ...files('globalknownhostsfile', ['/etc/ssh/ssh_known_hosts']),
    ],
    hostKeyAlias: one('hostkeyalias') ?? '',
    // "no" and "off" would accept any key unseen: Fairlead asks instead, and never accepts a changed one.
    strict: strict === 'yes' || strict === 'true' ? 'yes' : strict === 'accept-new' ? 'accept-new' : 'ask',
    connectTimeout: (Number(one('connecttimeout')) || 10) * 1000,
    // OpenSSH's own default is never; a console that shows whether a cluster is there has to notice by itself.
    keepaliveInterval: interval(one('serveraliveinterval'), 15) * 1000,
    keepaliveCountMax: Number(one('serveralivecountmax')) || 3,
    batchMode: yes('batchmode', false),
    keyboardInteractive:
      yes('kbdinteractiveauthentication', yes('challengeresponseauthentication', true)) &&
      prefers('keyboard-interactive'),
    password: yes('passwordauthentication', true) && prefers('password'),
    passwordPrompts: Number(one('numberofpasswordprompts')) || 3,
  };
}

/** A hop as ProxyJump writes it, over what the configuration says of its host. */
export function hopSettings(config: SshConfiguration, hop: string): HostSettings {
  const parts = /^(?:ssh:\/\/)?(?:([^@]+)@)?(\[[^\]]+\]|[^:]+)(?::(\d+))?$/.exec(hop);
  const host = (parts?.[2] ?? hop).replace(/^\[|\]$/g, '');
  const settings = config.settings(host);
  return {
    ...settings,
    user: parts?.[1] ?? settings.user,
    port: parts?.[3] === undefined ? settings.port : Number(parts[3]),
  };
}
