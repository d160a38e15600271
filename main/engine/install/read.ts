import { parse } from 'yaml';
import { failed, ok, type Result } from '../../../contract/failure.ts';
import {
  defaultValues,
  type Failure,
  importValues,
  type Plan,
  type Values,
  valuesSchema,
} from '../../../contract/index.ts';
import { jobs } from '../checks/node-job.ts';
import { type ClusterConnection, type KubeObject, type ResourceType, resources } from '../kube/cluster-connection.ts';
import type { SshConnector } from '../ssh/ssh-connector.ts';
import { customResourceDefinitions } from './definitions.ts';
import {
  askRights,
  type ClusterFacts,
  installedImage,
  missingRights,
  type ReadOnlyConnection,
  type Right,
  readFacts,
} from './facts.ts';
import type { ImageArchive } from './image.ts';
import { type ProxyFacts, type ProxyWish, planProxy } from './kube-proxy.ts';
import { type Rendered, renderObjects } from './manifests.ts';
import { agentNamespace, configName, valuesAnnotation } from './names.ts';
import { allObjects, cleanupOf, keyOf, machinesOf, makePlan, type PlanAction, type PlanInput } from './plan.ts';
import { relaySecretObject, renderRelay } from './relay.ts';
import { foreignPods } from './restart.ts';
import { planRollout, type RolloutWish } from './rollout.ts';
import { isNotFound, readSecrets, type SecretState, secretPlaceholders } from './secrets.ts';
import { type InstallState, isInterrupted, previousOf, readState } from './state.ts';
import type { ValueFacts } from './values.ts';

/** A plan together with what applying it needs. */
export interface PreparedPlan {
  readonly plan: Plan;
  readonly input: PlanInput;
  readonly secrets: SecretState;
  /** The last application, as the cluster remembers it. */
  readonly state: InstallState | undefined;
}

/** An image that the nodes hold already. */
function held(reference: string): ImageArchive {
  return { path: '', name: '', digest: '', reference, bytes: 0 };
}

function hindrances(action: PlanAction, state: InstallState | undefined, before: boolean): readonly Failure[] {
  const found: Failure[] = [];
  if (action === 'rollback' && !before)
    found.push({
      code: 'install.nothing-before',
      what: 'There is nothing to go back to.',
      why: 'The last application was the first one here, or the cluster does not remember it.',
      fix: 'Uninstall instead, or apply other values.',
    });
  if (state?.state === 'running' && !isInterrupted(state, Date.now()))
    found.push({
      code: 'install.elsewhere',
      what: 'Another console is applying a plan to this cluster.',
      why: `Its last sign of life is ${Math.round((Date.now() - state.updatedAt) / 1000)} s old.`,
      fix: 'Wait until it ends; if that console is gone, it is taken for broken off after half a minute.',
    });
  return found;
}

interface ConfigMap extends KubeObject {
  readonly data?: Readonly<Record<string, string>>;
}

/** Values of the present installation; undefined when there is none or they cannot be read. */
export async function readInstalledValues(connection: ReadOnlyConnection): Promise<Result<Values | undefined>> {
  const found = await connection.get<ConfigMap>(resources.configMaps, configName, agentNamespace);
  if (!found.ok) return isNotFound(found.failure.code) ? ok(undefined) : found;
  try {
    const given = found.value.metadata.annotations?.[valuesAnnotation];
    // A configuration that somebody wrote by hand has no annotation; it speaks for itself.
    if (given === undefined) return ok(importValues(parse(found.value.data?.['config.yaml'] ?? '')).values);
    const parsed = valuesSchema.safeParse(JSON.parse(given));
    return ok(parsed.success ? parsed.data : undefined);
  } catch {
    return ok(undefined);
  }
}

async function readLive(
  connection: ReadOnlyConnection,
  objects: readonly Rendered[],
): Promise<Result<ReadonlyMap<string, KubeObject>>> {
  const live = new Map<string, KubeObject>();
  const read = async ({ type, object }: Rendered) => {
    const { name, namespace } = object.metadata;
    const found = await connection.get<KubeObject>(type, name, type.namespaced ? namespace : undefined);
    if (found.ok) live.set(keyOf(type.kind, name, type.namespaced ? (namespace ?? '') : ''), found.value);
    return found;
  };
  for (const found of await Promise.all(objects.map(read)))
    if (!found.ok && !isNotFound(found.failure.code)) return failed(found.failure);
  return ok(live);
}

/** Rights that applying needs. An uninstall also makes the DaemonSet that cleans up. */
function rightsFor(action: PlanAction, objects: readonly Rendered[], proxy: readonly Right[] = []): readonly Right[] {
  const kinds = new Map<string, { readonly type: ResourceType; readonly namespace: string }>();
  for (const { type } of objects) kinds.set(type.plural, { type, namespace: type.namespaced ? agentNamespace : '' });
  const verbs = action === 'uninstall' ? ['delete'] : ['create', 'patch'];
  const rights = [...kinds.values()]
    .filter(({ type }) => action !== 'uninstall' || type.kind !== 'CustomResourceDefinition')
    .flatMap((kind) => verbs.map((verb) => ({ ...kind, verb })));
  if (action !== 'uninstall')
    return [
      ...rights,
      ...proxy,
      // The nodes' marks, and replacing agents one by one.
      { verb: 'patch', type: resources.nodes, namespace: '' },
      { verb: 'delete', type: resources.pods, namespace: agentNamespace },
    ];
  const workload = { type: resources.daemonSets, namespace: agentNamespace };
  return [...rights, ...proxy, { ...workload, verb: 'create' }, { ...workload, verb: 'patch' }];
}

function isLive(live: ReadonlyMap<string, KubeObject>, type: ResourceType, { metadata }: KubeObject): boolean {
  return live.has(keyOf(type.kind, metadata.name, type.namespaced ? (metadata.namespace ?? '') : ''));
}

/** Rights that taking kube-proxy away, or bringing it back, needs. */
function proxyRights(change: Plan['kubeProxy']['change'], { namespace }: ProxyFacts): readonly Right[] {
  if (change === 'none') return [];
  const changing: Right = { verb: 'update', type: resources.daemonSets, namespace };
  const backup = { type: resources.configMaps, namespace: agentNamespace };
  if (change === 'restore') return [changing, { ...changing, verb: 'create' }, { ...backup, verb: 'delete' }];
  return [
    changing,
    { ...backup, verb: 'create' },
    ...['create', 'delete', 'list', 'watch'].map((verb) => ({ verb, type: jobs, namespace: agentNamespace })),
  ];
}

/** Rights that an action needs whatever its values are. */
export function neededRights(action: PlanAction): readonly Right[] {
  // Their types alone count: the definitions themselves are large, and are not read for this.
  const definitions = [{ metadata: { name: 'any' } }];
  const parts = { objects: renderObjects(defaultValues, ''), definitions, secrets: secretPlaceholders('default') };
  return rightsFor(action, allObjects(parts));
}

/**
 * Reads everything that a plan depends on and makes the plan. Through the read-only verbs only; the one POST is the
 * question "may I?", which the API server stores nowhere.
 */
export async function preparePlan(
  connection: ClusterConnection,
  ssh: SshConnector,
  carried: ImageArchive | undefined,
  action: PlanAction,
  given: Values,
  wish: RolloutWish & {
    readonly restart?: boolean | undefined;
    readonly kubeProxy?: ProxyWish | undefined;
    readonly leaveOut?: readonly string[] | undefined;
  } = {},
  geneve?: (machines: ClusterFacts['machines']) => NonNullable<ValueFacts['geneve']>,
): Promise<Result<PreparedPlan>> {
  const reader: ReadOnlyConnection = connection;
  const read = await readFacts(reader, ssh);
  if (!read.ok) return read;
  const facts: ClusterFacts = geneve ? { ...read.value, geneve: geneve(read.value.machines) } : read.value;
  const state = await readState(reader);
  if (!state.ok) return state;
  const before = action === 'rollback' ? previousOf(state.value) : undefined;
  const values = before?.values ?? given;
  const image = before ? held(before.image) : carried;
  const secrets = await readSecrets(reader, values.cluster.name, values.hubble.relay.enabled);
  if (!secrets.ok) return secrets;
  const makes = action === 'uninstall' || secrets.value.renew !== undefined;
  const reference = image?.reference ?? installedImage(facts) ?? '';
  // An uninstall takes everything that may be there.
  const whole = action === 'uninstall' || values.hubble.relay.enabled;
  const unwanted = whole ? [] : [...renderRelay(values, reference), relaySecretObject];
  const parts = {
    objects: [...renderObjects(values, reference), ...(whole ? renderRelay(values, reference) : [])],
    definitions: customResourceDefinitions(),
    secrets: makes ? secretPlaceholders(values.cluster.name, whole) : [],
  };
  const all = allObjects(parts);
  const live = await readLive(
    reader,
    action === 'uninstall' ? [...all, cleanupOf({ facts, image, values })] : [...all, ...unwanted],
  );
  if (!live.ok) return live;
  const { change } = planProxy(facts.proxy, action, values, wish.kubeProxy);
  const rights = await missingRights(
    askRights(connection),
    rightsFor(action, all, [
      ...proxyRights(change, facts.proxy),
      ...unwanted
        .filter(({ type, object }) => isLive(live.value, type, object))
        .map(({ type }) => ({ verb: 'delete', type, namespace: type.namespaced ? agentNamespace : '' })),
    ]),
  );
  const input: PlanInput = {
    ...parts,
    action,
    values,
    facts,
    image,
    secretsReason: secrets.value.renew,
    live: live.value,
    rights,
    batches: planRollout(machinesOf({ ...wish, facts, action, values }), wish),
    unwanted,
    restarts: wish.restart ? await foreignPods(reader) : [],
    hindrances: hindrances(action, state.value, before !== undefined),
    kubeProxy: wish.kubeProxy,
    leaveOut: wish.leaveOut,
  };
  return ok({ plan: makePlan(input), input, secrets: secrets.value, state: state.value });
}
