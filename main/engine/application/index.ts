import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { AuditEntry } from '../../../contract/application.ts';
import { type Failure, failed, type Result } from '../../../contract/failure.ts';
import type { CapabilityImplementation, Implementation } from '../../../contract/implementation.ts';
import type { Clusters } from '../clusters/index.ts';
import type { Log } from '../log.ts';
import { projectFile } from '../project.ts';
import type { LabCommand } from './lab.ts';

export interface ApplicationOptions {
  readonly mode: 'browser' | 'desktop';
  readonly log: Log;
  readonly lab: LabCommand;
  readonly clusters: Clusters;
  readonly install: () => Implementation['install'];
  readonly audit: { readonly entries: () => readonly AuditEntry[] };
  readonly recordings: () => readonly { readonly name: string; readonly title: string }[];
}

/** Root of the checkout or of the packaged application. */
export function projectRoot(): string {
  return dirname(projectFile('package.json'));
}

function version(): string {
  const read = JSON.parse(readFileSync(projectFile('package.json'), 'utf8')) as { readonly version?: string };
  return read.version ?? '';
}

/** Only recordings.wrap answers these two; without it they say so. */
const noRecordings: Failure = {
  code: 'recordings.off',
  what: 'Recordings are not available.',
  why: 'This engine runs without them.',
  fix: 'Start the console as usual.',
};

interface Job {
  readonly lines: string[];
  readonly listeners: Set<() => void>;
  done: boolean;
  failure: Failure | undefined;
}

/** Provides the capability “application”. */
export function createApplication(options: ApplicationOptions): CapabilityImplementation<'application'> {
  const { lab, log, clusters } = options;
  let job: Job | undefined;

  const start = (): Job => {
    const started: Job = { lines: [], listeners: new Set(), done: false, failure: undefined };
    const changed = () => {
      for (const listener of [...started.listeners]) listener();
    };
    const tell = (line: string) => {
      log.info('lab', line);
      started.lines.push(line);
      changed();
    };
    void bringUp(options, tell)
      .catch(
        (error: unknown): Failure => ({
          code: 'internal',
          what: 'The lab did not start.',
          why: String(error),
          fix: 'Look at the engine’s log.',
        }),
      )
      .then((failure) => {
        started.failure = failure;
        started.done = true;
        if (failure) log.error('lab', `${failure.what} ${failure.why}`);
        changed();
      });
    return started;
  };

  return {
    async about() {
      const files = await lab.running();
      return {
        ok: true,
        value: {
          version: version(),
          mode: options.mode,
          platform: process.platform,
          lab: { ...lab.possibility, running: files !== undefined },
          recordings: [...options.recordings()],
        },
      };
    },
    async startLab(_input, sink, { signal }) {
      if (!lab.possibility.possible) {
        return {
          code: 'lab.not-possible',
          what: 'The lab cannot run on this machine.',
          why: lab.possibility.reason,
          fix: 'Open the recorded case, or start Fairlead as root on Linux: sudo npm start',
        };
      }
      // Starting goes on when the page that asked for it is closed; another one joins and sees all lines.
      if (!job || job.done) job = start();
      const joined = job;
      let told = 0;
      for (;;) {
        if (told < joined.lines.length) {
          const lines = joined.lines.slice(told);
          told += lines.length;
          await sink.push(lines.map((line) => ({ line })));
        } else if (joined.done || signal.aborted) return joined.failure;
        else {
          await new Promise<void>((resolve) => {
            const wake = () => {
              joined.listeners.delete(wake);
              signal.removeEventListener('abort', wake);
              resolve();
            };
            joined.listeners.add(wake);
            signal.addEventListener('abort', wake, { once: true });
          });
        }
      }
    },
    openRecording: async () => failed(noRecordings),
    record: async () => noRecordings,
    audit: async () => ({ ok: true, value: { entries: options.audit.entries() } }),
  };

  /** Lab up, agent's image, agent installed by the same plan and apply as anywhere, demo applied. */
  async function bringUp(
    { install: installOf }: ApplicationOptions,
    tell: (line: string) => void,
  ): Promise<Failure | undefined> {
    const began = performance.now();
    const since = () => `${((performance.now() - began) / 1000).toFixed(1)} s`;
    for (const step of ['image', 'up'] as const) {
      const ran = await lab.run(step, tell);
      if (!ran.ok) return ran.failure;
    }
    const files = await lab.running();
    if (!files)
      return {
        code: 'lab.gone',
        what: 'The lab did not start.',
        why: 'It came up and ended again.',
        fix: 'Run npm run lab -- status.',
      };
    const added = clusters.addLab(files);
    if (!added.ok) return added.failure;
    const cluster = added.value;
    const connected = await clusters.connections.get(cluster);
    if (!connected.ok) return connected.failure;
    tell(`Cluster connected after ${since()}.`);

    const install = installOf();
    const context = { signal: new AbortController().signal, connection: 'lab' };
    const need = <T>(result: Result<T>): T => {
      if (!result.ok) throw new Refused(result.failure);
      return result.value;
    };
    try {
      const status = need(await install.status({ cluster }, context));
      const values = status.suggested as Parameters<typeof install.plan>[0]['values'];
      const plan = need(
        await install.plan({ cluster, action: status.installed ? 'upgrade' : 'install', values }, context),
      );
      const obstacle = plan.obstacles[0];
      if (obstacle) return obstacle;
      if (plan.objects.some((object) => object.action !== 'unchanged') || !status.installed) {
        need(await install.apply({ cluster, digest: plan.digest }, context));
        const shown = new Map<string, string>();
        const failure = await install.watch(
          { cluster },
          {
            async push(items) {
              for (const progress of items) {
                for (const step of progress.steps) {
                  const state = `${step.state} ${step.message}`;
                  if (step.state === 'waiting' || shown.get(step.id) === state) continue;
                  shown.set(step.id, state);
                  tell(
                    `${step.title}${step.node ? ` on ${step.node}` : ''}: ${step.state}${step.message ? ` (${step.message})` : ''}`,
                  );
                }
              }
            },
          },
          context,
        );
        if (failure) return failure;
        tell(`Agent installed after ${since()}.`);
      }
    } catch (error) {
      if (error instanceof Refused) return error.failure;
      throw error;
    }
    const demo = await lab.run('demo', tell);
    if (!demo.ok) return demo.failure;
    tell(`The lab is ready after ${since()}.`);
    return undefined;
  }
}

class Refused extends Error {
  readonly failure: Failure;
  constructor(failure: Failure) {
    super(failure.what);
    this.failure = failure;
  }
}
