import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import type { Agents } from '../agents/agent-pool.ts';
import type { Connections } from '../capability.ts';
import type { Log } from '../log.ts';
import { unbuilt } from '../unbuilt.ts';

export interface FlowsOptions {
  readonly connections: Connections;
  readonly agents: Agents;
  readonly log: Log;
}

/** Provides the capability “flows”. */
export function createFlows(_options: FlowsOptions): CapabilityImplementation<'flows'> & Disposable {
  return { ...unbuilt('flows'), [Symbol.dispose]() {} };
}
