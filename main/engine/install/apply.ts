import { failed, ok, type Result } from '../../../contract/failure.ts';
import type { Failure } from '../../../contract/index.ts';
import type { Agents } from '../agents/agent-pool.ts';
import { type ClusterConnection, type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { SshConnector } from '../ssh/ssh-connector.ts';
import type { ClusterFacts, NodeFacts } from './facts.ts';
import type { ImageArchive } from './image.ts';
import type { Rendered } from './manifests.ts';
import {
  agentName,
  agentNamespace,
  agentSelector,
  cleanupName,
  cleanupSelector,
  configDigestAnnotation,
  fieldManager,
} from './names.ts';
import { isNotFound } from './secrets.ts';
import { sideLoad } from './side-load.ts';
import type { Stage, Step, StepContext } from './steps.ts';
import { verifySteps } from './verify.ts';
import { waitFor } from './wait.ts';

/** What applying works with. */
export interface Workbench {
  readonly connection: ClusterConnection;
  readonly ssh: SshConnector;
  readonly agents: Agents;
  readonly facts: ClusterFacts;
}

interface Pod extends KubeObject {
  readonly spec?: { readonly nodeName?: string; readonly containers?: readonly { readonly image?: string }[] };
  readonly status?: {
    readonly phase?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string; readonly message?: string }[];
    readonly containerStatuses?: readonly {
      readonly restartCount?: number;
      readonly state?: {
        readonly waiting?: { readonly reason?: string; readonly message?: string };
        readonly terminated?: { readonly reason?: string; readonly exitCode?: number; readonly message?: string };
      };
      readonly lastState?: { readonly terminated?: { readonly reason?: string; readonly exitCode?: number } };
    }[];
  };
}

interface Node extends KubeObject {
  readonly status?: {
    readonly conditions?: readonly { readonly type: string; readonly status: string; readonly message?: string }[];
  };
}

const done = (message: string) => ok({ message });

function condition(
  conditions: readonly { readonly type: string; readonly status: string; readonly message?: string }[] | undefined,
  type: string,
) {
  return conditions?.find((one) => one.type === type);
}

/** Why a pod is not ready, in the kubelet's words. */
function podState(pod: Pod | undefined): string {
  if (!pod) return 'no pod yet';
  const status = pod.status?.containerStatuses?.[0];
  const waiting = status?.state?.waiting;
  if (waiting?.reason) return [waiting.reason, waiting.message].filter(Boolean).join(': ');
  const ended = status?.state?.terminated ?? status?.lastState?.terminated;
  if (ended && (status?.restartCount ?? 0) > 0)
    return `restarted ${status?.restartCount} times, last ended with ${ended.exitCode} ${ended.reason ?? ''}`.trim();
  return condition(pod.status?.conditions, 'Ready')?.message ?? pod.status?.phase ?? 'starting';
}

/** Waiting reasons after which waiting longer does not help. */
const hopeless = new Set(['ErrImageNeverPull', 'InvalidImageName', 'CreateContainerConfigError', 'ImagePullBackOff']);

function isReady(pod: Pod): boolean {
  return condition(pod.status?.conditions, 'Ready')?.status === 'True' && !pod.metadata.deletionTimestamp;
}

const cancelled: Failure = {
  code: 'cancelled',
  what: 'Stopped.',
  why: 'The operator stopped it.',
  fix: 'Plan again and apply: what is done already is left as it is.',
};

/** Applies objects one after the other; a stop in between is a failure, as what follows was not applied. */
export async function applyAll(
  { connection }: Pick<Workbench, 'connection'>,
  objects: readonly Rendered[],
  { log, signal }: StepContext,
): ReturnType<Step['run']> {
  for (const { type, object } of objects) {
    if (signal.aborted) return failed(cancelled);
    const applied = await connection.apply(type, object, { fieldManager, force: true });
    if (!applied.ok) return applied;
    log(`${type.kind} ${object.metadata.name} applied`);
  }
  return done(`${objects.length} applied`);
}

function imageStep(bench: Workbench, machine: NodeFacts, image: ImageArchive): Step {
  return {
    id: `image:${machine.name}`,
    title: 'Agent image',
    node: machine.name,
    run: async (context) => {
      if (machine.ssh) return sideLoad(bench.ssh, machine.ssh, image, context);
      return ok({ message: `${image.reference} is there already, says the kubelet`, skipped: true });
    },
  };
}

function definitionsStep(bench: Workbench, definitions: readonly Rendered[]): Step {
  return {
    id: 'definitions',
    title: 'Custom resource definitions',
    node: '',
    run: async (context) => {
      const applied = await applyAll(bench, definitions, context);
      if (!applied.ok) return applied;
      using live = bench.connection.watch<Node>(resources.customResourceDefinitions);
      const names = definitions.map(({ object }) => object.metadata.name);
      const missing = () =>
        names.filter((name) => condition(live.items().get(name)?.status?.conditions, 'Established')?.status !== 'True');
      return await waitFor(
        [live],
        context.signal,
        30,
        () => (missing().length === 0 ? done(`${names.length} definitions are served`) : undefined),
        () => ({
          code: 'install.definitions-not-served',
          what: 'The API server does not serve the new kinds.',
          why: `Not established after 30 s: ${missing().join(', ')}.`,
          fix: 'Look at the conditions of these CustomResourceDefinitions.',
        }),
      );
    },
  };
}

function secretsStep(bench: Workbench, make: () => Promise<readonly KubeObject[]>, needed: boolean): Step {
  return {
    id: 'certificates',
    title: 'Certificates',
    node: '',
    run: async (context) => {
      if (!needed) return ok({ message: 'kept', skipped: true });
      const secrets = (await make()).map((object) => ({ type: resources.secrets, object }));
      return applyAll(bench, secrets, context);
    },
  };
}

/** Waits for the agent's pod of the wanted configuration on one node, and for the node itself. */
function agentStep(
  bench: Workbench,
  machine: NodeFacts,
  wanted: { readonly digest: string; readonly image: string },
): Step {
  return {
    id: `agent:${machine.name}`,
    title: 'Agent',
    node: machine.name,
    run: async ({ signal, message, log }) => {
      using pods = bench.connection.watch<Pod>(resources.pods, {
        namespace: agentNamespace,
        labelSelector: agentSelector,
      });
      using nodes = bench.connection.watch<Node>(resources.nodes);
      const current = () =>
        [...pods.items().values()].find(
          (pod) =>
            pod.spec?.nodeName === machine.name &&
            !pod.metadata.deletionTimestamp &&
            pod.metadata.annotations?.[configDigestAnnotation] === wanted.digest &&
            pod.spec.containers?.[0]?.image === wanted.image,
        );
      let shown = '';
      return await waitFor(
        [pods, nodes],
        signal,
        120,
        () => {
          const pod = current();
          const waiting = pod?.status?.containerStatuses?.[0]?.state?.waiting;
          if (pod && waiting?.reason && hopeless.has(waiting.reason))
            return failed({
              code: 'install.agent-cannot-start',
              what: `The agent cannot start on ${machine.name}.`,
              why: podState(pod),
              fix: `Look at kubectl -n ${agentNamespace} describe pod ${pod.metadata.name}.`,
            });
          const node = condition(nodes.items().get(machine.name)?.status?.conditions, 'Ready');
          if (pod && isReady(pod) && node?.status === 'True') return done('agent and node are Ready');
          const text = pod && isReady(pod) ? `agent Ready, node: ${node?.message ?? 'unknown'}` : podState(pod);
          if (text !== shown) {
            shown = text;
            message(text);
            log(text);
          }
          return undefined;
        },
        () => ({
          code: 'install.agent-not-ready',
          what: `The agent on ${machine.name} is not ready after two minutes.`,
          why: podState(current()),
          fix: `Read kubectl -n ${agentNamespace} logs ${current()?.metadata.name ?? `-l ${agentSelector}`} and run fairlead-agent status in it; plan and apply again to go on.`,
        }),
      );
    },
  };
}

/** Stages of installing and of upgrading. */
export function installStages(
  bench: Workbench,
  image: ImageArchive,
  objects: {
    readonly definitions: readonly Rendered[];
    readonly others: readonly Rendered[];
    readonly workload: Rendered;
    readonly makeSecrets: () => Promise<readonly KubeObject[]>;
    readonly secretsNeeded: boolean;
  },
): readonly Stage[] {
  const machines = bench.facts.machines.filter((machine) => machine.os === 'linux');
  const template = (
    objects.workload.object as unknown as {
      readonly spec: {
        readonly template: { readonly metadata: { readonly annotations: Readonly<Record<string, string>> } };
      };
    }
  ).spec.template;
  const wanted = { digest: template.metadata.annotations[configDigestAnnotation] ?? '', image: image.reference };
  return [
    { parallel: 4, steps: machines.map((machine) => imageStep(bench, machine, image)) },
    { parallel: 1, steps: [definitionsStep(bench, objects.definitions)] },
    { parallel: 1, steps: [secretsStep(bench, objects.makeSecrets, objects.secretsNeeded)] },
    {
      parallel: 1,
      steps: [
        {
          id: 'configuration',
          title: 'Account, rights and configuration',
          node: '',
          run: (context) => applyAll(bench, objects.others, context),
        },
        {
          id: 'workload',
          title: 'DaemonSet',
          node: '',
          run: (context) => applyAll(bench, [objects.workload], context),
        },
      ],
    },
    { parallel: machines.length, steps: machines.map((machine) => agentStep(bench, machine, wanted)) },
    { parallel: machines.length, steps: verifySteps(bench, machines) },
  ];
}

async function removeOne({ connection }: Workbench, { type, object }: Rendered): Promise<Result<boolean>> {
  const { name, namespace } = object.metadata;
  const removed = await connection.remove(type, name, namespace, { propagation: 'Background' });
  if (removed.ok) return ok(true);
  return isNotFound(removed.failure.code) ? ok(false) : removed;
}

/** Removes a DaemonSet and waits for its pods to be gone. */
async function removeWorkload(
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
            for (const one of rest) {
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
