import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { valuesSchema } from '../../../contract/index.ts';
import type { Agents } from '../agents/agent-pool.ts';
import { Findings } from '../checks/findings.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import { silent } from '../log.ts';
import { FakeCluster, fakeAudit, fakeConnections } from '../testing/fake-cluster.ts';
import { createInstall } from './index.ts';
import { agentName, agentNamespace } from './names.ts';

const context = { signal: new AbortController().signal, connection: 'window' };

/** An image archive that says no more than its name. */
function archive(directory: string): string {
  const index = {
    manifests: [
      {
        digest: `sha256:${'1234567890abcdef'.repeat(4)}`,
        annotations: { 'io.containerd.image.name': 'fairlead.dev/agent:1' },
      },
    ],
  };
  writeFileSync(join(directory, 'index.json'), JSON.stringify(index));
  execFileSync('tar', ['-C', directory, '-cf', join(directory, 'agent.tar'), 'index.json']);
  return join(directory, 'agent.tar');
}

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

test('who is left out of the removal of kube-proxy is in the audit log by name', async () => {
  const cluster = new FakeCluster();
  const machine = (name: string, status: string) => ({
    metadata: { name },
    spec: { podCIDR: '10.77.1.0/24' },
    status: {
      nodeInfo: { operatingSystem: 'linux' },
      images: [{ names: ['fairlead.dev/agent:sha256-1234567890abcdef'] }],
      conditions: [{ type: 'Ready', status }],
    },
  });
  cluster.put(resources.nodes, machine('n1', 'True'));
  cluster.put(resources.nodes, machine('n2', 'Unknown'));
  cluster.put(resources.daemonSets, {
    metadata: { name: 'kube-proxy', namespace: agentNamespace },
    spec: { template: { spec: { containers: [{ name: 'kube-proxy', image: 'kube-proxy:1' }] } } },
  } as KubeObject);
  const state = mkdtempSync(join(tmpdir(), 'fairlead-leave-out-'));
  const audit = fakeAudit();
  try {
    using install = createInstall({
      findings: new Findings(),
      connections: fakeConnections(cluster),
      agents: {} as Agents,
      audit,
      log: silent,
      image: archive(state),
    });
    const values = valuesSchema.parse({ k8sServiceHost: '172.31.77.10', k8sServicePort: 6443 });
    const asked = { cluster: 'fake', action: 'install', values } as const;
    const rollout = { kubeProxy: 'remove', leaveOut: ['n2'] } as const;
    const refusals = [
      { rollout: { kubeProxy: 'remove', leaveOut: ['n2', 'n3'] }, code: 'install.leave-out-unknown', names: 'n3' },
      { rollout: { leaveOut: ['n2'] }, code: 'install.leave-out-needs-removal', names: 'n2' },
    ] as const;
    for (const { rollout: wrong, code, names } of refusals) {
      const refused = await install.plan({ ...asked, rollout: wrong }, context);
      if (!refused.ok) throw new Error(refused.failure.what);
      expect(refused.value.obstacles.map((obstacle) => obstacle.code)).toContain(code);
      expect(refused.value.obstacles.find((obstacle) => obstacle.code === code)?.what).toContain(names);
    }
    const plan = await install.plan({ ...asked, rollout }, context);
    if (!plan.ok) throw new Error(plan.failure.what);
    expect(plan.value.obstacles).toEqual([]);
    expect(audit.entries).toEqual([]);
    expect(await install.apply({ cluster: 'fake', digest: plan.value.digest }, context)).toMatchObject({ ok: true });
    expect(audit.entries.slice(0, 2)).toMatchObject([
      { action: 'install.install', result: 'begun' },
      { action: 'install.leave-out', subject: 'node n2' },
    ]);
  } finally {
    rmSync(state, { recursive: true, force: true });
  }
});
