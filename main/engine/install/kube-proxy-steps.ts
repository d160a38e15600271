import { basename } from 'node:path';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import { pause } from '../agents/agent-pool.ts';
import { inAgent } from '../checks/node-command.ts';
import { runNodeJob } from '../checks/node-job.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { PrintedFacts } from '../verify/node-facts.ts';
import { applyAll, cancelled } from './apply.ts';
import type { DisruptionProbe } from './disruption.ts';
import { isSilent, type NodeFacts } from './facts.ts';
import {
  aboutSilent,
  type ProxyFacts,
  type ProxyPodSpec,
  proxyBackup,
  proxyBackupName,
  proxyManifest,
  proxySent,
} from './kube-proxy.ts';
import { agentNamespace } from './names.ts';
import { isNotFound } from './secrets.ts';
import type { Stage, Step } from './steps.ts';
import { waitFor } from './wait.ts';
import type { Pod, Workbench } from './workbench.ts';

interface DaemonSet extends KubeObject {
  readonly spec?: { readonly template?: { readonly spec?: ProxyPodSpec } };
  readonly status?: {
    readonly observedGeneration?: number;
    readonly currentNumberScheduled?: number;
    /** Nodes that have a pod, which may be ending, and should have none. */
    readonly numberMisscheduled?: number;
    readonly desiredNumberScheduled?: number;
    readonly numberAvailable?: number;
  };
}

/** What the DaemonSet's controller writes may come in between: so often the change is tried. */
const attempts = 8;
const cleanSeconds = 90;
const settleSeconds = 60;

const one = (id: string, title: string, run: Step['run'], node = ''): Step => ({ id, title, node, run });

/** Changes the selector of kube-proxy's DaemonSet, on whatever state it is in; makes it anew where somebody deleted it. */
async function send({ connection }: Workbench, facts: ProxyFacts, away: boolean): Promise<Result<KubeObject>> {
  const { name, namespace, saved } = facts;
  for (let attempt = 1; ; attempt += 1) {
    const live = await connection.get<KubeObject>(resources.daemonSets, name, namespace);
    if (!live.ok && isNotFound(live.failure.code) && saved && !away)
      return await connection.create<KubeObject>(resources.daemonSets, proxySent(saved, false));
    if (!live.ok) return live;
    const object = { ...proxySent(live.value, away), apiVersion: 'apps/v1', kind: 'DaemonSet' };
    const changed = await connection.replace<KubeObject>(resources.daemonSets, object);
    if (changed.ok || !/conflict/i.test(changed.failure.code) || attempt === attempts) return changed;
  }
}

interface NodeObject extends KubeObject {
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

/**
 * Waits until the DaemonSet's controller has done what the selector says. A node that does not answer keeps a pod that is
 * to go, which is a failure unless it is left out; one that is to get a pod gets it when it is back, and is not waited for.
 */
async function settled(
  { connection }: Workbench,
  facts: ProxyFacts,
  generation: number,
  away: boolean,
  { signal, message }: Parameters<Step['run']>[0],
  leftOut: readonly string[] = [],
): ReturnType<Step['run']> {
  using sets = connection.watch<DaemonSet>(resources.daemonSets, { namespace: facts.namespace });
  using nodes = connection.watch<NodeObject>(resources.nodes);
  using pods = connection.watch<Pod>(resources.pods, { namespace: facts.namespace });
  /** Nodes on which a pod of the set is left. */
  const holding = () => [
    ...new Set(
      [...pods.items().values()]
        .filter((pod) =>
          pod.metadata.ownerReferences?.some((one) => one.kind === 'DaemonSet' && one.name === facts.name),
        )
        .flatMap((pod) => pod.spec?.nodeName ?? []),
    ),
  ];
  const silent = () =>
    [...nodes.items().values()]
      .filter((node) => isSilent(node.status?.conditions))
      .map((node) => node.metadata.name)
      .sort();
  const status = () =>
    [...sets.items().values()].find(({ metadata }) => metadata.name === facts.name)?.status ?? undefined;
  const left = () => (status()?.currentNumberScheduled ?? 0) + (status()?.numberMisscheduled ?? 0);
  const text = () => {
    const { desiredNumberScheduled = 0, numberAvailable = 0 } = status() ?? {};
    return away ? `${left()} pods are left` : `${numberAvailable} of ${desiredNumberScheduled} pods are up`;
  };
  return await waitFor(
    [sets, nodes, pods],
    signal,
    settleSeconds,
    () => {
      const now = status();
      if ((now?.observedGeneration ?? 0) < generation) return undefined;
      const { desiredNumberScheduled = 0, numberAvailable = 0 } = now ?? {};
      message(text());
      if (away && left() === 0) return ok({ message: 'its pods are gone' });
      if (away) {
        const on = holding();
        return left() <= on.length && on.every((node) => leftOut.includes(node))
          ? ok({ message: `its pods are gone but on ${on.sort().join(', ')}, which is left out` })
          : undefined;
      }
      const later = silent();
      if (desiredNumberScheduled === 0 || numberAvailable < desiredNumberScheduled - later.length) return undefined;
      return ok({
        message: `runs on ${numberAvailable} nodes${numberAvailable < desiredNumberScheduled ? `; ${later.join(', ')} does not answer, and gets it when it is back` : ''}`,
      });
    },
    () => {
      const on = holding();
      const dead = silent().filter((name) => !away || (on.includes(name) && !leftOut.includes(name)));
      const where = away && on.length > 0 ? ` (${on.sort().join(', ')})` : '';
      return {
        code: 'install.kube-proxy-settle',
        what: `kube-proxy does not ${away ? 'go away' : 'come up everywhere'}${dead.length > 0 ? `: ${dead.join(', ')} does not answer` : ''}.`,
        why: `${text()}${where} after ${settleSeconds} s.${dead.length > 0 ? ' The kubelet there has ceased to report, so nobody ends its pod. Services are translated by the agents meanwhile.' : ''}`,
        fix:
          dead.length > 0
            ? aboutSilent(dead)
            : `Look at kubectl -n ${facts.namespace} describe daemonset ${facts.name} and at its pods, then apply again.`,
      };
    },
  );
}

/** Every agent says that it translates services; before that kube-proxy stays. */
function replacedStep(bench: Workbench, machines: readonly NodeFacts[]): Step {
  return one('kube-proxy:replaced', 'Every agent translates services', async ({ log }) => {
    for (const { name } of machines) {
      const ran = await inAgent(bench.connection, name, ['status', '-o', 'json'], AbortSignal.timeout(20_000));
      if (!ran.ok)
        return failed({
          ...ran.failure,
          what: `The agent on ${name} cannot be asked whether it translates services.`,
          fix: `${ran.failure.fix} If the node is down: ${aboutSilent([name])} kube-proxy has been left as it is.`,
        });
      const { ready, kube_proxy_replacement: replaces } = JSON.parse(ran.value) as {
        readonly ready?: boolean;
        readonly kube_proxy_replacement?: string;
      };
      if (!ready || replaces !== 'true')
        return failed({
          code: 'install.not-replaced',
          what: `The agent on ${name} does not translate services.`,
          why: ready ? `It says: kube-proxy replacement ${replaces}.` : 'It is not ready.',
          fix: 'Look at the Verify page; kube-proxy has been left as it is.',
        });
      log(`${name} does`);
    }
    return ok({ message: `${machines.length} of ${machines.length} do` });
  });
}

/** kube-proxy's own pod, with its image and its mounts, but told to clean up. */
export function cleaningPod(set: KubeObject): Readonly<Record<string, unknown>> {
  const spec = (set as DaemonSet).spec?.template?.spec ?? {};
  const container = spec.containers?.find(({ name }) => name === 'kube-proxy') ?? spec.containers?.[0];
  const {
    args: _args,
    command,
    livenessProbe: _liveness,
    readinessProbe: _readiness,
    startupProbe: _startup,
    lifecycle: _lifecycle,
    ports: _ports,
    ...kept
  } = container ?? { name: 'kube-proxy' };
  const [program = ''] = command ?? [];
  // Without a command the image's own entrypoint is kube-proxy; a shell around it is left out.
  const run =
    command === undefined
      ? { args: ['--cleanup'] }
      : { command: [basename(program) === 'kube-proxy' ? program : 'kube-proxy', '--cleanup'] };
  const { nodeSelector: _selector, affinity: _affinity, ...pod } = spec;
  return { ...pod, containers: [{ ...kept, ...run }] };
}

/** How many chains (and interfaces) of kube-proxy a node's agent finds in the kernel. */
async function chainsOn(bench: Workbench, node: string): Promise<Result<number>> {
  const ran = await inAgent(bench.connection, node, ['facts'], AbortSignal.timeout(20_000));
  if (!ran.ok) return ran;
  const { serviceChains, interfaces, problems = [] } = JSON.parse(ran.value) as PrintedFacts;
  // Other problems, a card without a driver's name, say nothing of rules.
  const unread = problems.filter((problem) => problem.includes('tables'));
  if (unread.length > 0)
    return failed({
      code: 'install.rules-unread',
      what: `The rules of ${node} cannot be read.`,
      why: unread.join('; '),
      fix: 'Look at the node: nft list ruleset, iptables-save.',
    });
  // In its mode ipvs it holds all service addresses on an interface of its own.
  const device = interfaces.some(({ name }) => name === 'kube-ipvs0') ? 1 : 0;
  return ok(serviceChains.nftables + serviceChains.legacy + device);
}

function cleanStep(bench: Workbench, facts: ProxyFacts, machine: NodeFacts): Step {
  const { name } = machine;
  return one(
    `kube-proxy:clean:${name}`,
    'Remove kube-proxy’s rules',
    async ({ signal, log, message }) => {
      const set = facts.set ?? facts.saved;
      if (!set) return ok({ message: 'there is none', skipped: true });
      const before = await chainsOn(bench, name);
      if (!before.ok) return before;
      message(`${before.value} chains`);
      if (before.value === 0) return ok({ message: 'none are there', skipped: true });
      const ran = await runNodeJob(
        bench.connection,
        { purpose: 'kube-proxy-cleanup', node: name, podSpec: cleaningPod(set), seconds: cleanSeconds },
        signal,
      );
      if (!ran.ok) return ran;
      for (const line of ran.value.output.trim().split('\n').slice(-20)) if (line) log(line);
      // Its exit code speaks of tools that an image may lack as well; what counts is what is left.
      const left = await chainsOn(bench, name);
      if (!left.ok) return left;
      if (left.value > 0)
        return failed({
          code: 'install.kube-proxy-rules',
          what: `${left.value} chains of kube-proxy are left on ${name}.`,
          why: ran.value.succeeded ? 'kube-proxy --cleanup ended well all the same.' : 'kube-proxy --cleanup failed.',
          fix: 'The details have what it printed. Apply again to go on, or bring kube-proxy back.',
          details: ran.value.output.slice(-2000),
        });
      return ok({ message: `${before.value} chains were removed, none are left` });
    },
    name,
  );
}

/** Stages that take kube-proxy away: it is saved, sent away, and its rules are removed on every node. */
export function removalStages(
  bench: Workbench,
  facts: ProxyFacts,
  machines: readonly NodeFacts[],
  probe: DisruptionProbe | undefined,
): readonly Stage[] {
  const set = facts.set ?? facts.saved;
  if (!set) return [];
  // Halfway, the copy is what it was; one that came back by itself may have changed meanwhile.
  const original = facts.kind === 'removed' ? (facts.saved ?? set) : proxyManifest(set);
  return [
    {
      parallel: 1,
      steps: [
        replacedStep(bench, machines),
        ...(probe ? [probe.start] : []),
        one('kube-proxy:save', 'Keep kube-proxy’s DaemonSet', (context) =>
          applyAll(bench, [proxyBackup(original, 'removing', bench.leftOut)], context),
        ),
        one('kube-proxy:away', 'Send kube-proxy away', async (context) => {
          const sent = await send(bench, facts, true);
          if (!sent.ok && isNotFound(sent.failure.code)) return ok({ message: 'it is gone already', skipped: true });
          if (!sent.ok) return sent;
          return await settled(bench, facts, sent.value.metadata.generation ?? 0, true, context, bench.leftOut);
        }),
      ],
    },
    { parallel: 4, steps: machines.map((machine) => cleanStep(bench, facts, machine)) },
    {
      parallel: 1,
      steps: [
        ...(probe ? [probe.result] : []),
        one('kube-proxy:removed', 'Remember that it is away', (context) =>
          applyAll(bench, [proxyBackup(original, 'removed', bench.leftOut)], context),
        ),
      ],
    },
  ];
}

/** The rules of kube-proxy are back on a node: asked until they are, or time is up. */
async function rulesBack(bench: Workbench, node: string, signal: AbortSignal): Promise<Failure | undefined> {
  const end = Date.now() + settleSeconds * 1000;
  for (;;) {
    const chains = await chainsOn(bench, node);
    if (!chains.ok) return chains.failure;
    if (chains.value > 0) return undefined;
    if (signal.aborted) return cancelled;
    if (Date.now() > end)
      return {
        code: 'install.kube-proxy-rules',
        what: `kube-proxy has no rules on ${node}.`,
        why: `Its pod is up, but no chain was there after ${settleSeconds} s.`,
        fix: 'Read the log of its pod on this node, then apply again.',
      };
    // Nobody tells of rules in the kernel; kube-proxy writes them within a second.
    await pause(500, signal);
  }
}

/** Stages that bring kube-proxy back: they end when its rules are on every node that has an agent to ask. */
export function restoringStages(bench: Workbench, facts: ProxyFacts, machines: readonly NodeFacts[]): readonly Stage[] {
  return [
    {
      parallel: 1,
      steps: [
        one('kube-proxy:back', 'Bring kube-proxy back', async (context) => {
          const sent = await send(bench, facts, false);
          if (!sent.ok) return sent;
          return await settled(bench, facts, sent.value.metadata.generation ?? 0, false, context);
        }),
      ],
    },
    {
      parallel: machines.length,
      steps: machines.map(({ name }) =>
        one(
          `kube-proxy:rules:${name}`,
          'kube-proxy’s rules are there',
          async ({ signal }) => {
            const agent = await inAgent(bench.connection, name, ['version'], signal);
            if (!agent.ok) return ok({ message: 'no agent is there to ask', skipped: true });
            const problem = await rulesBack(bench, name, signal);
            return problem ? failed(problem) : ok({ message: 'they are' });
          },
          name,
        ),
      ),
    },
    {
      parallel: 1,
      steps: [
        one('kube-proxy:forget', 'The copy of its DaemonSet', async () => {
          const removed = await bench.connection.remove(resources.configMaps, proxyBackupName, agentNamespace);
          if (!removed.ok && !isNotFound(removed.failure.code)) return removed;
          return ok({ message: 'not needed any more' });
        }),
      ],
    },
  ];
}
