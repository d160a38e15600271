import type { ClusterNode } from '../../../contract/clusters.ts';
import type { Result } from '../../../contract/failure.ts';
import type { Log } from '../log.ts';
import type { AgentLink, ClusterAgents } from './agent-pool.ts';
import type { Component, GetStatusResponse } from './gen/fairlead/v1/agent_pb.ts';

type AgentInfo = ClusterNode['agent'];
type ComponentState = NonNullable<AgentInfo['components']>[number]['state'];

/** What agents say of themselves, for the inventory. */
export interface AgentStatuses {
  /** Per node name; a node without an agent pod is absent. Empty while nobody listens. */
  readonly forCluster: (cluster: string) => ReadonlyMap<string, AgentInfo>;
  /** Agents are asked every 3 s for as long as somebody listens. */
  readonly onChange: (cluster: string, listener: () => void) => Disposable;
}

const interval = 3000;

function componentState(state: string): ComponentState {
  switch (state) {
    case 'ok':
    case 'degraded':
    case 'failing':
    case 'off':
      return state;
    default:
      return 'degraded';
  }
}

function worst(components: readonly Component[]): Component | undefined {
  return components.find((one) => one.state === 'failing') ?? components.find((one) => one.state === 'degraded');
}

/** An agent's own status as the inventory shows it. */
export function describeStatus(status: GetStatusResponse): AgentInfo {
  const bad = worst(status.components);
  const state = bad?.state === 'failing' ? 'failing' : !status.ready ? 'starting' : bad ? 'degraded' : 'ready';
  return {
    state,
    version: status.version,
    ...(bad ? { message: `${bad.name}: ${bad.message}` } : {}),
    routingMode: status.routingMode === 'tunnel' ? `tunnel (${status.tunnelProtocol || 'vxlan'})` : status.routingMode,
    masquerade: status.masquerade,
    kubeProxyReplacement: status.kubeProxyReplacement,
    memoryBytes: Number(status.residentMemoryBytes),
    endpoints: status.endpoints,
    identities: status.identities,
    flowsPerSecond: status.flowsPerSecond,
    flowsLost: Number(status.flowsLost),
    components: status.components.map(({ name, state: own, message, fix }) => ({
      name,
      state: componentState(own),
      message,
      fix,
    })),
  };
}

/** What can be said of an agent that does not answer. */
export function describeLink(link: AgentLink): AgentInfo {
  if (link.podProblem !== '') {
    const crashing = /CrashLoop|Err|Back-?[Oo]ff|Invalid/.test(link.podProblem);
    return { state: crashing ? 'failing' : 'starting', message: link.podProblem };
  }
  if (link.failure) return { state: 'unreachable', message: `${link.failure.what} ${link.failure.why}` };
  return { state: 'starting', message: 'asking the agent' };
}

/** The looking at one cluster. */
interface Watch {
  readonly found: Map<string, AgentInfo>;
  readonly listeners: Set<() => void>;
  stopped: boolean;
  wake: () => void;
}

/** Asks agents for their status while somebody looks. */
export function createStatuses(
  open: (cluster: string) => Promise<Result<ClusterAgents>>,
  log: Log,
): AgentStatuses & Disposable {
  const watches = new Map<string, Watch>();

  const tell = (watch: Watch) => {
    for (const listener of [...watch.listeners]) listener();
  };

  const run = async (cluster: string, watch: Watch) => {
    const opened = await open(cluster);
    if (!opened.ok) return;
    using agents = opened.value;
    agents.onChange(() => watch.wake());
    const end = () => {
      watch.stopped = true;
      watch.wake();
    };
    agents.signal.addEventListener('abort', end, { once: true });
    await agents.ready();
    const refresh = async (link: AgentLink) => {
      const info = await ask(link);
      if (watch.stopped || !agents.links().includes(link)) return;
      if (JSON.stringify(watch.found.get(link.node)) === JSON.stringify(info)) return;
      watch.found.set(link.node, info);
      tell(watch);
    };
    const busy = new Set<AgentLink>();
    while (!watch.stopped) {
      const links = agents.links();
      const present = new Set(links.map((link) => link.node));
      let gone = false;
      for (const node of [...watch.found.keys()]) if (!present.has(node)) gone = watch.found.delete(node) || gone;
      if (gone) tell(watch);
      for (const link of links) {
        // What is known without asking is shown at once: a link in backoff may take its time.
        if (link.state !== 'ready') refreshKnown(watch, link);
        if (busy.has(link)) continue;
        busy.add(link);
        void refresh(link).finally(() => busy.delete(link));
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, interval);
        watch.wake = () => {
          // Changes come in bursts; a short wait takes them together.
          clearTimeout(timer);
          setTimeout(resolve, 100);
        };
      });
    }
    agents.signal.removeEventListener('abort', end);
  };

  const refreshKnown = (watch: Watch, link: AgentLink) => {
    if (link.podProblem === '' && !link.failure) return;
    const info = describeLink(link);
    if (JSON.stringify(watch.found.get(link.node)) === JSON.stringify(info)) return;
    watch.found.set(link.node, info);
    tell(watch);
  };

  const start = (cluster: string): Watch => {
    const watch: Watch = { found: new Map(), listeners: new Set(), stopped: false, wake: () => undefined };
    watches.set(cluster, watch);
    run(cluster, watch)
      .catch((error: unknown) => log.error('agents', `asking for states broke: ${String(error)}`))
      .finally(() => {
        watch.stopped = true;
        if (watches.get(cluster) === watch) watches.delete(cluster);
      });
    return watch;
  };

  const none: ReadonlyMap<string, AgentInfo> = new Map();
  return {
    forCluster: (cluster) => watches.get(cluster)?.found ?? none,
    onChange(cluster, listener) {
      const there = watches.get(cluster);
      const watch = there && !there.stopped ? there : start(cluster);
      watch.listeners.add(listener);
      return {
        [Symbol.dispose]() {
          watch.listeners.delete(listener);
          if (watch.listeners.size > 0) return;
          watch.stopped = true;
          watch.wake();
          if (watches.get(cluster) === watch) watches.delete(cluster);
        },
      };
    },
    [Symbol.dispose]() {
      for (const watch of watches.values()) {
        watch.stopped = true;
        watch.wake();
      }
      watches.clear();
    },
  };
}

async function ask(link: AgentLink): Promise<AgentInfo> {
  if (link.podProblem !== '' && link.state !== 'ready') return describeLink(link);
  const client = await link.client();
  if (!client.ok) return describeLink(link);
  const status = await client.value.status();
  return status.ok ? describeStatus(status.value) : { state: 'unreachable', message: status.failure.why };
}
