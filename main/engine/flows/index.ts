import { ok } from '../../../contract/failure.ts';
import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import type { Agents } from '../agents/agent-pool.ts';
import type { Connections } from '../capability.ts';
import type { Log } from '../log.ts';
import { asHubbleCommand, fromHubbleCommand } from './command.ts';
import { toHubbleLists } from './filters.ts';
import { watchFlows } from './watch.ts';

export interface FlowsOptions {
  readonly connections: Connections;
  readonly agents: Agents;
  readonly log: Log;
}

/** Live flows of a cluster, and the hubble CLI's words for what is asked. */
export function createFlows({ agents }: FlowsOptions): CapabilityImplementation<'flows'> & Disposable {
  const end = new AbortController();
  return {
    async watch({ cluster, allow, deny, last, since, until, follow }, sink, { signal }) {
      const opened = await agents.open(cluster);
      if (!opened.ok) return opened.failure;
      using held = opened.value;
      const request = { allow: toHubbleLists(allow), deny: toHubbleLists(deny), last, since, until, follow };
      return await watchFlows(held, request, sink, AbortSignal.any([signal, end.signal]));
    },
    asHubbleCommand: async (request) => ok({ command: asHubbleCommand(request) }),
    async fromHubbleCommand({ command }) {
      const read = fromHubbleCommand(command);
      return read.ok ? ok({ allow: [...read.value.allow], deny: [...read.value.deny] }) : read;
    },
    [Symbol.dispose]: () => end.abort(),
  };
}
