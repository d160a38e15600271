import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import type { Agents } from '../agents/agent-pool.ts';
import type { AuditLog, Connections } from '../capability.ts';
import type { Log } from '../log.ts';
import { unbuilt } from '../unbuilt.ts';

export interface InstallOptions {
  readonly connections: Connections;
  readonly agents: Agents;
  readonly audit: AuditLog;
  readonly log: Log;
  /** OCI archive of the agent's image; undefined when none was built. */
  readonly image: string | undefined;
}

/** Provides the capability “install”. */
export function createInstall(_options: InstallOptions): CapabilityImplementation<'install'> & Disposable {
  return { ...unbuilt('install'), [Symbol.dispose]() {} };
}
