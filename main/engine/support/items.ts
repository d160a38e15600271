import { toJson } from '@bufbuild/protobuf';
import type { Failure, Result } from '../../../contract/failure.ts';
import type { SupportItem } from '../../../contract/support.ts';
import { type AgentConnection, agentFailure } from '../agents/agent-connection.ts';
import type { AgentLink, Agents } from '../agents/agent-pool.ts';
import {
  GetStatusResponseSchema,
  ListCountersResponseSchema,
  ListEndpointsResponseSchema,
  ListIdentitiesResponseSchema,
  ListIPsResponseSchema,
  ListJournalResponseSchema,
  ListMapsResponseSchema,
  ListPoliciesResponseSchema,
  ListProgramsResponseSchema,
  ListServicesResponseSchema,
} from '../agents/gen/fairlead/v1/agent_pb.ts';
import { agentNamespace, agentSelector } from '../install/names.ts';
import { type ClusterConnection, type KubeObject, type ResourceType, resources } from '../kube/cluster-connection.ts';
import type { ArchiveFile } from './archive.ts';

/** What an item is collected with. */
export interface Bench {
  readonly connection: ClusterConnection;
  readonly agents: Agents;
  readonly signal: AbortSignal;
  readonly fail: (failure: Failure) => void;
  /** Files of the console itself, by name. */
  readonly own: ReadonlyMap<string, () => string>;
}

/** Sizes of the cluster, for estimates. */
export interface Scale {
  readonly nodes: number;
  readonly pods: number;
}

interface Definition extends Omit<SupportItem, 'estimate'> {
  readonly estimate: (scale: Scale) => number;
  readonly collect: (bench: Bench) => Promise<readonly ArchiveFile[]>;
}

const json = (value: unknown): Buffer => Buffer.from(`${JSON.stringify(value, null, 2)}\n`);

/** A name from the cluster as a part of a path. */
const safe = (name: string): string => name.replaceAll(/[^\w.-]/g, '_').slice(0, 80) || '_';

/** Asks every agent; one that does not answer is a failure and no reason to do without the others. */
async function ofAgents(
  bench: Bench,
  directory: string,
  ask: (agent: AgentConnection['agent'], signal: AbortSignal) => Promise<unknown>,
): Promise<readonly ArchiveFile[]> {
  const opened = await bench.agents.open(bench.connection.cluster);
  if (!opened.ok) {
    bench.fail(opened.failure);
    return [];
  }
  using agents = opened.value;
  const ready = await agents.ready();
  if (!ready.ok) bench.fail(ready.failure);
  const one = async (link: AgentLink): Promise<readonly ArchiveFile[]> => {
    const client = await link.client();
    if (!client.ok) {
      bench.fail(client.failure);
      return [];
    }
    try {
      const answer = await ask(client.value.agent, bench.signal);
      return [{ name: `${directory}/${safe(link.node)}.json`, content: json(answer) }];
    } catch (error) {
      bench.fail(agentFailure(link.node, error));
      return [];
    }
  };
  return (await Promise.all(agents.links().map(one))).flat();
}

/** Objects as the API server has them, without what only its own bookkeeping needs. */
async function objects(
  bench: Bench,
  name: string,
  type: ResourceType,
  options: Parameters<ClusterConnection['list']>[1] = {},
  shape: (object: KubeObject) => unknown = (object) => object,
): Promise<readonly ArchiveFile[]> {
  const listed: Result<readonly KubeObject[]> = await bench.connection.list(type, options);
  if (!listed.ok) {
    bench.fail(listed.failure);
    return [];
  }
  return [{ name, content: json(listed.value.map(shape)) }];
}

interface PodObject extends KubeObject {
  readonly spec?: {
    readonly nodeName?: string;
    readonly hostNetwork?: boolean;
    readonly containers?: readonly { readonly name: string; readonly image?: string; readonly ports?: unknown }[];
  };
  readonly status?: { readonly phase?: string; readonly podIPs?: unknown; readonly conditions?: unknown };
}

/** Of a pod only what the network cares for: environment variables and mounts may hold secrets. */
function podShape(pod: PodObject): unknown {
  const { name, namespace, labels, creationTimestamp } = pod.metadata;
  return {
    metadata: { name, namespace, labels, creationTimestamp },
    spec: {
      nodeName: pod.spec?.nodeName,
      hostNetwork: pod.spec?.hostNetwork,
      containers: pod.spec?.containers?.map((container) => ({
        name: container.name,
        image: container.image,
        ports: container.ports,
      })),
    },
    status: { phase: pod.status?.phase, podIPs: pod.status?.podIPs, conditions: pod.status?.conditions },
  };
}

/** An object without annotations: tools keep whole manifests in them. */
function withoutAnnotations(object: KubeObject): unknown {
  const { annotations: _, ...metadata } = object.metadata;
  return { ...object, metadata };
}

async function agentLogs(bench: Bench): Promise<readonly ArchiveFile[]> {
  const pods = await bench.connection.list<PodObject>(resources.pods, {
    namespace: agentNamespace,
    labelSelector: agentSelector,
  });
  if (!pods.ok) {
    bench.fail(pods.failure);
    return [];
  }
  const read = async (pod: PodObject, previous: boolean): Promise<readonly ArchiveFile[]> => {
    const query = `container=${encodeURIComponent(pod.spec?.containers?.[0]?.name ?? '')}&timestamps=true&tailLines=5000&previous=${previous}`;
    const log = await bench.connection.raw(
      `/api/v1/namespaces/${agentNamespace}/pods/${encodeURIComponent(pod.metadata.name)}/log?${query}`,
    );
    if (!log.ok) {
      // A container that never ended has no previous log.
      if (!previous) bench.fail(log.failure);
      return [];
    }
    const node = safe(pod.spec?.nodeName ?? pod.metadata.name);
    const text = typeof log.value === 'string' ? log.value : JSON.stringify(log.value);
    return [{ name: `logs/${node}${previous ? '.before-restart' : ''}.log`, content: Buffer.from(text) }];
  };
  return (await Promise.all(pods.value.flatMap((pod) => [read(pod, false), read(pod, true)]))).flat();
}

/** Everything that a bundle may hold. What is not in this list cannot get into one. */
export const definitions: readonly Definition[] = [
  {
    id: 'versions',
    title: 'Versions and nodes',
    contents: 'Versions of console, Kubernetes and agents; nodes with addresses, kernels and conditions.',
    sensitive: 'names and addresses of nodes',
    chosen: true,
    estimate: ({ nodes }) => 2000 + nodes * 5000,
    collect: async (bench) => {
      const version = await bench.connection.raw('/version');
      if (!version.ok) bench.fail(version.failure);
      return [
        ...(version.ok ? [{ name: 'cluster/version.json', content: json(version.value) }] : []),
        ...(await objects(bench, 'cluster/nodes.json', resources.nodes, {}, withoutAnnotations)),
        ...(await objects(bench, 'cluster/ciliumnodes.json', resources.ciliumNodes)),
      ];
    },
  },
  {
    id: 'agents',
    title: 'State of the agents',
    contents: 'Status with components and health, maps with their fill, programs and where they attach, counters.',
    sensitive: 'addresses of nodes and pods',
    chosen: true,
    estimate: ({ nodes }) => nodes * 30_000,
    collect: async (bench) =>
      (
        await Promise.all([
          ofAgents(bench, 'agents/status', async (agent, signal) =>
            toJson(GetStatusResponseSchema, await agent.getStatus({}, { signal })),
          ),
          ofAgents(bench, 'agents/maps', async (agent, signal) =>
            toJson(ListMapsResponseSchema, await agent.listMaps({}, { signal })),
          ),
          ofAgents(bench, 'agents/programs', async (agent, signal) =>
            toJson(ListProgramsResponseSchema, await agent.listPrograms({}, { signal })),
          ),
          ofAgents(bench, 'agents/counters', async (agent, signal) =>
            toJson(ListCountersResponseSchema, await agent.listCounters({}, { signal })),
          ),
          ofAgents(bench, 'agents/journal', async (agent, signal) =>
            toJson(ListJournalResponseSchema, await agent.listJournal({}, { signal })),
          ),
        ])
      ).flat(),
  },
  {
    id: 'logs',
    title: 'Logs of the agents',
    contents: 'The newest 5,000 lines of every agent, and of its run before the last restart.',
    sensitive: 'names and addresses of pods',
    chosen: true,
    estimate: ({ nodes }) => nodes * 400_000,
    collect: agentLogs,
  },
  {
    id: 'configuration',
    title: 'Installation',
    contents: 'The agent’s configuration, DaemonSet and events of its namespace. No Secret.',
    sensitive: '',
    chosen: true,
    estimate: () => 60_000,
    collect: async (bench) => [
      ...(await objects(bench, 'installation/configuration.json', resources.configMaps, {
        namespace: agentNamespace,
        fieldSelector: 'metadata.name=fairlead-config',
      })),
      ...(await objects(bench, 'installation/daemonsets.json', resources.daemonSets, { namespace: agentNamespace })),
      ...(await objects(
        bench,
        'installation/events.json',
        { group: '', version: 'v1', plural: 'events', kind: 'Event', namespaced: true },
        { namespace: agentNamespace },
      )),
    ],
  },
  {
    id: 'policies',
    title: 'Policies',
    contents: 'NetworkPolicies and Cilium’s, and what every agent makes of them.',
    sensitive: 'names, labels and address ranges of workloads',
    chosen: true,
    estimate: ({ pods }) => 20_000 + pods * 300,
    collect: async (bench) => [
      ...(await objects(bench, 'policies/networkpolicies.json', resources.networkPolicies, {}, withoutAnnotations)),
      ...(await objects(
        bench,
        'policies/ciliumnetworkpolicies.json',
        resources.ciliumNetworkPolicies,
        {},
        withoutAnnotations,
      )),
      ...(await objects(
        bench,
        'policies/ciliumclusterwidenetworkpolicies.json',
        resources.ciliumClusterwideNetworkPolicies,
        {},
        withoutAnnotations,
      )),
      ...(await ofAgents(bench, 'policies/agents', async (agent, signal) =>
        toJson(ListPoliciesResponseSchema, await agent.listPolicies({}, { signal })),
      )),
    ],
  },
  {
    id: 'endpoints',
    title: 'Endpoints, identities and services',
    contents:
      'Pods by what the network needs of them (no environment, no mounts), endpoints, identities, services, ipcache.',
    sensitive: 'names, labels and addresses of all pods',
    chosen: true,
    estimate: ({ nodes, pods }) => pods * 1500 * Math.max(1, Math.min(nodes, 4)),
    collect: async (bench) => [
      ...(await objects(bench, 'cluster/pods.json', resources.pods, {}, (pod) => podShape(pod as PodObject))),
      ...(await objects(bench, 'cluster/services.json', resources.services, {}, withoutAnnotations)),
      ...(await ofAgents(bench, 'agents/endpoints', async (agent, signal) =>
        toJson(ListEndpointsResponseSchema, await agent.listEndpoints({}, { signal })),
      )),
      ...(await ofAgents(bench, 'agents/identities', async (agent, signal) =>
        toJson(ListIdentitiesResponseSchema, await agent.listIdentities({}, { signal })),
      )),
      ...(await ofAgents(bench, 'agents/services', async (agent, signal) =>
        toJson(ListServicesResponseSchema, await agent.listServices({}, { signal })),
      )),
      ...(await ofAgents(bench, 'agents/ipcache', async (agent, signal) =>
        toJson(ListIPsResponseSchema, await agent.listIPs({}, { signal })),
      )),
    ],
  },
  {
    id: 'console',
    title: 'This console',
    contents: 'Its own log of this machine, and the audit log of what it changed.',
    sensitive: 'names of clusters, hosts and accounts of this workstation',
    chosen: false,
    estimate: () => 200_000,
    collect: async (bench) => {
      const files: ArchiveFile[] = [];
      for (const [name, read] of bench.own) {
        try {
          files.push({ name: `console/${name}`, content: Buffer.from(read()) });
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code === 'ENOENT') continue;
          bench.fail({
            code: 'support.own-file',
            what: `${name} of this console is not in the bundle.`,
            why: error instanceof Error ? error.message : String(error),
            fix: 'Check who may read the state directory.',
          });
        }
      }
      return files;
    },
  },
];
