import { appendFileSync, mkdirSync, readFileSync } from 'node:fs';
import { hostname, userInfo } from 'node:os';
import { join } from 'node:path';
import { type AuditEntry, auditEntrySchema } from '../../../contract/application.ts';
import type { AuditLog } from '../capability.ts';
import type { Log } from '../log.ts';

const shown = 1000;

/** Who works at this console: what tells two colleagues apart in a log that is sent around. */
function account(): string {
  try {
    return `${userInfo().username}@${hostname()}`;
  } catch {
    return `unknown@${hostname()}`;
  }
}

/** One line of JSON per write that the console made, in the state directory; never shortened, never rewritten. */
export function openAuditLog(
  directory: string,
  log: Log,
): AuditLog & { readonly entries: () => readonly AuditEntry[] } {
  const file = join(directory, 'audit.jsonl');
  const who = account();
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  return {
    record(entry) {
      log.info('audit', `${entry.cluster} ${entry.action} ${entry.subject}: ${entry.result}`);
      try {
        appendFileSync(file, `${JSON.stringify({ time: Date.now(), who, ...entry })}\n`, { mode: 0o600 });
      } catch (error) {
        log.error('audit', `${file} cannot be written: ${String(error)}`);
      }
    },
    entries() {
      let text: string;
      try {
        text = readFileSync(file, 'utf8');
      } catch {
        return [];
      }
      const entries: AuditEntry[] = [];
      for (const line of text.split('\n').slice(-shown - 1)) {
        if (!line) continue;
        try {
          const parsed = auditEntrySchema.safeParse(JSON.parse(line));
          if (parsed.success) entries.push(parsed.data);
        } catch {
          // A line cut off by a crash is no reason to show none.
        }
      }
      return entries.reverse();
    },
  };
}
