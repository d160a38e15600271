import { failed, ok } from '../../../contract/failure.ts';
import type { Failure } from '../../../contract/index.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { NodeFacts } from './facts.ts';
import { agentNamespace, agentSelector, configDigestAnnotation, holdLabel } from './names.ts';
import type { Step } from './steps.ts';
import { waitFor } from './wait.ts';
import { condition, isReady, type NodeObject, type Pod, podState, type Workbench } from './workbench.ts';

/** What the operator decides about the order of nodes. */
export interface RolloutWish {
  readonly canary?: string | undefined;
  /** Nodes at a time after the canary; 0 for a third of them. */
  readonly batch?: number | undefined;
}

/**
 * The order in which nodes are changed: one alone first, then batches. Without a wish the canary is a node that is
 * ready and no control plane, so that a bad value harms as little as it can. Pure.
 */
export function planRollout(machines: readonly NodeFacts[], wish: RolloutWish = {}): readonly (readonly string[])[] {
  const linux = machines.filter((machine) => machine.os === 'linux');
  const canary =
    linux.find((machine) => machine.name === wish.canary) ??
    linux.find((machine) => machine.ready && !machine.controlPlane) ??
    linux.find((machine) => !machine.controlPlane) ??
    linux[0];
  if (!canary) return [];
  const rest = linux.filter((machine) => machine !== canary).map((machine) => machine.name);
  const size = wish.batch && wish.batch > 0 ? Math.floor(wish.batch) : Math.max(2, Math.ceil(rest.length / 3));
  const batches: string[][] = [];
  for (let at = 0; at < rest.length; at += size) batches.push(rest.slice(at, at + size));
  return [[canary.name], ...batches];
}

/** Marks a node so that no agent is started there yet, or takes the mark away. The mark is one label, owned alone. */
async function mark({ connection }: Pick<Workbench, 'connection'>, node: string, held: boolean) {
  const labels = held ? { [holdLabel]: 'installing' } : {};
  const object: KubeObject = { apiVersion: 'v1', kind: 'Node', metadata: { name: node, labels } };
  return await connection.apply<KubeObject>(resources.nodes, object, { fieldManager: 'fairlead-hold', force: true });
}

/** Holds the agent back from nodes that are not yet to be changed; the mark is in the cluster, not in the console. */
export function holdStep(bench: Workbench, nodes: readonly string[]): Step {
  return {
    id: 'hold',
    title: 'Hold the other nodes back',
    node: '',
    run: async ({ log }) => {
      for (const node of nodes) {
        const marked = await mark(bench, node, true);
        if (!marked.ok) return marked;
        log(`${node} is held back by the label ${holdLabel}`);
      }
      return ok({
        message: nodes.length > 0 ? `held back: ${nodes.join(', ')}` : 'there are no others',
        skipped: nodes.length === 0,
      });
    },
  };
}

/** Takes the marks away from every node that has one. */
export async function releaseHold(bench: Pick<Workbench, 'connection'>, nodes: readonly string[]) {
  for (const node of nodes) {
    const found = await bench.connection.get<KubeObject>(resources.nodes, node);
    if (!found.ok || found.value.metadata.labels?.[holdLabel] === undefined) continue;
    const marked = await mark(bench, node, false);
    if (!marked.ok) return marked;
  }
  return ok(undefined);
}

/** Waiting reasons after which waiting longer does not help. */
const hopeless = new Set(['ErrImageNeverPull', 'InvalidImageName', 'CreateContainerConfigError', 'ImagePullBackOff']);

/** Restarts after which an agent is given up: it dies of the same thing again. */
const restartLimit = 2;

/** Last lines of a container that ended, for the failure's details. */
async function lastWords({ connection }: Workbench, pod: string): Promise<string> {
  for (const previous of ['&previous=true', '']) {
    const log = await connection.raw(`/api/v1/namespaces/${agentNamespace}/pods/${pod}/log?tailLines=15${previous}`);
    if (log.ok && typeof log.value === 'string' && log.value.trim() !== '') return log.value.trim();
  }
  return '';
}

/** An agent that is not ready says in its log which of its parts fails. It is given this long to get over it. */
const patience = 20_000;

/** What a line of the agent's log says of a part that fails; undefined where it says no such thing. Pure. */
export function failingPart(log: string): { readonly message: string; readonly fix: string } | undefined {
  const states = new Map<string, { readonly state: string; readonly line: string }>();
  for (const line of log.split('\n')) {
    const found = /msg=component name=(\S+) state=(\S+)/.exec(line);
    if (found) states.set(found[1] ?? '', { state: found[2] ?? '', line });
  }
  const bad = [...states.values()].find(({ state }) => state === 'failing')?.line;
  if (bad === undefined) return undefined;
  const quoted = (key: string) => {
    const found = new RegExp(`${key}=(?:"((?:[^"\\\\]|\\\\.)*)"|(\\S+))`).exec(bad);
    return (found?.[1] ?? found?.[2] ?? '').replaceAll('\\"', '"');
  };
  return { message: quoted('message'), fix: quoted('fix') };
}

/** Looks into the log of an agent that does not become ready. */
function watchFailing({ connection }: Workbench, pod: () => string | undefined, signal: AbortSignal) {
  const listeners = new Set<() => void>();
  let problem: ReturnType<typeof failingPart>;
  const look = async () => {
    const name = pod();
    if (!name || signal.aborted) return;
    const log = await connection.raw(`/api/v1/namespaces/${agentNamespace}/pods/${name}/log?tailLines=200`);
    problem = log.ok && typeof log.value === 'string' ? failingPart(log.value) : undefined;
    if (problem) for (const listener of listeners) listener();
  };
  const timer = setInterval(() => void look(), patience);
  return {
    problem: () => problem,
    onChange: (listener: () => void): Disposable => {
      listeners.add(listener);
      return { [Symbol.dispose]: () => void listeners.delete(listener) };
    },
    [Symbol.dispose]: () => clearInterval(timer),
  };
}

/**
 * Brings one node's agent to the wanted configuration: lets it start where it was held back, replaces it where an
 * older one runs, and waits for it and for the node.
 */
export function agentStep(
  bench: Workbench,
  machine: NodeFacts,
  wanted: { readonly digest: string; readonly image: string },
  title: string,
): Step {
  return {
    id: `agent:${machine.name}`,
    title,
    node: machine.name,
    run: async ({ signal, message, log }) => {
      const released = await releaseHold(bench, [machine.name]);
      if (!released.ok) return released;
      using pods = bench.connection.watch<Pod>(resources.pods, {
        namespace: agentNamespace,
        labelSelector: agentSelector,
      });
      using nodes = bench.connection.watch<NodeObject>(resources.nodes);
      await pods.ready();
      const here = () =>
        [...pods.items().values()].filter(
          (pod) => pod.spec?.nodeName === machine.name && !pod.metadata.deletionTimestamp,
        );
      const isWanted = (pod: Pod) =>
        pod.metadata.annotations?.[configDigestAnnotation] === wanted.digest &&
        pod.spec?.containers?.[0]?.image === wanted.image;
      for (const old of here().filter((pod) => !isWanted(pod))) {
        log(`${old.metadata.name} is replaced`);
        const removed = await bench.connection.remove(resources.pods, old.metadata.name, agentNamespace);
        if (!removed.ok && !/not-?found/i.test(removed.failure.code)) return removed;
      }
      const current = () => here().find(isWanted);
      using failing = watchFailing(bench, () => current()?.metadata.name, signal);
      let shown = '';
      const waited = await waitFor<{ readonly message: string }>(
        [pods, nodes, failing],
        signal,
        120,
        () => {
          const pod = current();
          const status = pod?.status?.containerStatuses?.[0];
          const reason = status?.state?.waiting?.reason;
          if (pod && ((reason && hopeless.has(reason)) || (status?.restartCount ?? 0) >= restartLimit))
            return failed({
              code: 'install.agent-cannot-start',
              what: `The agent cannot start on ${machine.name}.`,
              why: podState(pod),
              fix: 'The details have its last words. Correct the values and apply anew, or roll back.',
            });
          const told = failing.problem();
          if (pod && told && !isReady(pod))
            return failed({
              code: 'install.agent-cannot-work',
              what: `The agent on ${machine.name} runs, but cannot work.`,
              why: told.message,
              fix: `${told.fix} Then apply anew, or roll back.`.trim(),
            });
          const node = condition(nodes.items().get(machine.name)?.status?.conditions, 'Ready');
          if (pod && isReady(pod) && node?.status === 'True') return ok({ message: 'agent and node are Ready' });
          const text = pod && isReady(pod) ? `agent Ready, node: ${node?.message ?? 'unknown'}` : podState(pod);
          if (text !== shown) {
            shown = text;
            message(text);
            log(text);
          }
          return undefined;
        },
        (): Failure => ({
          code: 'install.agent-not-ready',
          what: `The agent on ${machine.name} is not ready after two minutes.`,
          why: podState(current()),
          fix: `Read kubectl -n ${agentNamespace} logs ${current()?.metadata.name ?? `-l ${agentSelector}`}; apply again to go on, or roll back.`,
        }),
      );
      if (waited.ok || signal.aborted) return waited;
      const pod = current()?.metadata.name;
      const details = pod ? await lastWords(bench, pod) : '';
      for (const line of details.split('\n').filter(Boolean)) log(line);
      return failed({ ...waited.failure, ...(details ? { details } : {}) });
    },
  };
}
