import { appendFileSync, mkdirSync, renameSync, statSync } from 'node:fs';
import { dirname } from 'node:path';

/** The engine's log. `area` is the capability that speaks. Texts must not carry secrets. */
export interface Log {
  readonly debug: (area: string, text: string) => void;
  readonly info: (area: string, text: string) => void;
  readonly warn: (area: string, text: string) => void;
  readonly error: (area: string, text: string) => void;
}

type Level = keyof Log;
const order: readonly Level[] = ['debug', 'info', 'warn', 'error'];
const largest = 10 << 20;

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what must not reach the log
const control = /[\u0000-\u0008\u000b-\u001f\u007f]/g;

export interface LogOptions {
  readonly file?: string;
  /** Least level that is written at all; "info" unless told. */
  readonly least?: Level;
  /** Least level that standard error shows; as `least` unless told. */
  readonly shown?: Level;
  readonly quiet?: boolean;
}

/**
 * Writes lines "time level area text" to standard error and, if named, to a file that is kept below 20 MiB by one
 * rotation. Control characters are taken out, so that no text from outside can forge or colour a line.
 */
export function createLog(options: LogOptions = {}): Log {
  const least = order.indexOf(options.least ?? 'info');
  const shown = order.indexOf(options.shown ?? options.least ?? 'info');
  let size = 0;
  if (options.file) {
    mkdirSync(dirname(options.file), { recursive: true, mode: 0o700 });
    size = statSync(options.file, { throwIfNoEntry: false })?.size ?? 0;
  }
  const write = (level: Level) => (area: string, text: string) => {
    if (order.indexOf(level) < least) return;
    const line = `${new Date().toISOString()} ${level} ${area} ${text.replaceAll(control, ' ').replaceAll('\n', '\n    ')}\n`;
    if (!options.quiet && order.indexOf(level) >= shown) process.stderr.write(line);
    if (!options.file) return;
    try {
      if (size > largest) {
        renameSync(options.file, `${options.file}.1`);
        size = 0;
      }
      appendFileSync(options.file, line, { mode: 0o600 });
      size += line.length;
    } catch {
      // A full disk must not end the engine; standard error still has the line.
    }
  };
  return { debug: write('debug'), info: write('info'), warn: write('warn'), error: write('error') };
}

/** For tests and for callers that do not care. */
export const silent: Log = { debug() {}, info() {}, warn() {}, error() {} };
