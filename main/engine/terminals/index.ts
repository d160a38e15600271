import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import type { Connections } from '../capability.ts';
import type { Log } from '../log.ts';
import { unbuilt } from '../unbuilt.ts';

export interface TerminalsOptions {
  readonly connections: Connections;
  readonly log: Log;
}

/** Provides the capability “terminals”. */
export function createTerminals(_options: TerminalsOptions): CapabilityImplementation<'terminals'> & Disposable {
  return { ...unbuilt('terminals'), [Symbol.dispose]() {} };
}
