import type { Implementation } from '../../contract/implementation.ts';
import type { Log } from './log.ts';
import { unbuilt } from './unbuilt.ts';

export interface EngineOptions {
  /** Where the engine keeps its own state: accepted host keys, trusted login programs, audit log. */
  readonly stateDirectory: string;
  readonly log: Log;
  readonly mode: 'browser' | 'desktop';
  /** Kubeconfig files named on the command line; otherwise KUBECONFIG or ~/.kube/config. */
  readonly kubeconfigs?: readonly string[];
  /** OpenSSH configuration; ~/.ssh/config unless told. */
  readonly sshConfig?: string;
}

export interface Engine {
  readonly implementation: Implementation;
  readonly close: () => Promise<void>;
}

/** Puts the capabilities together. Everything that it opened is closed by `close`. */
export async function createEngine(_options: EngineOptions): Promise<Engine> {
  return {
    implementation: {
      application: unbuilt('application'),
      clusters: unbuilt('clusters'),
      flows: unbuilt('flows'),
      install: unbuilt('install'),
      policies: unbuilt('policies'),
      terminals: unbuilt('terminals'),
      topology: unbuilt('topology'),
    },
    async close() {},
  };
}
