import type { ClusterNode } from '../../../contract/clusters.ts';
import type { Failure, Result } from '../../../contract/failure.ts';
import type { Connections } from '../capability.ts';
import type { Log } from '../log.ts';
import type { AgentClient } from './agent-client.ts';

/** How far the console has come with one node's agent. */
export interface AgentLink {
  readonly node: string;
  readonly pod: string;
  readonly state: 'connecting' | 'ready' | 'unreachable';
  /** Why it is not ready. */
  readonly failure?: Failure;
  /** Connects if need be. */
  readonly client: () => Promise<Result<AgentClient>>;
}

/** What agents say of themselves, for the inventory. */
export interface AgentStatuses {
  /** Per node name; a node without an agent pod is absent. */
  readonly forCluster: (cluster: string) => ReadonlyMap<string, ClusterNode['agent']>;
  /** Agents are asked only while somebody listens. */
  readonly onChange: (cluster: string, listener: () => void) => Disposable;
}

/** The agents of one cluster, held while somebody uses them. */
export interface ClusterAgents extends Disposable {
  readonly links: () => readonly AgentLink[];
  readonly onChange: (listener: () => void) => Disposable;
  /** Resolves once the agent pods have been listed, or could not be. */
  readonly ready: () => Promise<Result<void>>;
}

export interface Agents {
  readonly statuses: AgentStatuses;
  /** The agents of a connected cluster; dispose to let go. */
  readonly open: (cluster: string) => Promise<Result<ClusterAgents>>;
  readonly close: () => void;
}

export interface AgentsOptions {
  readonly connections: Connections;
  readonly log: Log;
}
