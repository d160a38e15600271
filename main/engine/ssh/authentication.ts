import { existsSync, readFileSync } from 'node:fs';
import ssh2 from 'ssh2';
import { failed, ok, type Result } from '../../../contract/failure.ts';
import type { HostSettings } from './config.ts';

/** Keys to log in with, in the order they are tried, and what of the configuration could not be used. */
export interface Identities {
  readonly handler: ssh2.AuthHandlerMiddleware;
  readonly notes: readonly string[];
}

/** An agent that offers only the keys that the configuration names (IdentitiesOnly). */
class OnlyAgent extends ssh2.BaseAgent {
  readonly #inner: ssh2.OpenSSHAgent;
  readonly #allowed: ReadonlySet<string>;
  constructor(socket: string, allowed: ReadonlySet<string>) {
    super();
    this.#inner = new ssh2.OpenSSHAgent(socket);
    this.#allowed = allowed;
  }
  override getIdentities(callback: (error?: Error | null, keys?: ssh2.ParsedKey[]) => void): void {
    this.#inner.getIdentities((error, keys) => {
      const parsed = (keys ?? []).map((key) => (Buffer.isBuffer(key) ? ssh2.utils.parseKey(key) : key));
      const usable = parsed.filter(
        (key): key is ssh2.ParsedKey =>
          !(key instanceof Error) && this.#allowed.has((key as ssh2.ParsedKey).getPublicSSH().toString('base64')),
      );
      callback(error, usable);
    });
  }
  override sign(
    key: ssh2.ParsedKey,
    data: Buffer,
    options: ssh2.SigningRequestOptions,
    callback?: ssh2.SignCallback,
  ): void;
  override sign(key: ssh2.ParsedKey, data: Buffer, callback: ssh2.SignCallback): void;
  override sign(...args: readonly unknown[]): void {
    this.#inner.sign(...(args as Parameters<ssh2.OpenSSHAgent['sign']>));
  }
}

function parse(text: string): ssh2.ParsedKey | Error {
  const parsed = ssh2.utils.parseKey(text);
  return Array.isArray(parsed) ? (parsed[0] ?? new Error('it holds no key')) : parsed;
}

/** Collects keys: the agent's first, then identity files without a passphrase. */
export function identities(settings: HostSettings): Result<Identities> {
  const notes: string[] = [];
  const named = new Set<string>();
  const files: { readonly file: string; readonly key: ssh2.ParsedKey }[] = [];
  let encrypted = '';
  for (const file of settings.identityFiles) {
    if (existsSync(`${file}.pub`)) {
      const pub = parse(readFileSync(`${file}.pub`, 'utf8'));
      if (!(pub instanceof Error)) named.add(pub.getPublicSSH().toString('base64'));
    }
    if (!existsSync(file)) continue;
    let text: string;
    try {
      text = readFileSync(file, 'utf8');
    } catch (error) {
      notes.push(`${file} cannot be read (${error instanceof Error ? error.message : String(error)}).`);
      continue;
    }
    const key = parse(text);
    if (key instanceof Error) {
      if (/encrypted|passphrase/i.test(key.message)) {
        encrypted ||= file;
        notes.push(`${file} needs a passphrase.`);
      } else notes.push(`${file} is not a usable key (${key.message}).`);
      continue;
    }
    named.add(key.getPublicSSH().toString('base64'));
    files.push({ file, key });
  }
  const agent = settings.agent && existsSync(settings.agent) ? settings.agent : '';
  const queue: object[] = [];
  if (agent) {
    queue.push({
      type: 'agent',
      username: settings.user,
      agent: settings.identitiesOnly ? new OnlyAgent(agent, named) : agent,
    });
  } else if (settings.agent) notes.push('The SSH agent’s socket does not exist.');
  for (const { key } of files) queue.push({ type: 'publickey', username: settings.user, key });
  if (queue.length === 0) {
    return failed({
      code: encrypted ? 'ssh.key-encrypted' : 'ssh.no-keys',
      what: `${settings.alias} was not connected.`,
      why: encrypted
        ? `The key ${encrypted} has a passphrase, no SSH agent is running, and Fairlead does not ask for passphrases.`
        : `There is no SSH agent, and none of the identity files exists (${settings.identityFiles.join(', ')}).`,
      fix: encrypted
        ? `Load it into the agent: ssh-add ${encrypted}`
        : 'Start an agent with a key (ssh-add), or name one as IdentityFile in the SSH configuration.',
    });
  }
  let next = 0;
  return ok({
    notes,
    handler: (_left, _partial, callback) => {
      const method = queue[next++];
      callback((method ?? false) as never);
    },
  });
}
