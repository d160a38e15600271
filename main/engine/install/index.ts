import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import { type Failure, failed, type InstallProgress, ok, type Values, valuesSchema } from '../../../contract/index.ts';
import type { Agents } from '../agents/agent-pool.ts';
import type { AuditLog, Connections } from '../capability.ts';
import type { Log } from '../log.ts';
import { installStages, uninstallStages, type Workbench } from './apply.ts';
import { type ClusterFacts, installedImage, readFacts } from './facts.ts';
import { type ImageArchive, readImageArchive } from './image.ts';
import { agentNamespace } from './names.ts';
import { allObjects, cleanupOf } from './plan.ts';
import { profiles } from './profiles.ts';
import { type PreparedPlan, preparePlan, readInstalledValues } from './read.ts';
import { makeSecrets } from './secrets.ts';
import { runStages } from './steps.ts';
import { checkValues, suggestValues, type ValueFacts } from './values.ts';

export interface InstallOptions {
  readonly connections: Connections;
  readonly agents: Agents;
  readonly audit: AuditLog;
  readonly log: Log;
  /** OCI archive of the agent's image; undefined when none was built. */
  readonly image: string | undefined;
}

/** A running or the last application of a plan to one cluster. */
interface Run {
  progress: InstallProgress;
  readonly stop: AbortController;
  readonly listeners: Set<() => void>;
}

const runningAlready: Failure = {
  code: 'install.running',
  what: 'An installation is running in this cluster.',
  why: 'Two at once would undo each other.',
  fix: 'Wait for it to end, or stop it.',
};

function withKeys(facts: ClusterFacts, agentKeys: readonly string[] | undefined): ValueFacts {
  return agentKeys ? { ...facts, agentKeys } : facts;
}

function stale(why: string): Failure {
  return {
    code: 'install.plan-stale',
    what: 'This plan cannot be applied any more.',
    why,
    fix: 'Look at the new plan and apply that one.',
  };
}

/** Plans, applies and watches installations of the agent. */
export function createInstall(options: InstallOptions): CapabilityImplementation<'install'> & Disposable {
  const { connections, agents, audit, log } = options;
  /** What was asked for in the newest plan of each cluster: applying makes that plan again and compares. */
  const planned = new Map<
    string,
    { readonly action: PreparedPlan['plan']['action']; readonly values: Values; readonly digest: string }
  >();
  const runs = new Map<string, Run>();
  const lastFacts = new Map<
    string,
    { readonly facts: ClusterFacts; readonly agentKeys: readonly string[] | undefined }
  >();

  const image = async (): Promise<ImageArchive | undefined> => {
    if (!options.image) return undefined;
    const read = await readImageArchive(options.image);
    if (read.ok) return read.value;
    log.warn('install', `${read.failure.what} ${read.failure.why}`);
    return undefined;
  };

  const prepare = async (cluster: string, action: PreparedPlan['plan']['action'], values: Values) => {
    const connection = await connections.get(cluster);
    if (!connection.ok) return connection;
    const prepared = await preparePlan(connection.value, connections.ssh(cluster), await image(), action, values);
    return prepared.ok ? ok({ connection: connection.value, prepared: prepared.value }) : prepared;
  };

  const start = (cluster: string, bench: Workbench, { plan, input, secrets }: PreparedPlan): void => {
    const stop = new AbortController();
    const run: Run = {
      progress: { action: plan.action, state: 'running', steps: [] },
      stop,
      listeners: new Set(),
    };
    runs.set(cluster, run);
    const end = () => stop.abort();
    bench.connection.signal.addEventListener('abort', end, { once: true });
    const objects = allObjects(input);
    const stages =
      plan.action === 'uninstall'
        ? uninstallStages(bench, cleanupOf(input), objects)
        : installStages(bench, input.image as ImageArchive, {
            definitions: objects.filter(({ type }) => type.kind === 'CustomResourceDefinition'),
            others: objects.filter(
              ({ type }) => !['CustomResourceDefinition', 'Secret', 'DaemonSet'].includes(type.kind),
            ),
            workload: objects.find(({ type }) => type.kind === 'DaemonSet') as (typeof objects)[number],
            makeSecrets: () => makeSecrets(input.values.cluster.name, secrets.authority),
            secretsNeeded: secrets.renew !== undefined,
          });
    // Recorded before anything is written: a console that ends in the middle leaves a trace as well.
    audit.record({
      cluster: bench.connection.contextName,
      action: `install.${plan.action}`,
      subject: `agent in ${agentNamespace}`,
      result: 'begun',
    });
    log.info('install', `${plan.action} of ${bench.connection.contextName} begins`);
    void runStages(plan.action, stages, stop.signal, (progress) => {
      run.progress = progress;
      for (const listener of run.listeners) listener();
    }).then((progress) => {
      bench.connection.signal.removeEventListener('abort', end);
      const failure = progress.steps.find((step) => step.failure)?.failure;
      const result = failure ? `${progress.state}: ${failure.what} ${failure.why}` : progress.state;
      audit.record({
        cluster: bench.connection.contextName,
        action: `install.${plan.action}`,
        subject: `agent in ${agentNamespace}`,
        result,
      });
      log.info('install', `${plan.action} of ${bench.connection.contextName}: ${result}`);
    });
  };

  return {
    async status({ cluster }) {
      const connection = await connections.get(cluster);
      if (!connection.ok) return connection;
      const [facts, values, archive] = await Promise.all([
        readFacts(connection.value, connections.ssh(cluster)),
        readInstalledValues(connection.value),
        image(),
      ]);
      if (!facts.ok) return facts;
      if (!values.ok) return values;
      lastFacts.set(cluster, { facts: facts.value, agentKeys: archive?.agentKeys });
      const { values: suggested, reasons } = suggestValues(values.value ?? valuesSchema.parse({}), facts.value);
      const recognised = profiles.find((profile) => profile.recognised(facts.value))?.id;
      return ok({
        // What an uninstall that broke off has left counts: it can be uninstalled on.
        installed: facts.value.installed !== undefined || facts.value.cleanup !== undefined,
        version: installedImage(facts.value) ?? '',
        ...(values.value ? { values: values.value } : {}),
        image: archive?.reference ?? '',
        suggested,
        reasons,
        profiles: profiles.map((profile) => ({
          id: profile.id,
          title: profile.title,
          text: profile.text,
          recognised: profile.id === recognised,
          values: profile.values(suggested, facts.value),
        })),
      });
    },

    async check({ cluster, values }) {
      const known = lastFacts.get(cluster);
      // The facts of the last look: this is asked with every key that is typed. A plan reads them anew.
      if (known) return ok(checkValues(values, withKeys(known.facts, known.agentKeys)));
      const connection = await connections.get(cluster);
      if (!connection.ok) return connection;
      const [facts, archive] = await Promise.all([readFacts(connection.value, connections.ssh(cluster)), image()]);
      if (!facts.ok) return facts;
      lastFacts.set(cluster, { facts: facts.value, agentKeys: archive?.agentKeys });
      return ok(checkValues(values, withKeys(facts.value, archive?.agentKeys)));
    },

    async plan({ cluster, action, values }) {
      const result = await prepare(cluster, action, values);
      if (!result.ok) return result;
      const { plan } = result.value.prepared;
      planned.set(cluster, { action, values, digest: plan.digest });
      return ok(plan);
    },

    async apply({ cluster, digest }) {
      const writable = connections.writable(cluster);
      if (!writable.ok) return writable;
      if (runs.get(cluster)?.progress.state === 'running') return failed(runningAlready);
      const asked = planned.get(cluster);
      if (!asked || asked.digest !== digest) return failed(stale('It is not the newest plan of this cluster.'));
      const result = await prepare(cluster, asked.action, asked.values);
      if (!result.ok) return result;
      const { connection, prepared } = result.value;
      if (prepared.plan.digest !== digest)
        return failed(stale('The cluster, or the image archive, has changed since it was made.'));
      const [obstacle] = prepared.plan.obstacles;
      if (obstacle) return failed(obstacle);
      const bench = { connection, ssh: connections.ssh(cluster), agents, facts: prepared.input.facts };
      // Planning took a while: another application may have begun, or the cluster been protected. No await from here.
      const still = connections.writable(cluster);
      if (!still.ok) return still;
      if (runs.get(cluster)?.progress.state === 'running') return failed(runningAlready);
      planned.delete(cluster);
      start(cluster, bench, prepared);
      return ok({});
    },

    async stop({ cluster }) {
      runs.get(cluster)?.stop.abort();
      return ok({});
    },

    async watch({ cluster }, sink, { signal }) {
      const run = runs.get(cluster);
      if (!run) return undefined;
      let changed = true;
      let wake: () => void = () => undefined;
      const listener = () => {
        changed = true;
        wake();
      };
      run.listeners.add(listener);
      signal.addEventListener('abort', listener, { once: true });
      try {
        while (!signal.aborted) {
          if (!changed) await new Promise<void>((resolve) => (wake = resolve));
          if (signal.aborted || !changed) continue;
          changed = false;
          const { progress } = run;
          await sink.push([progress]);
          if (progress.state !== 'running') break;
        }
      } finally {
        run.listeners.delete(listener);
        signal.removeEventListener('abort', listener);
      }
      return undefined;
    },

    [Symbol.dispose]() {
      for (const run of runs.values()) run.stop.abort();
    },
  };
}
