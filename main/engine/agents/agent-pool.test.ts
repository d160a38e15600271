import { afterAll, beforeAll, expect, test } from 'vitest';
import { ok } from '../../../contract/failure.ts';
import type { FlowItem } from '../../../contract/index.ts';
import { createFlows } from '../flows/index.ts';
import { resources } from '../kube/cluster-connection.ts';
import { silent } from '../log.ts';
import { FakeCluster, fakeConnections } from '../testing/fake-cluster.ts';
import { createAgents } from './agent-pool.ts';
import { noTestAgent, removeTestServer, TestAgent } from './test-agent.ts';

const reason = noTestAgent();
if (reason) console.log(`agents: skipped: ${reason}`);

let agent: TestAgent;
beforeAll(async () => {
  if (!reason) agent = await TestAgent.start();
}, 180_000);
afterAll(async () => {
  if (!reason) await agent.stop();
  removeTestServer();
});

/** A cluster with one agent pod, whose node and cluster name fit the test agent's certificate. */
function agentCluster(): FakeCluster {
  const cluster = new FakeCluster();
  const [node = '', clusterName = ''] = agent.tls.serverName.split('.');
  const text = (value: string | Buffer) => Buffer.from(value).toString('base64');
  cluster.put(resources.secrets, {
    metadata: {
      name: 'fairlead-client-tls',
      namespace: 'kube-system',
      annotations: { 'fairlead.dev/cluster-name': clusterName },
    },
    data: { 'ca.crt': text(agent.tls.ca), 'tls.crt': text(agent.tls.cert), 'tls.key': text(agent.tls.key) },
  });
  cluster.put(resources.pods, {
    metadata: { name: 'agent-1', namespace: 'kube-system', labels: { 'app.kubernetes.io/name': 'fairlead-agent' } },
    spec: { nodeName: node },
    status: { conditions: [{ type: 'Ready', status: 'True' }] },
  });
  cluster.portForward = async () => ok(agent.dialTunnel());
  return cluster;
}

async function opened(agents: ReturnType<typeof createAgents>) {
  const result = await agents.open('fake');
  if (!result.ok) throw new Error(result.failure.what);
  return result.value;
}

test.skipIf(reason)(
  'one connection for all who ask; a broken one is made anew; nothing is left after disconnecting',
  async () => {
    const cluster = agentCluster();
    const agents = createAgents({ connections: fakeConnections(cluster), log: silent });
    const first = await opened(agents);
    const second = await opened(agents);
    const dials = () => agent.duplexes.length;
    const before = dials();
    const [link] = first.links();
    if (!link) throw new Error('no link');
    const [a, b] = await Promise.all([link.client(), second.links()[0]?.client()]);
    expect(a.ok && b?.ok && a.value === b.value).toBe(true);
    expect(dials()).toBe(before + 1);
    expect(link.state).toBe('ready');

    agent.duplexes.at(-1)?.destroy();
    if (a.ok && !a.value.closed.aborted)
      await new Promise<void>((resolve) => a.value.closed.addEventListener('abort', () => resolve(), { once: true }));
    expect(link).toMatchObject({ state: 'unreachable', failure: { code: 'agent.lost' } });
    const again = await link.client();
    expect(again.ok).toBe(true);
    expect(dials()).toBe(before + 2);

    cluster.disconnect();
    expect(again.ok && again.value.closed.aborted).toBe(true);
    expect(agent.duplexes.at(-1)?.destroyed).toBe(true);
    expect(cluster.watches).toBe(0);
    expect(await link.client()).toMatchObject({ ok: false, failure: { code: 'agent.closed' } });
    first[Symbol.dispose]();
    second[Symbol.dispose]();
    agents.close();
  },
);

test.skipIf(reason)('without the secret the failure says what to do', async () => {
  const cluster = agentCluster();
  cluster.drop(resources.secrets, 'fairlead-client-tls', 'kube-system');
  const agents = createAgents({ connections: fakeConnections(cluster), log: silent });
  using held = await opened(agents);
  const client = await held.links()[0]?.client();
  expect(client).toMatchObject({ ok: false });
  if (client && !client.ok) expect(client.failure.fix).toContain('fairlead-client-tls');
  agents.close();
});

test.skipIf(reason)('a pod that is gone takes its link along, a new one gets its own', async () => {
  const cluster = agentCluster();
  const agents = createAgents({ connections: fakeConnections(cluster), log: silent });
  using held = await opened(agents);
  const [before] = held.links();
  cluster.drop(resources.pods, 'agent-1', 'kube-system');
  expect(held.links()).toEqual([]);
  expect(await before?.client()).toMatchObject({ ok: false });
  agents.close();
});

test.skipIf(reason)('flows of a real server arrive in order through the whole way, and end when asked', async () => {
  const cluster = agentCluster();
  const agents = createAgents({ connections: fakeConnections(cluster), log: silent });
  using flows = createFlows({ connections: fakeConnections(cluster), agents, log: silent });
  const items: FlowItem[] = [];
  const ended = await flows.watch(
    { cluster: 'fake', allow: [], deny: [], last: 100, follow: false },
    { push: async (pushed) => void items.push(...(pushed as FlowItem[])) },
    { signal: AbortSignal.timeout(15_000), connection: 'test' },
  );
  expect(ended).toBeUndefined();
  const times = items.flatMap((item) => (item.kind === 'flow' ? [item.flow.time] : []));
  expect(times.length).toBeGreaterThan(0);
  expect(times).toEqual(times.toSorted((a, b) => a - b));
  const sequences = items.flatMap((item) => (item.kind === 'flow' ? [item.flow.sequence] : []));
  expect(sequences).toEqual(sequences.map((_, index) => index + 1));
  const health = items.findLast((item) => item.kind === 'health');
  expect(health?.kind === 'health' && health.health.nodes[0]?.state).toBe('ended');
  agents.close();
});
