import { failed, ok, type Result } from '../../../contract/failure.ts';
import type { Failure } from '../../../contract/index.ts';
import { resources } from '../kube/cluster-connection.ts';
import { applyAll, cancelled } from './apply.ts';
import type { NodeFacts } from './facts.ts';
import type { Rendered } from './manifests.ts';
import { agentName, agentNamespace, agentSelector, cleanupName, cleanupSelector, stateName } from './names.ts';
import { releaseHold } from './rollout.ts';
import { isNotFound } from './secrets.ts';
import type { Stage, Step, StepContext } from './steps.ts';
import { waitFor } from './wait.ts';
import { isReady, type Pod, podState, type Workbench } from './workbench.ts';

const done = (message: string) => ok({ message });

export async function removeOne({ connection }: Workbench, { type, object }: Rendered): Promise<Result<boolean>> {
  const { name, namespace } = object.metadata;
  const removed = await connection.remove(type, name, namespace, { propagation: 'Background' });
  if (removed.ok) return ok(true);
  return isNotFound(removed.failure.code) ? ok(false) : removed;
}

/** Removes a DaemonSet or a Deployment and waits for its pods to be gone. */
export async function removeWorkload(
  bench: Workbench,
  workload: Rendered,
  labelSelector: string,
  { signal, message }: StepContext,
): ReturnType<Step['run']> {
  using pods = bench.connection.watch<Pod>(resources.pods, { namespace: agentNamespace, labelSelector });
  await pods.ready();
  const removed = await removeOne(bench, workload);
  if (!removed.ok) return removed;
  return await waitFor(
    [pods],
    signal,
    90,
    () => {
      const left = pods.items().size;
      if (left === 0) return done('gone');
      message(`${left} pods left`);
      return undefined;
    },
    () => ({
      code: 'install.pods-stay',
      what: `Pods of ${workload.object.metadata.name} do not go away.`,
      why: `Still there after 90 s: ${[...pods.items().values()].map((pod) => pod.spec?.nodeName).join(', ')}.`,
      fix: 'Check that these nodes are up; delete their pods by force if the nodes are gone for good.',
    }),
  );
}

function cleanupStep(bench: Workbench, machine: NodeFacts): Step {
  return {
    id: `cleanup:${machine.name}`,
    title: 'Undo every change on the node',
    node: machine.name,
    run: async ({ signal, message }) => {
      using pods = bench.connection.watch<Pod>(resources.pods, {
        namespace: agentNamespace,
        labelSelector: cleanupSelector,
      });
      const mine = () => [...pods.items().values()].find((pod) => pod.spec?.nodeName === machine.name);
      return await waitFor(
        [pods],
        signal,
        120,
        () => {
          const pod = mine();
          if (pod && isReady(pod)) return done('nothing is left');
          message(podState(pod));
          return undefined;
        },
        (): Failure => ({
          code: 'install.residue',
          what: `${machine.name} is not clean.`,
          why: podState(mine()),
          fix: `Read kubectl -n ${agentNamespace} logs ${mine()?.metadata.name ?? `-l ${cleanupSelector}`}; it lists what remains. On the node: /opt/cni/bin/fairlead-cni cleanup.`,
        }),
      );
    },
  };
}

/** What tells how far the last application came; nothing of it is needed any more. */
const stateObject: Rendered = {
  type: resources.configMaps,
  object: { metadata: { name: stateName, namespace: agentNamespace } },
};

/** Stages of uninstalling: agents away, every node cleaned by a DaemonSet of its own, then the rest. */
export function uninstallStages(bench: Workbench, cleanup: Rendered, objects: readonly Rendered[]): readonly Stage[] {
  const machines = bench.facts.machines.filter((machine) => machine.os === 'linux');
  const workload = objects.find(({ type, object }) => type.kind === 'DaemonSet' && object.metadata.name === agentName);
  const rest = objects
    .filter(({ type }) => type.kind !== 'DaemonSet' && type.kind !== 'CustomResourceDefinition')
    .toReversed();
  return [
    {
      parallel: 1,
      steps: [
        {
          id: 'workload',
          title: 'DaemonSet of the agent',
          node: '',
          run: async (context) =>
            workload
              ? removeWorkload(bench, workload, agentSelector, context)
              : ok({ message: 'not there', skipped: true }),
        },
        {
          id: 'cleanup',
          title: 'DaemonSet that cleans up',
          node: '',
          run: (context) => applyAll(bench, [cleanup], context),
        },
      ],
    },
    { parallel: machines.length, steps: machines.map((machine) => cleanupStep(bench, machine)) },
    {
      parallel: 1,
      steps: [
        {
          id: `remove:${cleanupName}`,
          title: 'DaemonSet that cleaned up',
          node: '',
          run: (context) => removeWorkload(bench, cleanup, cleanupSelector, context),
        },
        {
          id: 'rest',
          title: 'Account, rights, configuration and secrets',
          node: '',
          run: async ({ log, signal }) => {
            const released = await releaseHold(
              bench,
              bench.facts.machines.map((machine) => machine.name),
            );
            if (!released.ok) return released;
            for (const one of [...rest, stateObject]) {
              if (signal.aborted) return failed(cancelled);
              const removed = await removeOne(bench, one);
              if (!removed.ok) return removed;
              if (removed.value) log(`${one.type.kind} ${one.object.metadata.name} deleted`);
            }
            return done('deleted; the custom resource definitions are kept');
          },
        },
      ],
    },
  ];
}
