import { existsSync, readFileSync, statSync } from 'node:fs';
import ssh2 from 'ssh2';
import { failed, ok, type Result } from '../../../contract/failure.ts';
import type { HostSettings } from './config.ts';
import type { SecretQuestion } from './ssh-connector.ts';

/** Asks the person at the console for texts; undefined when nobody answers. */
export type AskSecrets = (question: SecretQuestion) => Promise<readonly string[] | undefined>;

/** Ways to log in, in the order they are tried, and what of the configuration could not be used. */
export interface Login {
  readonly handler: ssh2.AuthHandlerMiddleware;
  readonly notes: readonly string[];
  /** Certificates of the user that could not be used. */
  readonly certificates: readonly string[];
  /** True once the person has given up on a question. */
  readonly cancelled: () => boolean;
}

/** Keys that were unlocked with a passphrase; kept in memory as an agent would, until Fairlead ends. */
export type UnlockedKeys = Map<string, ssh2.ParsedKey>;

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

function parse(text: string, passphrase?: string): ssh2.ParsedKey | Error {
  const parsed = ssh2.utils.parseKey(text, passphrase);
  return Array.isArray(parsed) ? (parsed[0] ?? new Error('it holds no key')) : parsed;
}

const isEncrypted = (error: Error) => /encrypted|passphrase/i.test(error.message);

/** An unlocked key is remembered for the file as it was: a replaced file is asked for again. */
function unlockName(file: string): string {
  const { mtimeMs, size, ino } = statSync(file);
  return `${file} ${mtimeMs} ${size} ${ino}`;
}

interface FoundKeys {
  readonly usable: readonly ssh2.ParsedKey[];
  /** Files whose key needs a passphrase. */
  readonly locked: readonly string[];
  /** Public halves that the configuration names, for IdentitiesOnly. */
  readonly named: ReadonlySet<string>;
  readonly notes: readonly string[];
  readonly certificates: readonly string[];
}

function findKeys(settings: HostSettings, unlocked: UnlockedKeys): FoundKeys {
  const notes: string[] = [];
  const named = new Set<string>();
  const usable: ssh2.ParsedKey[] = [];
  const locked: string[] = [];
  const publicOf = (key: ssh2.ParsedKey) => key.getPublicSSH().toString('base64');
  for (const file of settings.identityFiles) {
    try {
      if (existsSync(`${file}.pub`)) {
        const pub = parse(readFileSync(`${file}.pub`, 'utf8'));
        if (!(pub instanceof Error)) named.add(publicOf(pub));
      }
      if (!existsSync(file)) continue;
      const key = unlocked.get(unlockName(file)) ?? parse(readFileSync(file, 'utf8'));
      if (key instanceof Error) {
        if (isEncrypted(key)) locked.push(file);
        else notes.push(`${file} is not a usable key (${key.message}).`);
        continue;
      }
      named.add(publicOf(key));
      usable.push(key);
    } catch (error) {
      notes.push(`${file} cannot be read (${error instanceof Error ? error.message : String(error)}).`);
    }
  }
  const certificates = [
    ...settings.certificateFiles,
    ...settings.identityFiles.map((file) => `${file}-cert.pub`),
  ].filter((file) => existsSync(file));
  return { usable, locked, named, notes, certificates };
}

/**
 * Prepares a login as OpenSSH would try it: the agent's keys, identity files, identity files with a passphrase, what the
 * server asks (keyboard-interactive), a password. The last three only where somebody can be asked, and BatchMode is off.
 */
export function prepareLogin(
  settings: HostSettings,
  unlocked: UnlockedKeys,
  ask: AskSecrets | undefined,
): Result<Login> {
  const { usable, locked, named, notes: found, certificates } = findKeys(settings, unlocked);
  const notes = [...found];
  const mayAsk = settings.batchMode ? undefined : ask;
  const agent = settings.agent && existsSync(settings.agent) ? settings.agent : '';
  if (settings.agent && !agent) notes.push('The SSH agent’s socket does not exist.');
  if (!mayAsk) notes.push(...locked.map((file) => `${file} needs a passphrase.`));
  if (!agent && usable.length === 0 && !mayAsk) {
    const [encrypted] = locked;
    return failed({
      code: encrypted ? 'ssh.key-encrypted' : 'ssh.no-keys',
      what: `${settings.alias} was not connected.`,
      why: encrypted
        ? `The key ${encrypted} has a passphrase, no SSH agent is running, and nobody can be asked for it here.`
        : `There is no SSH agent, and none of the identity files exists (${settings.identityFiles.join(', ')}).`,
      fix: encrypted
        ? `Load it into the agent: ssh-add ${encrypted}`
        : 'Start an agent with a key (ssh-add), or name one as IdentityFile in the SSH configuration.',
    });
  }

  const username = settings.user;
  const about = `${settings.user}@${settings.hostName}${settings.port === 22 ? '' : `:${settings.port}`}`;
  let given = false;
  const question = async (title: string, instructions: string, prompts: SecretQuestion['prompts']) => {
    const answers = await mayAsk?.({ about, title, instructions, prompts });
    if (answers === undefined) given = true;
    return answers;
  };

  async function unlock(file: string): Promise<ssh2.ParsedKey | undefined> {
    const text = readFileSync(file, 'utf8');
    for (let attempt = 0; attempt < settings.passwordPrompts; attempt++) {
      const answers = await question(
        attempt === 0 ? 'Unlock an SSH key' : 'That was not the passphrase',
        `The key ${file} is protected with a passphrase.`,
        [{ label: 'Passphrase', hidden: true }],
      );
      if (answers === undefined) return undefined;
      const key = parse(text, answers[0]);
      if (!(key instanceof Error)) {
        unlocked.set(unlockName(file), key);
        return key;
      }
    }
    notes.push(`${file} was not unlocked: the passphrase was wrong ${settings.passwordPrompts} times.`);
    return undefined;
  }

  /** What to try, one after the other; `left` is what the server still takes, null before it has said so. */
  async function* attempts(left: () => readonly string[] | null): AsyncGenerator<ssh2.AnyAuthMethod> {
    const takes = (method: string) => left() === null || left()?.includes(method) === true;
    if (agent) yield { type: 'agent', username, agent: settings.identitiesOnly ? new OnlyAgent(agent, named) : agent };
    for (const key of usable) if (takes('publickey')) yield { type: 'publickey', username, key };
    if (!mayAsk) return;
    // Nothing has been sent yet: the server says what it takes only when asked.
    if (left() === null) yield { type: 'none', username };
    for (const file of locked) {
      if (!takes('publickey') || given) break;
      const key = await unlock(file);
      if (key) yield { type: 'publickey', username, key };
    }
    for (let attempt = 0; attempt < settings.passwordPrompts && !given; attempt++) {
      if (!settings.keyboardInteractive || !left()?.includes('keyboard-interactive')) break;
      yield {
        type: 'keyboard-interactive',
        username,
        prompt: (name, instructions, _language, prompts, finish) => {
          if (prompts.length === 0) return finish([]);
          void question(
            name || (attempt === 0 ? 'The server asks' : 'Not accepted; the server asks again'),
            instructions,
            prompts.map((prompt) => ({ label: prompt.prompt.replace(/:\s*$/, ''), hidden: prompt.echo !== true })),
          ).then((answers) => finish([...(answers ?? prompts.map(() => ''))]));
        },
      };
    }
    for (let attempt = 0; attempt < settings.passwordPrompts && !given; attempt++) {
      if (!settings.password || !left()?.includes('password')) break;
      const answers = await question(attempt === 0 ? 'Password' : 'That password was not accepted', '', [
        { label: `Password of ${about}`, hidden: true },
      ]);
      if (answers === undefined) return;
      yield { type: 'password', username, password: answers[0] ?? '' };
    }
  }

  let left: readonly string[] | null = null;
  const methods = attempts(() => left);
  return ok({
    notes,
    certificates,
    cancelled: () => given,
    handler: (methodsLeft, _partial, callback) => {
      left = methodsLeft as readonly string[] | null;
      methods.next().then(
        ({ value }) => callback((value ?? false) as never),
        (error: unknown) => {
          notes.push(error instanceof Error ? error.message : String(error));
          callback(false as never);
        },
      );
    },
  });
}
