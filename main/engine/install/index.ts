import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import { type Failure, failed, type InstallProgress, ok, type Values, valuesSchema } from '../../../contract/index.ts';
import type { Agents } from '../agents/agent-pool.ts';
import type { AuditLog, Connections } from '../capability.ts';
import type { Findings } from '../checks/findings.ts';
import type { ClusterConnection } from '../kube/cluster-connection.ts';
import type { Log } from '../log.ts';
import { nodePrefix } from '../verify/preflight.ts';
import { streamWholePictures } from '../whole-pictures.ts';
import { installStages } from './apply.ts';
import { digestOf } from './diff.ts';
import { createDisruptionProbe } from './disruption.ts';
import { type ClusterFacts, installedImage, readFacts } from './facts.ts';
import { type ImageArchive, readImageArchive } from './image.ts';
import { removalStages, restoringStages } from './kube-proxy-steps.ts';
import { agentNamespace } from './names.ts';
import { allObjects, cleanupOf, machinesOf } from './plan.ts';
import { profiles } from './profiles.ts';
import { type PreparedPlan, preparePlan, readInstalledValues } from './read.ts';
import { isRelay, relayRemoval, relayStages } from './relay.ts';
import { makeSecrets } from './secrets.ts';
import { type InstallState, isInterrupted, nodeStates, previousOf, readState, StateKeeper } from './state.ts';
import { runStages } from './steps.ts';
import { uninstallStages } from './uninstall.ts';
import { checkValues, suggestValues, type ValueFacts } from './values.ts';
import type { Workbench } from './workbench.ts';

export interface InstallOptions {
  readonly connections: Connections;
  readonly agents: Agents;
  readonly audit: AuditLog;
  readonly log: Log;
  /** What preflights have found. */
  readonly findings: Findings;
  /** OCI archive of the agent's image; undefined when none was built. */
  readonly image: string | undefined;
}

/** What was asked for. */
interface Asked {
  readonly action: PreparedPlan['plan']['action'];
  readonly values: Values;
  readonly rollout: Parameters<typeof preparePlan>[5];
}

/** The facts of the last look at a cluster. */
interface Known {
  readonly facts: ClusterFacts;
  readonly agentKeys: readonly string[] | undefined;
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

/** Whether each node can make a Geneve tunnel, as the newest preflight found. */
function geneveOf(findings: Findings, cluster: string, machines: ClusterFacts['machines']) {
  return machines
    .filter(({ os }) => os === 'linux')
    .map(({ name }) => {
      const { status, found = '' } = findings.of(cluster, name, `${nodePrefix}geneve`) ?? {};
      // A check that was skipped could not tell.
      const able = status === 'passed' ? true : status === 'warning' || status === 'failed' ? false : undefined;
      return { node: name, able, found };
    });
}

function stale(why: string): Failure {
  return {
    code: 'install.plan-stale',
    what: 'This plan cannot be applied any more.',
    why,
    fix: 'Look at the new plan and apply that one.',
  };
}

/** The state with which an application begins: what it is about, and what was there before. */
async function firstState(connection: ClusterConnection, { plan, input, state }: PreparedPlan): Promise<InstallState> {
  const installed = input.facts.installed ? await readInstalledValues(connection) : undefined;
  const image = installedImage(input.facts);
  const now = { image: input.image?.reference ?? '', values: input.values };
  const before = installed?.ok && installed.value && image ? { image, values: installed.value } : undefined;
  // Going on with a plan that broke off: what was there before it is what there is to go back to.
  const goesOn = state !== undefined && state.state !== 'done' && digestOf(state.values) === digestOf(input.values);
  const same = before !== undefined && digestOf(before) === digestOf(now);
  const previous = goesOn || same ? state?.previous : before;
  return {
    action: plan.action,
    digest: plan.digest,
    state: 'running',
    startedAt: Date.now(),
    updatedAt: Date.now(),
    nodes: Object.fromEntries(machinesOf(input).map((machine) => [machine.name, 'waiting' as const])),
    ...now,
    ...(previous ? { previous } : {}),
  };
}

/** The stages of a prepared plan, and how what they have opened is closed. */
function stagesOf(bench: Workbench, { plan, input, secrets }: PreparedPlan) {
  const objects = allObjects(input);
  const linux = bench.facts.machines.filter((machine) => machine.os === 'linux');
  const { change } = plan.kubeProxy;
  // Services are translated at every moment: kube-proxy comes back before anything else, and goes after everything else.
  const first = change === 'restore' ? restoringStages(bench, input.facts.proxy, linux) : [];
  if (plan.action === 'uninstall') {
    // Its pod gives its address back while there is somebody to take it.
    const relay = relayRemoval(bench, objects.filter(isRelay), input.live);
    const stages = [...first, ...relay, ...uninstallStages(bench, cleanupOf(input), objects)];
    return { stages, close: async () => undefined };
  }
  const image = input.image as ImageArchive;
  const replaces = input.facts.installed !== undefined;
  const order = plan.batches.flat();
  const probe =
    replaces && order.length > 0 ? createDisruptionProbe(bench.connection, image.reference, order) : undefined;
  const parts = {
    definitions: objects.filter(({ type }) => type.kind === 'CustomResourceDefinition'),
    others: objects.filter(
      (one) => !['CustomResourceDefinition', 'Secret', 'DaemonSet'].includes(one.type.kind) && !isRelay(one),
    ),
    workload: objects.find(({ type }) => type.kind === 'DaemonSet') as (typeof objects)[number],
    makeSecrets: () => makeSecrets(input.values.cluster.name, secrets.authority, input.values.hubble.relay.enabled),
    secretsNeeded: secrets.renew !== undefined,
  };
  const course = { batches: plan.batches, replaces, restart: plan.restarts, probe };
  const relay = input.values.hubble.relay.enabled
    ? relayStages(bench, objects.filter(isRelay), linux)
    : relayRemoval(bench, input.unwanted, input.live);
  const through =
    change === 'remove' ? createDisruptionProbe(bench.connection, image.reference, order, 'service') : undefined;
  const last = change === 'remove' ? removalStages(bench, input.facts.proxy, linux, through) : [];
  return {
    stages: [...first, ...installStages(bench, image, parts, course), ...relay, ...last],
    close: async () => {
      await probe?.[Symbol.asyncDispose]();
      await through?.[Symbol.asyncDispose]();
    },
  };
}

/** Plans, applies and watches installations of the agent. */
export function createInstall(options: InstallOptions): CapabilityImplementation<'install'> & Disposable {
  const { connections, agents, audit, log, findings } = options;
  /** What was asked for in the newest plan of each cluster: applying makes that plan again and compares. */
  const planned = new Map<string, Asked & { readonly digest: string }>();
  const runs = new Map<string, Run>();
  /** Clusters in which an application is about to begin. */
  const beginning = new Set<string>();
  const lastFacts = new Map<string, Known>();

  const valueFacts = (cluster: string, { facts, agentKeys }: Known): ValueFacts => ({
    ...facts,
    geneve: geneveOf(findings, cluster, facts.machines),
    ...(agentKeys ? { agentKeys } : {}),
  });

  const image = async (): Promise<ImageArchive | undefined> => {
    if (!options.image) return undefined;
    const read = await readImageArchive(options.image);
    if (read.ok) return read.value;
    log.warn('install', `${read.failure.what} ${read.failure.why}`);
    return undefined;
  };

  const prepare = async (cluster: string, { action, values, rollout }: Asked) => {
    const connection = await connections.get(cluster);
    if (!connection.ok) return connection;
    const prepared = await preparePlan(
      connection.value,
      connections.ssh(cluster),
      await image(),
      action,
      values,
      rollout,
      (machines) => geneveOf(findings, cluster, machines),
    );
    return prepared.ok ? ok({ connection: connection.value, prepared: prepared.value }) : prepared;
  };

  const start = (cluster: string, bench: Workbench, prepared: PreparedPlan, keeper: StateKeeper): void => {
    const { plan } = prepared;
    const stop = new AbortController();
    const run: Run = {
      progress: { action: plan.action, state: 'running', steps: [] },
      stop,
      listeners: new Set(),
    };
    runs.set(cluster, run);
    const end = () => stop.abort();
    bench.connection.signal.addEventListener('abort', end, { once: true });
    const stages = stagesOf(bench, prepared);
    // Recorded before anything is written: a console that ends in the middle leaves a trace as well.
    audit.record({
      cluster: bench.connection.contextName,
      action: `install.${plan.action}`,
      subject: `agent in ${agentNamespace}`,
      result: 'begun',
    });
    for (const node of bench.leftOut ?? [])
      audit.record({
        cluster: bench.connection.contextName,
        action: 'install.leave-out',
        subject: `node ${node}`,
        result: 'begun: it does not answer, and the removal of kube-proxy goes on without it',
      });
    log.info('install', `${plan.action} of ${bench.connection.contextName} begins`);
    const nodes = bench.facts.machines.map((machine) => machine.name);
    const publish = (progress: InstallProgress) => {
      run.progress = progress;
      for (const listener of run.listeners) listener();
    };
    void runStages(plan.action, stages.stages, stop.signal, (progress) => {
      // An uninstall takes the state away at its end; it must not come back.
      if (plan.action !== 'uninstall') keeper.update({ nodes: nodeStates(progress, nodes), state: progress.state });
      // It has ended for others only when everything is written and closed.
      if (progress.state === 'running') publish(progress);
    }).then(async (progress) => {
      bench.connection.signal.removeEventListener('abort', end);
      keeper[Symbol.dispose]();
      await keeper.settled();
      await stages.close();
      const failure = progress.steps.find((step) => step.failure)?.failure;
      const result = failure ? `${progress.state}: ${failure.what} ${failure.why}` : progress.state;
      audit.record({
        cluster: bench.connection.contextName,
        action: `install.${plan.action}`,
        subject: `agent in ${agentNamespace}`,
        result,
      });
      log.info('install', `${plan.action} of ${bench.connection.contextName}: ${result}`);
      publish(progress);
    });
  };

  /** What `status` tells of the last application; a run of this console is not called interrupted. */
  const lastOf = (cluster: string, state: InstallState | undefined) => {
    if (!state) return undefined;
    const own = runs.get(cluster)?.progress.state === 'running';
    const previous = previousOf(state)?.values;
    return {
      action: state.action,
      state: !own && isInterrupted(state, Date.now()) ? ('interrupted' as const) : state.state,
      startedAt: state.startedAt,
      nodes: state.nodes,
      values: state.values,
      ...(previous ? { previous } : {}),
    };
  };

  return {
    async status({ cluster }) {
      const connection = await connections.get(cluster);
      if (!connection.ok) return connection;
      const [facts, values, archive, state] = await Promise.all([
        readFacts(connection.value, connections.ssh(cluster)),
        readInstalledValues(connection.value),
        image(),
        readState(connection.value),
      ]);
      if (!facts.ok) return facts;
      if (!values.ok) return values;
      if (!state.ok) return state;
      const last = lastOf(cluster, state.value);
      lastFacts.set(cluster, { facts: facts.value, agentKeys: archive?.agentKeys });
      const { values: suggested, reasons } = suggestValues(values.value ?? valuesSchema.parse({}), facts.value);
      const recognised = profiles.find((profile) => profile.recognised(facts.value))?.id;
      return ok({
        // What an uninstall that broke off has left counts: it can be uninstalled on.
        installed: facts.value.installed !== undefined || facts.value.cleanup !== undefined,
        version: installedImage(facts.value) ?? '',
        ...(values.value ? { values: values.value } : {}),
        ...(last ? { last } : {}),
        image: archive?.reference ?? '',
        suggested,
        reasons,
        kubeProxy: { kind: facts.value.proxy.kind, text: facts.value.proxy.text },
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
      if (known) return ok(checkValues(values, valueFacts(cluster, known)));
      const connection = await connections.get(cluster);
      if (!connection.ok) return connection;
      const [facts, archive] = await Promise.all([readFacts(connection.value, connections.ssh(cluster)), image()]);
      if (!facts.ok) return facts;
      lastFacts.set(cluster, { facts: facts.value, agentKeys: archive?.agentKeys });
      return ok(checkValues(values, valueFacts(cluster, { facts: facts.value, agentKeys: archive?.agentKeys })));
    },

    async plan({ cluster, action, values, rollout }) {
      const asked: Asked = { action, values, rollout };
      const result = await prepare(cluster, asked);
      if (!result.ok) return result;
      const { plan } = result.value.prepared;
      planned.set(cluster, { ...asked, digest: plan.digest });
      return ok(plan);
    },

    async apply({ cluster, digest }) {
      const writable = connections.writable(cluster);
      if (!writable.ok) return writable;
      if (runs.get(cluster)?.progress.state === 'running') return failed(runningAlready);
      const asked = planned.get(cluster);
      if (!asked || asked.digest !== digest) return failed(stale('It is not the newest plan of this cluster.'));
      const result = await prepare(cluster, asked);
      if (!result.ok) return result;
      const { connection, prepared } = result.value;
      if (prepared.plan.digest !== digest)
        return failed(stale('The cluster, or the image archive, has changed since it was made.'));
      const [obstacle] = prepared.plan.obstacles;
      if (obstacle) return failed(obstacle);
      const facts = { ...prepared.input.facts, machines: machinesOf(prepared.input) };
      const leftOut = prepared.plan.kubeProxy.leavesOut;
      const bench = { connection, ssh: connections.ssh(cluster), agents, facts, leftOut };
      // Planning took a while: another application may have begun, or the cluster been protected. No await from here.
      const still = connections.writable(cluster);
      if (!still.ok) return still;
      if (beginning.has(cluster) || runs.get(cluster)?.progress.state === 'running') return failed(runningAlready);
      planned.delete(cluster);
      beginning.add(cluster);
      try {
        const keeper = new StateKeeper(connection, await firstState(connection, prepared));
        if (prepared.plan.action !== 'uninstall') {
          const begun = await keeper.begin();
          if (!begun.ok) {
            keeper[Symbol.dispose]();
            return begun;
          }
        }
        start(cluster, bench, prepared, keeper);
        return ok({});
      } finally {
        beginning.delete(cluster);
      }
    },

    async stop({ cluster }) {
      runs.get(cluster)?.stop.abort();
      return ok({});
    },

    async watch({ cluster }, sink, { signal }) {
      const run = runs.get(cluster);
      if (!run) return undefined;
      return await streamWholePictures(
        run.listeners,
        sink,
        signal,
        () => run.progress,
        (progress) => progress.state !== 'running',
      );
    },

    [Symbol.dispose]() {
      for (const run of runs.values()) run.stop.abort();
    },
  };
}
