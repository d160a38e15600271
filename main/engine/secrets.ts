import { createHash } from 'node:crypto';
import type { Result } from '../../contract/failure.ts';

/** Secrets at rest, in the operating system's store only. Names are plain words chosen by the program, never by a page. */
export interface SecretStore {
  /** Keeps a secret; a failure where there is no store that deserves the name. */
  readonly set: (name: string, secret: string) => Result<void>;
  readonly get: (name: string) => Result<string | undefined>;
  readonly remove: (name: string) => void;
}

/** One secret that outlives the console where the system can keep it, and says where that is. */
export interface KeptSecret {
  readonly load: () => string | undefined;
  /** Undefined forgets it. */
  readonly save: (secret: string | undefined) => void;
  /** In a sentence, for whoever is about to log in. */
  readonly where: string;
}

const inMemory = 'This login stays in Fairlead’s memory until it ends; nothing of it is written anywhere.';

/** Keeps a secret under a name that stands for all that it is good for. Without a store it lives with the process. */
export function keptSecret(store: SecretStore | undefined, of: readonly unknown[]): KeptSecret {
  let held: string | undefined;
  if (!store)
    return {
      load: () => held,
      save(secret) {
        held = secret;
      },
      where: inMemory,
    };
  const name = `login-${createHash('sha256').update(JSON.stringify(of)).digest('hex').slice(0, 40)}`;
  const present = store.get(name);
  return {
    load: () => {
      const found = store.get(name);
      return held ?? (found.ok ? found.value : undefined);
    },
    save(secret) {
      held = secret;
      if (secret === undefined) store.remove(name);
      else store.set(name, secret);
    },
    where: present.ok
      ? 'So that you need not log in each time, Fairlead keeps this login in the operating system’s secret store.'
      : `${inMemory} ${present.failure.why}`,
  };
}
