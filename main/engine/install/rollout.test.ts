import { describe, expect, test } from 'vitest';
import { type InstallProgress, type InstallStep, valuesSchema } from '../../../contract/index.ts';
import type { Agents } from '../agents/agent-pool.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import { FakeCluster, fakeSsh } from '../testing/fake-cluster.ts';
import { noticedText } from './disruption.ts';
import type { ClusterFacts, NodeFacts } from './facts.ts';
import { renderObjects, replacedByHand } from './manifests.ts';
import { agentLabel, agentNamespace, configDigestAnnotation, holdLabel, stateName } from './names.ts';
import { foreignPods, restartStep } from './restart.ts';
import { agentStep, failingPart, holdStep, planRollout, releaseHold } from './rollout.ts';
import { type InstallState, isInterrupted, nodeStates, readState, StateKeeper, silence } from './state.ts';
import type { Workbench } from './workbench.ts';

const machine = (name: string, more: Partial<NodeFacts> = {}): NodeFacts => ({
  name,
  address: '192.0.2.1',
  podCIDRs: [],
  podCIDRs6: [],
  ready: true,
  unschedulable: false,
  controlPlane: false,
  os: 'linux',
  kernel: '',
  runtime: '',
  version: '',
  image: '',
  providerID: '',
  images: [],
  arguments: [],
  flannel: false,
  ssh: undefined,
  ...more,
});

describe('the order of nodes', () => {
  const machines = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'].map((name) =>
    machine(name, { controlPlane: name === 'a' }),
  );

  test('one worker alone first, then batches; every node exactly once', () => {
    for (const batch of [undefined, 1, 3, 100]) {
      const order = planRollout(machines, { batch });
      expect(order[0]).toEqual(['b']);
      expect(order.flat().sort()).toEqual(machines.map(({ name }) => name));
      for (const one of order.slice(1)) expect(one.length).toBeLessThanOrEqual(batch ?? 3);
    }
  });

  test('follows the wish, passes over what is not Linux, and copes with little', () => {
    expect(planRollout(machines, { canary: 'e' })[0]).toEqual(['e']);
    expect(planRollout([machine('w', { os: 'windows' }), machine('l')])).toEqual([['l']]);
    expect(planRollout([machine('cp', { controlPlane: true })])).toEqual([['cp']]);
    expect(planRollout([])).toEqual([]);
  });
});

function bench(cluster: FakeCluster): Workbench {
  return { connection: cluster, ssh: fakeSsh(), agents: {} as Agents, facts: {} as ClusterFacts };
}

function run(step: { run: (context: never) => unknown }) {
  const lines: string[] = [];
  const context = {
    signal: new AbortController().signal,
    log: (line: string) => void lines.push(line),
    message: () => undefined,
  };
  return {
    lines,
    result: step.run(context as never) as Promise<{ ok: boolean; failure?: { code: string; details?: string } }>,
  };
}

function nodeObject(name: string): object {
  return { metadata: { name, labels: { zone: 'x' } }, status: { conditions: [{ type: 'Ready', status: 'True' }] } };
}

function agentPod(name: string, digest: string, more: object = {}): object {
  return {
    metadata: {
      name,
      namespace: agentNamespace,
      labels: { [agentLabel.key]: agentLabel.value },
      annotations: { [configDigestAnnotation]: digest },
    },
    spec: { nodeName: 'n1', containers: [{ image: 'agent:1' }] },
    status: { conditions: [{ type: 'Ready', status: 'True' }] },
    ...more,
  };
}

describe('a node’s turn', () => {
  const wanted = { digest: 'new', image: 'agent:1' };

  test('an older agent is replaced, and the step ends with the new one Ready', async () => {
    const cluster = new FakeCluster();
    cluster.put(resources.nodes, nodeObject('n1'));
    cluster.put(resources.pods, agentPod('old', 'before'));
    const { result } = run(agentStep(bench(cluster), machine('n1'), wanted, 'Agent'));
    while (cluster.all(resources.pods).some((pod) => pod.metadata.name === 'old')) await new Promise(setImmediate);
    cluster.put(resources.pods, agentPod('new', 'new'));
    expect(await result).toMatchObject({ ok: true });
    expect(cluster.writes().map((request) => `${request.verb} ${request.name}`)).toEqual(['remove old']);
    expect(cluster.watches).toBe(0);
  });

  test('one that is right already is left alone: going on does nothing twice', async () => {
    const cluster = new FakeCluster();
    cluster.put(resources.nodes, nodeObject('n1'));
    cluster.put(resources.pods, agentPod('there', 'new'));
    expect(await run(agentStep(bench(cluster), machine('n1'), wanted, 'Agent')).result).toMatchObject({ ok: true });
    expect(cluster.writes()).toEqual([]);
  });

  test('an agent that dies again and again is given up with its last words', async () => {
    const cluster = new FakeCluster();
    cluster.put(resources.nodes, nodeObject('n1'));
    const dying = {
      conditions: [{ type: 'Ready', status: 'False' }],
      containerStatuses: [{ restartCount: 2, lastState: { terminated: { exitCode: 1, reason: 'Error' } } }],
    };
    cluster.put(resources.pods, agentPod('dying', 'new', { status: dying }));
    cluster.rawAnswers.set(
      `/api/v1/namespaces/${agentNamespace}/pods/dying/log?tailLines=15&previous=true`,
      'Error: there is no device nosuch0\n',
    );
    const { result, lines } = run(agentStep(bench(cluster), machine('n1'), wanted, 'Agent'));
    expect(await result).toMatchObject({
      ok: false,
      failure: { code: 'install.agent-cannot-start', details: 'Error: there is no device nosuch0' },
    });
    expect(lines.join()).toContain('nosuch0');
  });

  test('held back nodes carry a label until it is their turn; others of the node stay', async () => {
    const cluster = new FakeCluster();
    for (const name of ['n1', 'n2']) cluster.put(resources.nodes, nodeObject(name));
    expect(await run(holdStep(bench(cluster), ['n2'])).result).toMatchObject({ ok: true });
    const label = async (name: string) => {
      const node = await cluster.get<KubeObject>(resources.nodes, name);
      return node.ok ? node.value.metadata.labels?.[holdLabel] : 'no node';
    };
    expect([await label('n1'), await label('n2')]).toEqual([undefined, 'installing']);
    await releaseHold(bench(cluster), ['n1', 'n2']);
    expect(await label('n2')).toBeUndefined();
  });

  test('the DaemonSet keeps away from held back nodes; strategies change nothing of its template', () => {
    const workload = renderObjects(valuesSchema.parse({}), 'agent:1').at(-1);
    if (!workload) throw new Error('no DaemonSet');
    expect(JSON.stringify(workload.object)).toContain(`{"key":"${holdLabel}","operator":"DoesNotExist"}`);
    const by = (object: KubeObject) =>
      object as unknown as { spec: { template: object; updateStrategy: { type: string } } };
    const manual = by(replacedByHand(workload).object);
    expect(manual.spec.updateStrategy).toEqual({ type: 'OnDelete' });
    expect(manual.spec.template).toEqual(by(workload.object).spec.template);
  });
});

describe('pods of another plugin', () => {
  test('are those that run with an address and without an endpoint; only controlled ones are restarted', async () => {
    const cluster = new FakeCluster();
    const pod = (name: string, more: object = {}, owned = true) => ({
      metadata: { name, namespace: 'default', ...(owned ? { ownerReferences: [{ controller: true }] } : {}) },
      spec: { nodeName: 'n1' },
      status: { phase: 'Running', podIP: '10.0.0.1' },
      ...more,
    });
    cluster.put(resources.pods, pod('bridged'));
    cluster.put(resources.pods, pod('bare', {}, false));
    cluster.put(resources.pods, pod('ours'));
    cluster.put(resources.pods, pod('host', { spec: { nodeName: 'n1', hostNetwork: true } }));
    cluster.put(resources.pods, pod('pending', { status: { phase: 'Pending' } }));
    cluster.put(resources.ciliumEndpoints, { metadata: { name: 'ours', namespace: 'default' } });
    const found = await foreignPods(cluster);
    expect(found.map((one) => [one.name, one.controlled])).toEqual([
      ['bridged', true],
      ['bare', false],
    ]);
    for (const one of found) expect(await run(restartStep(bench(cluster), one)).result).toMatchObject({ ok: true });
    expect(cluster.writes().map((request) => request.name)).toEqual(['bridged']);
  });
});

describe('the state in the cluster', () => {
  const values = valuesSchema.parse({ MTU: 1400 });
  const state = (more: Partial<InstallState> = {}): InstallState => ({
    action: 'upgrade',
    digest: 'd',
    state: 'running',
    startedAt: 1,
    updatedAt: Date.now(),
    nodes: { n1: 'waiting' },
    image: 'agent:2',
    values,
    previous: { image: 'agent:1', values: valuesSchema.parse({}) },
    ...more,
  });

  test('is written, changed and read back; what another wrote there is no exception', async () => {
    const cluster = new FakeCluster();
    using keeper = new StateKeeper(cluster, state());
    expect(await keeper.begin()).toMatchObject({ ok: true });
    keeper.update({ nodes: { n1: 'done' }, state: 'done' });
    await keeper.settled();
    expect(await readState(cluster)).toMatchObject({
      ok: true,
      value: { nodes: { n1: 'done' }, state: 'done', values },
    });
    const written = cluster.writes().length;
    keeper.update({ nodes: { n1: 'done' }, state: 'done' });
    await keeper.settled();
    expect(cluster.writes().length).toBe(written);
    cluster.put(resources.configMaps, {
      metadata: { name: stateName, namespace: agentNamespace },
      data: { state: '{' },
    });
    expect(await readState(cluster)).toEqual({ ok: true, value: undefined });
  });

  test('is called broken off when nobody has been at it for a while', () => {
    const now = Date.now();
    expect(isInterrupted(state(), now)).toBe(false);
    expect(isInterrupted(state({ updatedAt: now - silence - 1 }), now)).toBe(true);
    expect(isInterrupted(state({ updatedAt: 0, state: 'failed' }), now)).toBe(false);
  });

  test('says of each node how far it is', () => {
    const step = (id: string, node: string, now: InstallStep['state']): InstallStep => ({
      id,
      title: id,
      node,
      state: now,
      message: '',
      log: [],
    });
    const progress: InstallProgress = {
      action: 'upgrade',
      state: 'failed',
      steps: [
        step('agent:n1', 'n1', 'done'),
        step('verify:n1', 'n1', 'failed'),
        step('agent:n2', 'n2', 'done'),
        step('verify:n2', 'n2', 'waiting'),
        step('agent:n3', 'n3', 'running'),
        step('agent:n4', 'n4', 'waiting'),
      ],
    };
    expect(nodeStates(progress, ['n1', 'n2', 'n3', 'n4', 'n5'])).toEqual({
      n1: 'failed',
      n2: 'done',
      n3: 'running',
      n4: 'waiting',
      n5: 'waiting',
    });
  });
});

test('what connections noticed is one line', () => {
  const line = noticedText({
    seconds: 21.4,
    longestGapMilliseconds: 41.3,
    broken: 0,
    opened: 210,
    failed: 1,
    lastError: 'refused',
  });
  expect(line).toBe(
    '21 s: the held connection never broke, longest pause 41 ms; 1 of 210 new connections failed (refused)',
  );
});

test('the log of an agent says which part fails; one that got over it does not', () => {
  const line = (state: string) =>
    `time=x level=WARN msg=component name=datapath state=${state} message="The interface \\"nosuch0\\" is not there." fix="Correct \`devices\`."`;
  expect(failingPart(`first\n${line('failing')}\n`)).toEqual({
    message: 'The interface "nosuch0" is not there.',
    fix: 'Correct `devices`.',
  });
  expect(failingPart(`${line('failing')}\n${line('ok')}`)).toBeUndefined();
  expect(failingPart('')).toBeUndefined();
});
