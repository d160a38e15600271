import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import type { Agents } from '../agents/agent-pool.ts';
import type { AuditLog, Connections } from '../capability.ts';
import type { Log } from '../log.ts';
import { unbuilt } from '../unbuilt.ts';

export interface PoliciesOptions {
  readonly connections: Connections;
  readonly agents: Agents;
  readonly audit: AuditLog;
  readonly log: Log;
}

/** Provides the capability “policies”. */
export function createPolicies(_options: PoliciesOptions): CapabilityImplementation<'policies'> & Disposable {
  return { ...unbuilt('policies'), [Symbol.dispose]() {} };
}
