export type { AgentConnection } from './agent-connection.ts';
export { agentFailure, unaryTimeout } from './agent-connection.ts';
export type { AgentLink, AgentStatuses, Agents, AgentsOptions, ClusterAgents } from './agent-pool.ts';
export { createAgents } from './agent-pool.ts';
