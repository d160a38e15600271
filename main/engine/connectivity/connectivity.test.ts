import { PassThrough } from 'node:stream';
import { describe, expect, test } from 'vitest';
import { type ConnectivityProgress, failed, ok } from '../../../contract/index.ts';
import type { Agents } from '../agents/index.ts';
import type { ClusterConnection, KubeObject, ResourceType } from '../kube/cluster-connection.ts';
import { resources } from '../kube/cluster-connection.ts';
import { silent } from '../log.ts';
import { FakeCluster, fakeAudit, fakeConnections } from '../testing/fake-cluster.ts';
import { type Attempted, answers, type Bed, carries, failsBy, seesClient, socket, url } from './bed.ts';
import { cases } from './cases.ts';
import { createConnectivity } from './index.ts';
import { readAttempt, runTest } from './run.ts';
import { testServices } from './services.ts';
import { makeTestbed, sweep, testbedLabel } from './testbed.ts';

const signal = new AbortController().signal;
const jobs: ResourceType = { group: 'batch', version: 'v1', plural: 'jobs', kind: 'Job', namespaced: true };
const namespacesOf = (cluster: FakeCluster) => cluster.all(resources.namespaces).map(({ metadata }) => metadata.name);

/** A cluster in which pods come up at once and services have their addresses and pods. */
function lively(): FakeCluster {
  const cluster = new FakeCluster();
  const create = cluster.create.bind(cluster);
  let last = 0;
  cluster.create = (async (type: ResourceType, object: KubeObject) => {
    const made = await create(type, object);
    if (!made.ok) return made;
    const value = made.value as KubeObject & { readonly spec?: { readonly clusterIP?: string } };
    if (type.kind === 'Pod') {
      last += 1;
      const conditions = [{ type: 'Ready', status: 'True' }];
      cluster.put(type, { ...value, status: { podIP: `10.0.0.${last}`, hostIP: '192.0.2.1', conditions } });
    }
    if (type.kind === 'Service') {
      last += 1;
      cluster.put(type, {
        ...value,
        spec: { clusterIP: `10.96.0.${last}`, ...value.spec, ports: [{ nodePort: 30_000 + last }] },
      });
      cluster.put(resources.endpointSlices, {
        metadata: {
          name: value.metadata.name,
          namespace: value.metadata.namespace ?? '',
          labels: { 'kubernetes.io/service-name': value.metadata.name },
        },
        endpoints: [{ conditions: { ready: true } }, { conditions: { ready: true } }],
      });
    }
    return made;
  }) as typeof cluster.create;
  return cluster;
}

/** The probe answers every attempt with this. */
function answering(attempt: (command: readonly string[], pod: string) => object): ClusterConnection['exec'] {
  return async ({ command, pod }) => {
    const stdout = new PassThrough();
    stdout.end(JSON.stringify(attempt(command, pod)));
    const exit = new Promise<ReturnType<typeof ok<number>>>((resolve) => stdout.on('end', () => resolve(ok(0))));
    return ok({
      stdin: new PassThrough(),
      stdout,
      stderr: new PassThrough(),
      exit,
      resize: () => undefined,
      close: () => undefined,
    });
  };
}

const noAgents = { open: async () => failed({ code: 'x', what: 'no', why: 'no', fix: 'no' }) } as unknown as Agents;

describe('the cases', () => {
  test('are more than forty, each with a name of its own and what has to come of it', () => {
    expect(cases.length).toBeGreaterThanOrEqual(40);
    expect(new Set(cases.map((one) => one.id)).size).toBe(cases.length);
    for (const one of cases) {
      expect(one.title.length, one.id).toBeGreaterThan(3);
      expect(one.expected.length, one.id).toBeGreaterThan(3);
    }
    expect(new Set(cases.map((one) => one.group))).toEqual(
      new Set(['Pod to pod', 'Large packets', 'Nodes', 'Names', 'Services', 'Outside', 'Policies']),
    );
    expect(testServices('192.0.2.1').map((one) => one.metadata.name)).toContain('web');
  });

  test('expectations tell good from bad', () => {
    const bed = { pods: new Map([['client', { address: '10.0.0.1', hostAddress: '', node: 'n' }]]) } as unknown as Bed;
    const good: Attempted = {
      ok: true,
      peer: { pod: 'near', client: '10.0.0.1:4000', received: 10 },
      bytes: 100,
      milliseconds: 1,
    };
    const bad: Attempted = { ok: false, kind: 'timeout', error: 'late', peer: {}, milliseconds: 1 };
    expect(answers('near', 'far')(good, bed)).toBe(true);
    expect(answers('far')(good, bed)).toContain('near answered');
    expect(answers()(bad, bed)).toContain('timeout');
    expect(seesClient('client', 'near')(good, bed)).toBe(true);
    expect(seesClient('client')({ ...good, peer: { client: '192.0.2.1:5' } }, bed)).toContain('instead of 10.0.0.1');
    expect(seesClient('client')({ ...good, peer: { client: '[10.0.0.1]:5' } }, bed)).toBe(true);
    expect(failsBy('refused', 'timeout')(bad, bed)).toBe(true);
    expect(failsBy('refused')(good, bed)).toContain('it worked');
    expect(carries(100)(good, bed)).toBe(true);
    expect(carries(11, 'there')(good, bed)).toContain('10 of 11');
    expect([url('fd00::1', 80), socket('10.0.0.1', 53)]).toEqual(['http://[fd00::1]:80/', '10.0.0.1:53']);
  });

  test('a probe that did not run is an attempt that failed, with the reason', () => {
    expect(readAttempt(ok({ stdout: 'x', stderr: 'no such file' }))).toMatchObject({
      ok: false,
      error: 'no such file',
    });
    expect(readAttempt(failed({ code: 'c', what: 'Gone.', why: 'w', fix: 'f' }))).toMatchObject({
      ok: false,
      error: 'Gone. w',
    });
  });
});

describe('a testbed', () => {
  test('puts everything into a namespace of its own, owned by a Job with a deadline, and removes it', async () => {
    const cluster = lively();
    const testbed = makeTestbed(cluster, 'agent:1', 'test', 60);
    const up = await testbed.pods([{ name: 'client', node: 'n1' }], signal, 5);
    expect(up.ok && up.value.get('client')).toMatchObject({ node: 'n1', hostAddress: '192.0.2.1' });
    const [job] = cluster.all(jobs) as readonly (KubeObject & {
      readonly spec: { readonly activeDeadlineSeconds: number; readonly ttlSecondsAfterFinished: number };
    })[];
    expect(job?.spec).toMatchObject({ activeDeadlineSeconds: 60, ttlSecondsAfterFinished: 5 });
    const [pod] = cluster.all(resources.pods) as readonly (KubeObject & {
      readonly spec: {
        readonly activeDeadlineSeconds: number;
        readonly automountServiceAccountToken: boolean;
        readonly containers: readonly { readonly securityContext: object }[];
      };
    })[];
    expect(pod?.metadata.ownerReferences).toMatchObject([{ kind: 'Job', name: 'keeper', uid: job?.metadata.uid }]);
    expect(pod?.spec).toMatchObject({ activeDeadlineSeconds: 60, automountServiceAccountToken: false });
    expect(pod?.spec.containers[0]?.securityContext).toMatchObject({
      allowPrivilegeEscalation: false,
      capabilities: { drop: ['ALL'], add: ['NET_RAW'] },
    });
    expect(namespacesOf(cluster)).toEqual([testbed.namespace]);
    await testbed[Symbol.asyncDispose]();
    expect(namespacesOf(cluster)).toEqual([]);
    expect(cluster.watches).toBe(0);
  });

  test('what a killed console has left goes when its time is over, and nothing else does', async () => {
    const cluster = new FakeCluster();
    const namespace = (name: string, labels: object, expires?: string) =>
      cluster.put(resources.namespaces, {
        metadata: { name, labels, annotations: expires ? { 'fairlead.dev/expires': expires } : {} },
      });
    namespace('old', { [testbedLabel]: 'test' }, '2020-01-01T00:00:00Z');
    namespace('running', { [testbedLabel]: 'test' }, new Date(Date.now() + 60_000).toISOString());
    namespace('broken', { [testbedLabel]: 'test' });
    namespace('default', {});
    expect([...(await sweep(cluster))].sort()).toEqual(['broken', 'old']);
    expect(namespacesOf(cluster).sort()).toEqual(['default', 'running']);
  });
});

describe('a run', () => {
  const progress: ConnectivityProgress = {
    state: 'preparing',
    message: '',
    namespace: '',
    nodes: [],
    startedAt: 0,
    results: [],
  };
  const waiting = (ids: readonly string[]) =>
    ids.map((id) => ({
      id,
      state: 'waiting' as const,
      message: '',
      expected: '',
      milliseconds: 0,
      attempts: [],
      flows: [],
    }));
  const chosen = cases.filter((one) =>
    ['pod-http-near', 'pod-refused-near', 'pod-http-far', 'outside-http'].includes(one.id),
  );
  const options = (cluster: FakeCluster, more: object = {}) => ({
    connection: cluster,
    agents: noAgents,
    log: silent,
    image: 'agent:1',
    nodes: [{ name: 'n1', address: '192.0.2.1' }],
    cases: chosen,
    outside: undefined,
    signal,
    ...more,
  });

  test('judges every case, says why one is left out, and leaves nothing', async () => {
    const cluster = lively();
    cluster.exec = answering((command) =>
      command.some((word) => word.endsWith(':81/'))
        ? { ok: true, peer: {}, milliseconds: 1 }
        : { ok: true, peer: { pod: 'near' }, milliseconds: 1 },
    );
    const seen: string[] = [];
    const ended = await runTest(
      options(cluster),
      { ...progress, results: waiting(chosen.map((one) => one.id)) },
      (now) => seen.push(now.state),
    );
    expect(Object.fromEntries(ended.results.map((one) => [one.id, one.state]))).toEqual({
      'pod-http-near': 'passed',
      'pod-refused-near': 'failed',
      'pod-http-far': 'skipped',
      'outside-http': 'skipped',
    });
    expect(ended.results.find((one) => one.state === 'failed')?.attempts.join()).toContain('client: http');
    expect(ended.state).toBe('done');
    expect([...new Set(seen)]).toEqual(['preparing', 'running', 'cleaning', 'done']);
    expect(namespacesOf(cluster)).toEqual([]);
    expect(cluster.watches).toBe(0);
  });

  test('pods that do not come up, or a stop in the middle, leave nothing either', async () => {
    const stuck = new FakeCluster();
    const stop = new AbortController();
    const running = runTest(options(stuck, { signal: stop.signal }), progress, () => undefined);
    while (stuck.all(resources.pods).length === 0) await new Promise(setImmediate);
    stop.abort();
    expect((await running).state).toBe('stopped');
    expect(namespacesOf(stuck)).toEqual([]);
  });
});

test('two tests at once in one cluster are refused, and a protected cluster is not written to', async () => {
  const cluster = lively();
  cluster.put(resources.nodes, {
    metadata: { name: 'n1' },
    status: { conditions: [{ type: 'Ready', status: 'True' }] },
  });
  cluster.put(resources.daemonSets, {
    metadata: { name: 'fairlead-agent', namespace: 'kube-system' },
    spec: { template: { spec: { containers: [{ image: 'agent:1' }] } } },
  });
  cluster.exec = answering(() => ({ ok: true, peer: { pod: 'near' }, milliseconds: 1 }));
  const audit = fakeAudit();
  const context = { signal, connection: 'window' };
  const make = (isProtected: boolean) =>
    createConnectivity({
      connections: fakeConnections(cluster, { protected: isProtected }),
      agents: noAgents,
      audit,
      log: silent,
    });
  using closed = make(true);
  expect(await closed.start({ cluster: 'fake' }, context)).toMatchObject({
    ok: false,
    failure: { code: 'cluster.protected' },
  });
  expect(cluster.writes()).toEqual([]);
  using open = make(false);
  const start = () => open.start({ cluster: 'fake', cases: ['pod-http-near'] }, context);
  const both = await Promise.all([start(), start()]);
  expect(both.map((one) => (one.ok ? 'ok' : one.failure.code)).sort()).toEqual(['connectivity.running', 'ok']);
  const states: string[] = [];
  await open.watch(
    { cluster: 'fake' },
    { push: async (items) => void states.push(...items.map((item) => item.state)) },
    context,
  );
  expect(states.at(-1)).toBe('done');
  expect(audit.entries.at(-1)?.result).toContain('1 passed');
});
