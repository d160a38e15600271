import { failed, ok } from '../../../contract/failure.ts';
import type { Failure } from '../../../contract/index.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { DisruptionProbe } from './disruption.ts';
import type { NodeFacts } from './facts.ts';
import type { ImageArchive } from './image.ts';
import { type Rendered, replacedByHand } from './manifests.ts';
import { configDigestAnnotation, fieldManager } from './names.ts';
import { restartStep } from './restart.ts';
import { agentStep, holdStep } from './rollout.ts';
import { sideLoad } from './side-load.ts';
import type { Stage, Step, StepContext } from './steps.ts';
import { verifyStep, verifySteps } from './verify.ts';
import { waitFor } from './wait.ts';
import { condition, type NodeObject, type PlannedPod, type Workbench } from './workbench.ts';

const done = (message: string) => ok({ message });

export const cancelled: Failure = {
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
      using live = bench.connection.watch<NodeObject>(resources.customResourceDefinitions);
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

/** What is applied, sorted by when. */
export interface Parts {
  readonly definitions: readonly Rendered[];
  readonly others: readonly Rendered[];
  readonly workload: Rendered;
  readonly makeSecrets: () => Promise<readonly KubeObject[]>;
  readonly secretsNeeded: boolean;
}

/** How a plan is applied to the nodes. */
export interface Course {
  /** The first alone, then batches. */
  readonly batches: readonly (readonly string[])[];
  /** An agent is there already: its pods are replaced one by one. */
  readonly replaces: boolean;
  /** Pods that got their network from another plugin, to be restarted once their node has the agent. */
  readonly restart: readonly PlannedPod[];
  /** Measures what an open connection notices of it. */
  readonly probe: DisruptionProbe | undefined;
}

/** Stages of installing, of upgrading and of going back. `image` has no path when the nodes hold it already. */
export function installStages(bench: Workbench, image: ImageArchive, parts: Parts, course: Course): readonly Stage[] {
  const machines = bench.facts.machines.filter((machine) => machine.os === 'linux');
  const named = (names: readonly string[]) => machines.filter((machine) => names.includes(machine.name));
  const template = (
    parts.workload.object as unknown as {
      readonly spec: {
        readonly template: { readonly metadata: { readonly annotations: Readonly<Record<string, string>> } };
      };
    }
  ).spec.template;
  const wanted = { digest: template.metadata.annotations[configDigestAnnotation] ?? '', image: image.reference };
  const later = course.batches.slice(1).flat();
  const one = (id: string, title: string, run: Step['run']): Step => ({ id, title, node: '', run });
  const rolled = course.batches.flatMap((batch, index): readonly Stage[] => {
    const members = named(batch);
    const title = index === 0 && course.batches.length > 1 ? 'Agent (canary)' : 'Agent';
    const restarts = course.restart.filter((pod) => batch.includes(pod.node));
    const agents = {
      parallel: members.length,
      steps: members.map((machine) => agentStep(bench, machine, wanted, title)),
    };
    const again = { parallel: 4, steps: restarts.map((pod) => restartStep(bench, pod)) };
    const canary = {
      parallel: 1,
      steps: members.map((machine) =>
        verifyStep(bench, machine, course.replaces ? machines.length : 1, 'Verify the canary', 'canary'),
      ),
    };
    return [
      agents,
      ...(restarts.length > 0 ? [again] : []),
      ...(index === 0 && course.batches.length > 1 ? [canary] : []),
    ];
  });
  return [
    ...(image.path === '' ? [] : [{ parallel: 4, steps: machines.map((machine) => imageStep(bench, machine, image)) }]),
    { parallel: 1, steps: [definitionsStep(bench, parts.definitions)] },
    { parallel: 1, steps: [secretsStep(bench, parts.makeSecrets, parts.secretsNeeded)] },
    ...(course.probe ? [{ parallel: 1, steps: [course.probe.start] }] : []),
    {
      parallel: 1,
      steps: [
        ...(course.replaces ? [] : [holdStep(bench, later)]),
        one('configuration', 'Account, rights and configuration', (context) => applyAll(bench, parts.others, context)),
        one('workload', 'DaemonSet', (context) =>
          applyAll(bench, [course.replaces ? replacedByHand(parts.workload) : parts.workload], context),
        ),
      ],
    },
    ...rolled,
    ...(course.replaces
      ? [
          {
            parallel: 1,
            steps: [
              one('rolled', 'DaemonSet keeps itself up to date', (context) =>
                applyAll(bench, [parts.workload], context),
              ),
            ],
          },
        ]
      : []),
    ...(course.probe ? [{ parallel: 1, steps: [course.probe.result] }] : []),
    { parallel: machines.length, steps: verifySteps(bench, machines) },
  ];
}
