import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { safeStorage } from 'electron';
import { failed, ok, type Result } from '../../contract/failure.ts';
import type { SecretStore } from '../engine/secrets.ts';

/** Refuses to write where the system has no real store: on Linux without a keyring "encryption" would use a known key. */
export function openSecrets(directory: string): SecretStore {
  const file = (name: string) => {
    if (!/^[a-z0-9-]{1,64}$/.test(name)) throw new Error('a secret’s name must be plain');
    return join(directory, `${name}.secret`);
  };
  const usable = (): Result<void> => {
    // "unknown": asked before the application is ready, when nothing is known of a keyring.
    const basic =
      process.platform === 'linux' && ['basic_text', 'unknown'].includes(safeStorage.getSelectedStorageBackend());
    if (safeStorage.isEncryptionAvailable() && !basic) return ok(undefined);
    return failed({
      code: 'secrets.no-store',
      what: 'The secret is kept for this session only.',
      why: basic
        ? 'No keyring is running, and without one a stored secret would be as good as plain text.'
        : 'The system’s secret store cannot be used.',
      fix: 'Unlock or install a keyring (GNOME Keyring, KWallet), then start Fairlead again.',
    });
  };
  return {
    set(name, secret) {
      const may = usable();
      if (!may.ok) return may;
      const path = file(name);
      try {
        mkdirSync(directory, { recursive: true, mode: 0o700 });
        writeFileSync(`${path}.new`, safeStorage.encryptString(secret), { mode: 0o600 });
        renameSync(`${path}.new`, path);
        return ok(undefined);
      } catch (error) {
        return failed({
          code: 'secrets.not-written',
          what: 'The secret is kept for this session only.',
          why: error instanceof Error ? error.message : String(error),
          fix: 'Unlock the keyring, and check that there is room on the disk.',
        });
      }
    },
    get(name) {
      const may = usable();
      if (!may.ok) return may;
      try {
        return ok(safeStorage.decryptString(readFileSync(file(name))));
      } catch {
        return ok(undefined);
      }
    },
    remove: (name) => rmSync(file(name), { force: true }),
  };
}
