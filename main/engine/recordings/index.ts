import type { Result } from '../../../contract/failure.ts';
import type { Implementation } from '../../../contract/implementation.ts';
import type { Log } from '../log.ts';

export interface RecordingsOptions {
  /** Directories with *.fairlead files, first wins on equal names. */
  readonly directories: readonly string[];
  readonly log: Log;
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

/** Records connected clusters and replays recordings, both at the contract. */
export function createRecordings(_options: RecordingsOptions): Recordings {
  return {
    list: () => [],
    open: async () => ({
      ok: false,
      failure: { code: 'not-built', what: 'Recordings are not part of this build.', why: '', fix: '' },
    }),
    isRecording: (cluster) => cluster.startsWith('recording:'),
    wrap: (live) => live,
    [Symbol.dispose]() {},
  };
}
