import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Cluster } from '../../../contract/clusters.ts';
import type { AgentStatuses } from '../agents/index.ts';
import { openAuditLog } from '../application/audit.ts';
import { resources } from '../kube/cluster-connection.ts';
import { type ApiServer, findHyperkube, startApiServer } from '../kube/testing/api-server.ts';
import { silent } from '../log.ts';
import { fakeSsh } from '../testing/fake-cluster.ts';
import { createClusters } from './index.ts';

const noAgents: AgentStatuses = { forCluster: () => new Map(), onChange: () => ({ [Symbol.dispose]() {} }) };
const hyperkube = findHyperkube();

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Sockets, timers and everything else that would keep this process alive. */
function handles(): number {
  return process.getActiveResourcesInfo().filter((name) => !/FSReqPromise|Immediate/.test(name)).length;
}

describe.skipIf(!hyperkube)(
  `twenty clusters${hyperkube ? '' : ' (skipped: the lab’s Kubernetes has not been built)'}`,
  () => {
    let server: ApiServer;
    let directory: string;
    beforeAll(async () => {
      server = await startApiServer();
      directory = mkdtempSync(join(tmpdir(), 'fairlead-leaks-'));
    }, 60_000);
    afterAll(async () => {
      await server?.stop();
      rmSync(directory, { recursive: true, force: true });
    });

    it('can be connected and disconnected fifty times, any two at once, and leave nothing', {
      timeout: 120_000,
    }, async () => {
      const original = JSON.parse(readFileSync(server.kubeconfig, 'utf8')) as { contexts: object[] };
      const kubeconfig = join(directory, 'twenty');
      writeFileSync(
        kubeconfig,
        JSON.stringify({
          ...original,
          contexts: Array.from({ length: 20 }, (_, index) => ({
            name: `c${index}`,
            context: { cluster: 'test', user: 'admin' },
          })),
        }),
      );
      using clusters = createClusters({
        stateDirectory: directory,
        log: silent,
        audit: openAuditLog(directory, silent),
        kubeconfigs: [kubeconfig],
        ssh: () => fakeSsh(),
      });
      const api = clusters.implementation(noAgents);
      const stop = new AbortController();
      const context = { signal: stop.signal, connection: 'test' };
      const list = await new Promise<readonly Cluster[]>((resolve) => {
        const once = new AbortController();
        void api.watch(
          {},
          {
            async push(items) {
              resolve((items.at(-1)?.clusters ?? []) as readonly Cluster[]);
              once.abort();
            },
          },
          { signal: once.signal, connection: 'test' },
        );
      });
      expect(list).toHaveLength(20);

      const round = async (number: number) => {
        const pair = [list[number % 20], list[(number * 7 + 3) % 20]].map((cluster) => cluster?.id ?? '');
        await Promise.all(
          pair.map(async (cluster) => {
            const connected = await api.connect({ cluster }, context);
            if (!connected.ok) throw new Error(connected.failure.why);
            const connection = await clusters.connections.get(cluster);
            if (!connection.ok) throw new Error(connection.failure.why);
            // What a view does: a watch that is open when the cluster is disconnected.
            const watched = connection.value.watch(resources.namespaces);
            await watched.ready();
          }),
        );
        for (const cluster of pair) await api.disconnect({ cluster }, context);
      };
      const settled = async () => {
        for (let turn = 0; turn < 5; turn++) {
          collect();
          await new Promise((resolve) => setTimeout(resolve, 50));
        }
        return { heap: process.memoryUsage().heapUsed, handles: handles() };
      };
      // The first rounds load code and fill caches.
      for (let number = 0; number < 10; number++) await round(number);
      const before = await settled();
      for (let number = 10; number < 60; number++) await round(number);
      const after = await settled();
      expect(after.handles).toBeLessThanOrEqual(before.handles);
      const growth = (after.heap - before.heap) / 50;
      // A connection with its watch that stayed would hold more than a hundred kilobytes.
      expect(growth, `${Math.round(growth)} bytes of heap per round`).toBeLessThan(20_000);
    });
  },
);
