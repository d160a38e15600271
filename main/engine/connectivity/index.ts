import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import {
  type ConnectivityProgress,
  type ConnectivityResult,
  type Failure,
  failed,
  ok,
  type Result,
} from '../../../contract/index.ts';
import type { Agents } from '../agents/index.ts';
import type { AuditLog, Connections } from '../capability.ts';
import { installedImage, readFacts } from '../install/facts.ts';
import type { ClusterConnection } from '../kube/cluster-connection.ts';
import type { Log } from '../log.ts';
import { streamWholePictures } from '../whole-pictures.ts';
import { cases } from './cases.ts';
import { runTest, type TestOptions } from './run.ts';
import { sweep } from './testbed.ts';

export interface ConnectivityOptions {
  readonly connections: Connections;
  readonly agents: Agents;
  readonly audit: AuditLog;
  readonly log: Log;
}

interface Run {
  progress: ConnectivityProgress;
  readonly stop: AbortController;
  readonly listeners: Set<() => void>;
}

const running: Failure = {
  code: 'connectivity.running',
  what: 'A connectivity test is running in this cluster.',
  why: 'Two at once would count each other’s packets.',
  fix: 'Wait for it to end, or stop it.',
};

function fail(what: string, why: string, fix: string): Result<never> {
  return failed({ code: 'connectivity.impossible', what, why, fix });
}

/** Runs the connectivity test in clusters, one at a time in each. */
export function createConnectivity(
  options: ConnectivityOptions,
): CapabilityImplementation<'connectivity'> & Disposable {
  const { connections, agents, audit, log } = options;
  const runs = new Map<string, Run>();

  const prepare = async (
    connection: ClusterConnection,
    cluster: string,
    image: string | undefined,
  ): Promise<Result<Pick<TestOptions, 'image' | 'nodes'>>> => {
    const facts = await readFacts(connection, connections.ssh(cluster));
    if (!facts.ok) return facts;
    const machines = facts.value.machines.filter(
      (machine) => machine.os === 'linux' && machine.ready && !machine.unschedulable,
    );
    const [first, second] = [...machines].sort((a, b) => Number(a.controlPlane) - Number(b.controlPlane));
    if (!first)
      return fail('No node can take the test’s pods.', 'None is Ready and schedulable.', 'Look at the nodes.');
    const used = image ?? installedImage(facts.value);
    if (!used)
      return fail(
        'There is no image with the probe.',
        'No agent is installed, whose image has it.',
        'Install the agent, or name an image that the nodes can pull.',
      );
    return ok({ image: used, nodes: [first, second ?? first].map(({ name, address }) => ({ name, address })) });
  };

  return {
    cases: async () =>
      ok({ cases: cases.map(({ id, title, group, needs }) => ({ id, title, group, needs: [...needs] })) }),

    async start({ cluster, cases: wanted, image, outside }) {
      const writable = connections.writable(cluster);
      if (!writable.ok) return writable;
      if (['preparing', 'running', 'cleaning'].includes(runs.get(cluster)?.progress.state ?? ''))
        return failed(running);
      const found = await connections.get(cluster);
      if (!found.ok) return found;
      const connection = found.value;
      const prepared = await prepare(connection, cluster, image);
      if (!prepared.ok) return prepared;
      const chosen = cases.filter((one) => !wanted || wanted.includes(one.id));
      if (chosen.length === 0)
        return fail('No case was chosen.', 'None of the names is that of a case.', 'Choose some.');
      if (['preparing', 'running', 'cleaning'].includes(runs.get(cluster)?.progress.state ?? ''))
        return failed(running);
      const stop = new AbortController();
      const run: Run = {
        stop,
        listeners: new Set(),
        progress: {
          state: 'preparing',
          message: 'making a namespace and pods',
          namespace: '',
          nodes: prepared.value.nodes.map((node) => node.name),
          startedAt: Date.now(),
          results: chosen.map(
            ({ id, expected }): ConnectivityResult => ({
              id,
              state: 'waiting',
              message: '',
              expected,
              milliseconds: 0,
              attempts: [],
              flows: [],
            }),
          ),
        },
      };
      runs.set(cluster, run);
      const end = () => stop.abort();
      connection.signal.addEventListener('abort', end, { once: true });
      audit.record({
        cluster: connection.contextName,
        action: 'connectivity.start',
        subject: `${chosen.length} cases`,
        result: 'begun',
      });
      void runTest(
        { ...prepared.value, connection, agents, log, cases: chosen, outside, signal: stop.signal },
        run.progress,
        (progress) => {
          run.progress = progress;
          for (const listener of run.listeners) listener();
        },
      ).then((progress) => {
        connection.signal.removeEventListener('abort', end);
        const count = (state: ConnectivityResult['state']) =>
          progress.results.filter((one) => one.state === state).length;
        audit.record({
          cluster: connection.contextName,
          action: 'connectivity.start',
          subject: progress.namespace,
          result: `${progress.state}: ${count('passed')} passed, ${count('failed')} failed, ${count('skipped')} skipped; everything was removed`,
        });
      });
      return ok({});
    },

    async stop({ cluster }) {
      runs.get(cluster)?.stop.abort();
      return ok({});
    },

    async watch({ cluster }, sink, { signal }) {
      const connection = await connections.get(cluster);
      // What a console that was killed has left goes when the next one looks.
      if (connection.ok && connections.writable(cluster).ok) {
        const removed = await sweep(connection.value);
        if (removed.length > 0) log.info('connectivity', `removed what was left of ${removed.join(', ')}`);
      }
      const run = runs.get(cluster);
      if (!run) return undefined;
      return await streamWholePictures(
        run.listeners,
        sink,
        signal,
        () => run.progress,
        (progress) => ['done', 'failed', 'stopped'].includes(progress.state),
      );
    },

    [Symbol.dispose]() {
      for (const run of runs.values()) run.stop.abort();
    },
  };
}
