import { DatabaseSync } from 'node:sqlite';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';

/** What a case consists of: streams of the contract, by name, and single answers. */
export type CaseStream =
  | 'inventory'
  | 'flows'
  | 'health'
  | 'policies'
  | 'policy'
  | 'topology:namespace'
  | 'topology:workload'
  | 'topology:pod';

/** One recorded moment of one stream. */
export interface CaseItem {
  readonly stream: CaseStream;
  /** Milliseconds since the recording began. */
  readonly at: number;
  readonly body: unknown;
}

export interface CaseDescription {
  readonly title: string;
  /** Unix milliseconds. */
  readonly startedAt: number;
  /** Milliseconds. */
  readonly length: number;
  readonly serverVersion: string;
}

/** Everything of a case, in order of time. */
export interface Case extends CaseDescription {
  readonly items: readonly CaseItem[];
}

const format = 'fairlead-case';
/** Newer consoles read older files; older consoles refuse newer ones. */
const version = 1;

function unreadable(name: string, why: string): Failure {
  return {
    code: 'recording.unreadable',
    what: `“${name}” cannot be opened.`,
    why,
    fix: 'Choose another file, or record the case again.',
  };
}

/** Writes a case file (an SQLite database) piece by piece. A piece that was added is on the disk after `flush`. */
export class CaseWriter implements Disposable {
  readonly #database: DatabaseSync;
  readonly #insert;
  #pending: CaseItem[] = [];
  #last = 0;
  #bytes = 0;

  /** Throws when the file exists already or cannot be made. */
  constructor(path: string, description: Omit<CaseDescription, 'length'>) {
    this.#database = new DatabaseSync(path);
    this.#database.exec(
      'CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;' +
        'CREATE TABLE items (id INTEGER PRIMARY KEY, stream TEXT NOT NULL, at REAL NOT NULL, body BLOB NOT NULL) STRICT;',
    );
    this.#insert = this.#database.prepare('INSERT INTO items (stream, at, body) VALUES (?, ?, ?)');
    for (const [key, value] of Object.entries({
      format,
      version: String(version),
      title: description.title,
      startedAt: String(description.startedAt),
      serverVersion: description.serverVersion,
    }))
      this.#meta(key, value);
  }

  #meta(key: string, value: string): void {
    this.#database.prepare('INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)').run(key, value);
  }

  add(item: CaseItem): void {
    this.#pending.push(item);
  }

  /** Size of the compressed items in bytes. */
  get bytes(): number {
    return this.#bytes;
  }

  flush(): void {
    if (this.#pending.length === 0) return;
    this.#database.exec('BEGIN');
    for (const { stream, at, body } of this.#pending) {
      const compressed = deflateRawSync(JSON.stringify(body), { level: 9 });
      this.#insert.run(stream, at, compressed);
      this.#bytes += compressed.length;
      this.#last = Math.max(this.#last, at);
    }
    this.#pending = [];
    this.#meta('length', String(this.#last));
    this.#database.exec('COMMIT');
  }

  [Symbol.dispose](): void {
    this.flush();
    this.#database.close();
  }
}

function readMeta(database: DatabaseSync): Readonly<Record<string, string>> {
  const rows = database.prepare('SELECT key, value FROM meta').all() as unknown as readonly {
    readonly key: string;
    readonly value: string;
  }[];
  return Object.fromEntries(rows.map(({ key, value }) => [key, value]));
}

function readDescription(meta: Readonly<Record<string, string>>, name: string): Result<CaseDescription> {
  if (meta.format !== format) return failed(unreadable(name, 'It is not a case of Fairlead.'));
  if (Number(meta.version) > version)
    return failed(
      unreadable(name, `It was made by a newer console (format ${meta.version}, this one reads ${version}).`),
    );
  return ok({
    title: meta.title ?? name,
    startedAt: Number(meta.startedAt),
    length: Number(meta.length ?? 0),
    serverVersion: meta.serverVersion ?? '',
  });
}

function withDatabase<T>(path: string, name: string, read: (database: DatabaseSync) => Result<T>): Result<T> {
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(path, { readOnly: true });
    return read(database);
  } catch (error) {
    return failed(unreadable(name, error instanceof Error ? error.message : String(error)));
  } finally {
    database?.close();
  }
}

/** Reads title and times of a case. */
export function describeCase(path: string, name: string): Result<CaseDescription> {
  return withDatabase(path, name, (database) => readDescription(readMeta(database), name));
}

/** Reads a whole case into memory. */
export function readCase(path: string, name: string): Result<Case> {
  return withDatabase(path, name, (database) => {
    const described = readDescription(readMeta(database), name);
    if (!described.ok) return described;
    const rows = database.prepare('SELECT stream, at, body FROM items ORDER BY at, id').all() as unknown as readonly {
      readonly stream: CaseStream;
      readonly at: number;
      readonly body: Uint8Array;
    }[];
    const items = rows.map(({ stream, at, body }) => ({
      stream,
      at,
      body: JSON.parse(inflateRawSync(body).toString('utf8')) as unknown,
    }));
    return ok({ ...described.value, items });
  });
}
