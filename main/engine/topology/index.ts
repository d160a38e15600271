import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import { type Agents, pause } from '../agents/agent-pool.ts';
import type { Connections } from '../capability.ts';
import type { Log } from '../log.ts';
import { aggregate } from './aggregate.ts';
import { ClusterTopology, longestWindow } from './cluster-topology.ts';

export interface TopologyOptions {
  readonly connections: Connections;
  readonly agents: Agents;
  readonly log: Log;
}

const interval = 1000;

/** Who talks to whom, from what the agents aggregate. */
export function createTopology(options: TopologyOptions): CapabilityImplementation<'topology'> & Disposable {
  const { connections, agents, log } = options;
  const end = new AbortController();
  const shared = new Map<
    string,
    { readonly made: Promise<Awaited<ReturnType<typeof ClusterTopology.open>>>; users: number }
  >();

  return {
    async watch({ cluster, scope, namespaces, windowSeconds }, sink, context) {
      const connection = await connections.get(cluster);
      if (!connection.ok) return connection.failure;
      let entry = shared.get(cluster);
      if (!entry) {
        entry = { made: ClusterTopology.open(connection.value, agents, log), users: 0 };
        shared.set(cluster, entry);
      }
      const counted = entry;
      counted.users += 1;
      const opened = await counted.made;
      const release = () => {
        counted.users -= 1;
        if (counted.users > 0) return;
        if (shared.get(cluster) === counted) shared.delete(cluster);
        if (opened.ok) opened.value[Symbol.dispose]();
      };
      if (!opened.ok) {
        release();
        return opened.failure;
      }
      const picture = opened.value;
      const signal = AbortSignal.any([context.signal, end.signal, picture.signal]);
      const window = Math.min(Math.max(1, windowSeconds), longestWindow);
      try {
        const ready = await picture.ready();
        if (!ready.ok) return ready.failure;
        while (!signal.aborted) {
          const began = Date.now();
          const pods = await picture.pods();
          const edges = picture.store.within(window, began);
          const topology = aggregate({
            scope,
            namespaces,
            windowSeconds: window,
            pods,
            edges,
            at: began,
            lost: picture.lost,
            missing: picture.missing(),
          });
          await sink.push([topology]);
          await pause(Math.max(50, interval - (Date.now() - began)), signal);
        }
      } finally {
        release();
      }
      return undefined;
    },
    [Symbol.dispose]: () => end.abort(),
  };
}
