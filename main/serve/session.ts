import type { Cluster } from '../../contract/clusters.ts';
import type { Failure } from '../../contract/failure.ts';
import type { Implementation } from '../../contract/implementation.ts';
import type { Engine } from '../engine/engine.ts';

/** What a launch in browser mode does beyond serving: choose what there is to see, start the lab, take it down. */
export interface SessionOptions {
  readonly engine: Engine;
  readonly lab: boolean;
  /** Open on the recorded case, whatever clusters there are. */
  readonly recording: boolean;
  readonly keepLab: boolean;
  /** Lines for the person at the terminal. */
  readonly tell: (line: string) => void;
}

export interface Session {
  /** Resolves when what was asked for is there; false when it failed. */
  readonly ready: Promise<boolean>;
  /** Takes the lab down if this session started it and it is not to be kept. */
  readonly close: () => Promise<void>;
}

function inWords(failure: Failure): string {
  return `${failure.what}\n  Why: ${failure.why}\n  Fix: ${failure.fix}`;
}

/** The list of clusters as it is now. */
async function currentClusters(implementation: Implementation): Promise<readonly Cluster[]> {
  const stop = new AbortController();
  let clusters: readonly Cluster[] = [];
  await implementation.clusters
    .watch(
      {},
      {
        async push(items) {
          clusters = (items.at(-1)?.clusters ?? []) as readonly Cluster[];
          stop.abort();
        },
      },
      { signal: stop.signal, connection: 'start' },
    )
    .catch(() => undefined);
  return clusters;
}

/** Begins a session: the lab when asked for; otherwise a hint or the recorded case when there is no cluster to show. */
export async function beginSession(options: SessionOptions): Promise<Session> {
  const { engine, tell } = options;
  const { implementation } = engine;
  const wasRunning = (await engine.lab.running()) !== undefined;

  const startLab = async (): Promise<boolean> => {
    const failure = await implementation.application.startLab(
      {},
      {
        async push(items) {
          for (const { line } of items) tell(line);
        },
      },
      { signal: new AbortController().signal, connection: 'start' },
    );
    if (failure) tell(inWords(failure));
    return failure === undefined;
  };

  const offer = async (): Promise<boolean> => {
    if (options.recording) return showRecording('');
    if ((await currentClusters(implementation)).length > 0) return true;
    if (engine.lab.possibility.possible) {
      tell(
        'No kubeconfig was found. Choose “Start the lab” in the console for a real three-node cluster on this machine,',
      );
      tell('or start with: npm start -- --lab');
      return true;
    }
    return showRecording(engine.lab.possibility.reason);
  };

  /** Opens the first recorded case; `because` says why there is nothing live. */
  const showRecording = async (because: string): Promise<boolean> => {
    const about = await implementation.application.about(
      {},
      { signal: new AbortController().signal, connection: 'start' },
    );
    const recording = about.ok ? about.value.recordings[0] : undefined;
    if (!recording) {
      tell(`There is no recorded case in recordings/. Add a kubeconfig in the console. ${because}`);
      return true;
    }
    const opened = await implementation.application.openRecording(
      { name: recording.name },
      { signal: new AbortController().signal, connection: 'start' },
    );
    tell(
      opened.ok
        ? `Showing the recorded case “${recording.title}”: nothing in it is live. ${because}`
        : inWords(opened.failure),
    );
    return opened.ok;
  };

  return {
    ready: options.lab ? startLab() : offer(),
    async close() {
      if (!options.lab) return;
      const files = await engine.lab.running();
      if (!files) return;
      if (options.keepLab || wasRunning) {
        tell(
          `The lab keeps running${wasRunning ? ' (it ran before this session)' : ''}. Take it down with: npm run lab -- down`,
        );
        return;
      }
      tell('Taking the lab down (--keep-lab would keep it) …');
      const down = await engine.lab.run('down', tell);
      if (!down.ok) tell(inWords(down.failure));
    },
  };
}
