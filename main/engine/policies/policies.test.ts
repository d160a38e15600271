import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ok } from '../../../contract/failure.ts';
import type { Agents } from '../agents/agent-pool.ts';
import { resources } from '../kube/cluster-connection.ts';
import { silent } from '../log.ts';
import { FakeCluster, fakeAudit, fakeConnections } from '../testing/fake-cluster.ts';
import { parsePolicyText, splitPath } from './document.ts';
import { createPolicies } from './index.ts';
import { nearMisses } from './near-misses.ts';
import { policySchema } from './schema.ts';
import { carryOver, managerOf, toText } from './text.ts';

const rule = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: rule1
  namespace: galaxy
spec:
  endpointSelector:
    matchLabels:
      org: empire # keep
  ingress:
    - fromEndpoints:
        - matchLabels:
            org: empire
`;

describe('parsePolicyText', () => {
  test('places: keys, list items, quoted keys, and the longest part that exists', () => {
    const { locate, id, problems } = parsePolicyText(rule);
    expect(problems).toEqual([]);
    expect(id).toEqual({ kind: 'CiliumNetworkPolicy', namespace: 'galaxy', name: 'rule1' });
    expect(locate('spec.endpointSelector')).toMatchObject({ line: 7, column: 3 });
    expect(locate('spec.endpointSelector.matchLabels.org')).toEqual({ line: 9, column: 12, endLine: 9, endColumn: 18 });
    expect(locate('spec.ingress[0].fromEndpoints[0].matchLabels')).toMatchObject({ line: 12 });
    expect(locate('spec.ingress[7].toPorts')).toMatchObject({ line: 10 });
    expect(splitPath('spec.x["a.b/c"][2].d')).toEqual(['spec', 'x', 'a.b/c', 2, 'd']);
  });

  test.each([
    ['empty', '# nothing\n', 'empty', 1],
    ['not YAML', 'a: [1\nb: 2\n', 'yaml', 0],
    ['a key twice', `${rule}spec: {}\n`, 'duplicate-key', 14],
    ['two documents', `${rule}---\n${rule}`, 'multiple-documents', 15],
    ['a list', '- a\n', 'not-an-object', 1],
    ['another kind', 'apiVersion: v1\nkind: Pod\n', 'kind', 2],
    ['another version', rule.replace('v2', 'v9'), 'api-version', 1],
  ])('%s is a problem with its place', (_name, text, code, line) => {
    const { problems } = parsePolicyText(text);
    const found = problems.find((one) => one.code === code);
    expect(found, JSON.stringify(problems)).toBeDefined();
    if (line > 0) expect(found?.line).toBe(line);
    expect(found?.fix).not.toBe('');
  });

  test('a namespace left out is default; clusterwide ones have none', () => {
    expect(parsePolicyText(rule.replace('  namespace: galaxy\n', '')).id?.namespace).toBe('default');
    expect(parsePolicyText(rule.replace('CiliumNetworkPolicy', 'CiliumClusterwideNetworkPolicy')).id?.namespace).toBe(
      '',
    );
  });
});

test('near misses: other values, keys that look alike, and nothing of other namespaces', () => {
  const pods = [
    { namespace: 'galaxy', name: 'a', labels: { org: 'empire', klass: 'x' } },
    { namespace: 'other', name: 'b', labels: { org: 'rebels' } },
  ];
  const document = { spec: { endpointSelector: { matchLabels: { org: 'rebels', class: 'x', 'k8s:org': 'empire' } } } };
  const found = nearMisses(document, pods, 'galaxy');
  expect(found.map((one) => one.path)).toEqual([
    'spec.endpointSelector.matchLabels.org',
    'spec.endpointSelector.matchLabels.class',
  ]);
  expect(found[0]?.text).toContain('org is empire (1)');
  expect(found[1]?.text).toContain('klass');
  expect(nearMisses(document, pods, undefined).map((one) => one.path)).not.toContain(
    'spec.endpointSelector.matchLabels.org',
  );
});

test('schemas are JSON Schema of spec and head, without status', () => {
  for (const kind of ['CiliumNetworkPolicy', 'CiliumClusterwideNetworkPolicy', 'NetworkPolicy'] as const) {
    const schema = JSON.parse(policySchema(kind)) as { properties: Record<string, { enum?: string[] }> };
    expect(schema.properties.kind?.enum).toEqual([kind]);
    expect(schema.properties.spec).toBeDefined();
    expect(schema.properties.status).toBeUndefined();
  }
});

test('text leaves out what the server keeps, and replacing carries it over', () => {
  const stored = {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: {
      name: 'a',
      namespace: 'b',
      uid: 'u',
      resourceVersion: '7',
      annotations: { 'kubectl.kubernetes.io/last-applied-configuration': '{}', note: 'x' },
      finalizers: ['f'],
    },
    spec: { endpointSelector: {} },
    status: { conditions: [] },
  };
  const text = toText(stored);
  for (const hidden of ['uid', 'resourceVersion', 'last-applied', 'status', 'conditions'])
    expect(text).not.toContain(hidden);
  const edited = { ...stored, metadata: { name: 'a', namespace: 'b', annotations: { note: 'y' } } };
  expect(carryOver(edited, stored, '7').metadata).toMatchObject({
    resourceVersion: '7',
    finalizers: ['f'],
    annotations: { note: 'y', 'kubectl.kubernetes.io/last-applied-configuration': '{}' },
  });
});

test('who looks after an object', () => {
  const managed = (labels: Record<string, string>, annotations: Record<string, string> = {}) =>
    managerOf({ metadata: { name: 'x', labels, annotations } });
  expect(managed({})).toBe('');
  expect(managed({ 'argocd.argoproj.io/instance': 'prod' })).toBe('Argo CD (prod)');
  expect(managed({ 'kustomize.toolkit.fluxcd.io/name': 'apps' })).toBe('Flux (apps)');
  expect(managed({ 'app.kubernetes.io/managed-by': 'Helm' }, { 'meta.helm.sh/release-name': 'web' })).toBe(
    'Helm (web)',
  );
});

const wasm = join(import.meta.dirname, '../../../out/wasm/policy.wasm');
if (!existsSync(wasm))
  console.log(
    'policies: skipped what needs the policy engine: out/wasm is not built (node scripts/build-policy-wasm.mjs)',
  );

describe.skipIf(!existsSync(wasm))('with the policy engine', () => {
  let cluster: FakeCluster;
  let audit: ReturnType<typeof fakeAudit>;
  let policies: ReturnType<typeof createPolicies>;
  const agents: Agents = {
    statuses: { forCluster: () => new Map(), onChange: () => ({ [Symbol.dispose]() {} }) },
    open: async () =>
      ok({
        links: () => [],
        onChange: () => ({ [Symbol.dispose]() {} }),
        ready: async () => ok(undefined),
        signal: cluster.signal,
        [Symbol.dispose]() {},
      }),
    close() {},
  };
  const context = { signal: new AbortController().signal, connection: 'test' };
  const start = (locked = false) => {
    audit = fakeAudit();
    policies = createPolicies({
      connections: fakeConnections(cluster, { protected: locked }),
      agents,
      audit,
      log: silent,
    });
  };

  beforeEach(() => {
    cluster = new FakeCluster();
    cluster.put(resources.namespaces, { metadata: { name: 'galaxy' } });
    cluster.put(resources.customResourceDefinitions, { metadata: { name: 'ciliumnetworkpolicies.cilium.io' } });
    cluster.put(resources.pods, {
      metadata: { name: 'deathstar', namespace: 'galaxy', labels: { org: 'empire' } },
      status: { phase: 'Running' },
    });
    start();
  });
  afterEach(() => policies[Symbol.dispose]());

  const validate = async (text: string) => {
    const result = await policies.validate({ cluster: 'fake', text }, context);
    if (!result.ok) throw new Error(result.failure.what);
    return result.value;
  };

  test('validates: what it means, what it selects, problems in their place', async () => {
    const good = await validate(rule);
    expect(good.problems.filter((one) => one.severity === 'error')).toEqual([]);
    expect(good.selects).toEqual(['galaxy/deathstar']);
    expect(good.meaning.length).toBeGreaterThan(0);
    const wrong = await validate(rule.replace('fromEndpoints', 'fromEndpoint'));
    expect(wrong.problems[0]).toMatchObject({ severity: 'error', line: 11 });
    const nobody = await validate(rule.replace('org: empire # keep', 'org: rebels'));
    expect(nobody.problems).toMatchObject([{ code: 'selects-nothing', severity: 'warning', line: 9 }]);
    expect(
      (await validate(rule.replace('namespace: galaxy', 'namespace: void'))).problems.map((one) => one.code),
    ).toContain('no-namespace');
    expect(cluster.writes()).toEqual([]);
  });

  test('dry run changes nothing; apply creates, updates, says unchanged, and is written down', async () => {
    const dry = await policies.dryRun({ cluster: 'fake', text: rule }, context);
    expect(dry).toMatchObject({ ok: true, value: { action: 'create', before: '', resourceVersion: '' } });
    expect(cluster.writes()).toEqual([]);
    const apply = (text: string, resourceVersion?: string) =>
      policies.apply({ cluster: 'fake', text, ...(resourceVersion === undefined ? {} : { resourceVersion }) }, context);
    expect(await apply(rule)).toMatchObject({ ok: true, value: { action: 'create' } });
    expect(await apply(rule)).toMatchObject({ ok: true, value: { action: 'unchanged' } });
    const read = await policies.read(
      { cluster: 'fake', id: { kind: 'CiliumNetworkPolicy', namespace: 'galaxy', name: 'rule1' } },
      context,
    );
    if (!read.ok) throw new Error(read.failure.what);
    expect(await apply(rule.replace('# keep', '\n      class: deathstar'), read.value.resourceVersion)).toMatchObject({
      ok: true,
      value: { action: 'update' },
    });
    expect(audit.entries.map((one) => `${one.action} ${one.result}`)).toEqual([
      'policies.create done',
      'policies.update unchanged',
      'policies.update done',
    ]);
    // What was read before is old now.
    cluster.rawAnswers.set('/apis/cilium.io/v2/namespaces/galaxy/ciliumnetworkpolicies/rule1', {
      metadata: {
        managedFields: [
          { manager: 'kubectl-edit', time: '2026-11-23T10:00:00Z' },
          { manager: 'agent', time: '2026-11-24T10:00:00Z', subresource: 'status' },
        ],
      },
    });
    const conflict = await apply(rule, read.value.resourceVersion);
    expect(conflict).toMatchObject({ ok: false, failure: { code: 'policies.conflict' } });
    if (!conflict.ok) expect(conflict.failure.why).toContain('kubectl-edit');
  });

  test('a policy that has appeared since the dry run is not overwritten, one that has gone is not made again', async () => {
    const apply = (resourceVersion: string) =>
      policies.apply({ cluster: 'fake', text: rule, resourceVersion }, context);
    expect(await apply('')).toMatchObject({ ok: true, value: { action: 'create' } });
    const writes = cluster.writes().length;
    expect(await apply('')).toMatchObject({ ok: false, failure: { code: 'policies.conflict' } });
    expect(cluster.writes()).toHaveLength(writes);
    const dry = await policies.dryRun({ cluster: 'fake', text: rule }, context);
    if (!dry.ok) throw new Error(dry.failure.what);
    expect(dry.value.resourceVersion).not.toBe('');
    expect(await apply(dry.value.resourceVersion)).toMatchObject({ ok: true, value: { action: 'unchanged' } });
    await policies.remove(
      { cluster: 'fake', id: { kind: 'CiliumNetworkPolicy', namespace: 'galaxy', name: 'rule1' } },
      context,
    );
    expect(await apply(dry.value.resourceVersion)).toMatchObject({ ok: false, failure: { code: 'policies.gone' } });
  });

  test('what the agents would not enforce is not stored', async () => {
    const result = await policies.apply(
      { cluster: 'fake', text: rule.replace('fromEndpoints', 'fromEndpoint') },
      context,
    );
    expect(result.ok).toBe(false);
    expect(cluster.writes()).toEqual([]);
  });

  test('protected clusters refuse writes', async () => {
    start(true);
    expect(await policies.apply({ cluster: 'fake', text: rule }, context)).toMatchObject({
      ok: false,
      failure: { code: 'cluster.protected' },
    });
    expect(
      await policies.remove({ cluster: 'fake', id: { kind: 'NetworkPolicy', namespace: 'a', name: 'b' } }, context),
    ).toMatchObject({ ok: false });
    expect(cluster.writes()).toEqual([]);
  });

  test('a kind that is not installed is named', async () => {
    cluster.drop(resources.customResourceDefinitions, 'ciliumnetworkpolicies.cilium.io');
    expect(await policies.dryRun({ cluster: 'fake', text: rule }, context)).toMatchObject({
      ok: false,
      failure: { code: 'policies.kind-missing' },
    });
  });

  test('the list follows pods and policies, and lets go of everything', async () => {
    const stop = new AbortController();
    const lists: (readonly { readonly selects: readonly string[] }[])[] = [];
    let wake: () => void = () => undefined;
    const next = async (count: number) => {
      while (lists.length < count)
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      return lists[count - 1];
    };
    const running = policies.watch(
      { cluster: 'fake' },
      {
        push: async (items) => {
          lists.push(...items.map((item) => item.policies));
          wake();
        },
      },
      { signal: stop.signal, connection: 'test' },
    );
    expect(await next(1)).toEqual([]);
    await policies.apply({ cluster: 'fake', text: rule }, context);
    expect(await next(2)).toMatchObject([
      { selects: ['galaxy/deathstar'], directions: ['ingress'], status: 'valid', enforcedOn: 0 },
    ]);
    cluster.put(resources.pods, {
      metadata: { name: 'second', namespace: 'galaxy', labels: { org: 'empire' } },
      status: { phase: 'Running' },
    });
    expect((await next(3))?.[0]?.selects).toEqual(['galaxy/deathstar', 'galaxy/second']);
    stop.abort();
    expect(await running).toBeUndefined();
    policies[Symbol.dispose]();
    expect(cluster.watches).toBe(0);
    expect(cluster.listening).toBe(0);
  });
});
