import type { Agents, AgentsOptions } from './agent-pool.ts';

export type { AgentLink, AgentStatuses, Agents, AgentsOptions, ClusterAgents } from './agent-pool.ts';

/** The pool of agents, one per cluster in use. */
export function createAgents(_options: AgentsOptions): Agents {
  throw new Error('agents are not built yet');
}
