import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import type { Agents } from '../agents/agent-pool.ts';
import type { Connections } from '../capability.ts';
import type { Log } from '../log.ts';
import { unbuilt } from '../unbuilt.ts';

export interface TopologyOptions {
  readonly connections: Connections;
  readonly agents: Agents;
  readonly log: Log;
}

/** Provides the capability “topology”. */
export function createTopology(_options: TopologyOptions): CapabilityImplementation<'topology'> & Disposable {
  return { ...unbuilt('topology'), [Symbol.dispose]() {} };
}
