import { expect, test } from 'vitest';
import { valuesSchema } from '../../../contract/index.ts';
import type { Agents } from '../agents/agent-pool.ts';
import { Findings } from '../checks/findings.ts';
import { resources } from '../kube/cluster-connection.ts';
import { silent } from '../log.ts';
import { FakeCluster, fakeAudit, fakeConnections } from '../testing/fake-cluster.ts';
import { createInstall } from './index.ts';
import { agentName, agentNamespace } from './names.ts';

const context = { signal: new AbortController().signal, connection: 'window' };

/** An installed cluster without nodes, of which an uninstall has been planned. */
async function planned() {
  const cluster = new FakeCluster();
  cluster.put(resources.daemonSets, {
    metadata: { name: agentName, namespace: agentNamespace },
    spec: { template: { spec: { containers: [{ image: 'fairlead-agent:1' }] } } },
  });
  const audit = fakeAudit();
  const state = { protected: false, reading: () => undefined as unknown };
  const open = fakeConnections(cluster);
  const connections = {
    ...open,
    get: async (id: string) => {
      await state.reading();
      return open.get(id);
    },
    writable: () => fakeConnections(cluster, { protected: state.protected }).writable('fake'),
  };
  const install = createInstall({
    findings: new Findings(),
    connections,
    agents: {} as Agents,
    audit,
    log: silent,
    image: undefined,
  });
  const values = valuesSchema.parse({});
  const plan = await install.plan({ cluster: 'fake', action: 'uninstall', values }, context);
  if (!plan.ok) throw new Error(plan.failure.what);
  expect(plan.value.obstacles).toEqual([]);
  return {
    cluster,
    audit,
    state,
    install,
    apply: () => install.apply({ cluster: 'fake', digest: plan.value.digest }, context),
  };
}

test('a cluster that becomes protected while the plan is made again is not written to', async () => {
  const { cluster, audit, state, install, apply } = await planned();
  using _install = install;
  state.reading = () => {
    state.protected = true;
  };
  expect(await apply()).toMatchObject({ ok: false, failure: { code: 'cluster.protected' } });
  expect(cluster.writes()).toEqual([]);
  expect(audit.entries).toEqual([]);
});

test('of two applications at once one runs, and its plan is used up', async () => {
  const { audit, install, apply } = await planned();
  using _install = install;
  const results = await Promise.all([apply(), apply()]);
  expect(results.map((result) => (result.ok ? 'ok' : result.failure.code)).sort()).toEqual(['install.running', 'ok']);
  expect(audit.entries[0]).toMatchObject({ action: 'install.uninstall', result: 'begun' });
  await install.watch({ cluster: 'fake' }, { push: async () => undefined }, context);
  expect(await apply()).toMatchObject({ ok: false, failure: { code: 'install.plan-stale' } });
});
