import { existsSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { Implementation } from '../../../contract/implementation.ts';
import type { Log } from '../log.ts';
import { describeCase, readCase } from './case-file.ts';
import { Replay } from './replay.ts';
import { wrapImplementation } from './wrap.ts';

export interface RecordingsOptions {
  /** Directories with *.fairlead files, first wins on equal names. */
  readonly directories: readonly string[];
  readonly log: Log;
}

/** A recording that is open as a cluster. */
export interface OpenRecording {
  readonly id: string;
  readonly name: string;
  readonly replay: Replay;
}

export interface Recordings extends Disposable {
  /** What application.about lists. */
  readonly list: () => readonly { readonly name: string; readonly title: string }[];
  /** Opens a recording by its name; gives its cluster id ("recording:…"). */
  readonly open: (name: string) => Promise<Result<string>>;
  readonly isRecording: (cluster: string) => boolean;
  /**
   * The engine with recordings in it: clusters.watch lists opened ones, every stream and read of a "recording:…" cluster
   * is answered by replay, writes and terminals are refused, application.openRecording and application.record work.
   */
  readonly wrap: (live: Implementation) => Implementation;
}

const prefix = 'recording:';
const extension = '.fairlead';

/** The recordings that are open, for the wrapper. */
export interface OpenRecordings {
  readonly all: () => readonly OpenRecording[];
  readonly get: (cluster: string) => Result<OpenRecording>;
  readonly close: (cluster: string) => void;
  readonly onChange: (listener: () => void) => Disposable;
  readonly signal: AbortSignal;
}

function notOpen(cluster: string): Failure {
  return {
    code: 'recording.not-open',
    what: 'This recording is not open.',
    why: `“${cluster.slice(prefix.length)}” was closed or never opened.`,
    fix: 'Open it from the list of clusters.',
  };
}

/** Records connected clusters and replays recordings, both at the contract. */
export function createRecordings({ directories, log }: RecordingsOptions): Recordings {
  const opened = new Map<string, OpenRecording>();
  const listeners = new Set<() => void>();
  const end = new AbortController();
  const tell = () => {
    for (const listener of [...listeners]) listener();
  };

  /** Path per name; names never carry a directory, so that none can lead out of these. */
  const files = (): ReadonlyMap<string, string> => {
    const found = new Map<string, string>();
    for (const directory of directories) {
      if (!existsSync(directory)) continue;
      for (const file of readdirSync(directory).sort()) {
        const name = basename(file, extension);
        if (file.endsWith(extension) && !found.has(name)) found.set(name, join(directory, file));
      }
    }
    return found;
  };

  const open = async (name: string): Promise<Result<string>> => {
    const id = `${prefix}${name}`;
    if (opened.has(id)) return ok(id);
    const path = files().get(name);
    if (path === undefined)
      return failed({
        code: 'recording.unknown',
        what: `There is no recording “${name}”.`,
        why: 'No file of this name is in the folders for recordings.',
        fix: 'Choose one from the list.',
      });
    const read = readCase(path, name);
    if (!read.ok) return read;
    opened.set(id, { id, name, replay: new Replay(read.value) });
    log.info('recordings', `opened ${name}`);
    tell();
    return ok(id);
  };

  const registry: OpenRecordings = {
    all: () => [...opened.values()],
    get: (cluster) => {
      const found = opened.get(cluster);
      return found ? ok(found) : failed(notOpen(cluster));
    },
    close(cluster) {
      if (opened.delete(cluster)) tell();
    },
    onChange(listener) {
      listeners.add(listener);
      return { [Symbol.dispose]: () => void listeners.delete(listener) };
    },
    signal: end.signal,
  };

  const isRecording = (cluster: string) => cluster.startsWith(prefix);
  return {
    list: () =>
      [...files()].flatMap(([name, path]) => {
        const described = describeCase(path, name);
        if (described.ok) return [{ name, title: described.value.title }];
        log.warn('recordings', `${described.failure.what} ${described.failure.why}`);
        return [];
      }),
    open,
    isRecording,
    wrap: (live) => wrapImplementation(live, registry, isRecording, open),
    [Symbol.dispose]() {
      end.abort();
      opened.clear();
      listeners.clear();
    },
  };
}
