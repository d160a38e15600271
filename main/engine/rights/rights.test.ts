import { beforeEach, expect, test } from 'vitest';
import { failed, ok } from '../../../contract/failure.ts';
import { type Action, actionSchema } from '../../../contract/rights.ts';
import type { KubeObject } from '../kube/cluster-connection.ts';
import { FakeCluster, fakeConnections } from '../testing/fake-cluster.ts';
import { createRights, explain } from './index.ts';
import { needsOf } from './needs.ts';
import { grants, type ResourceRule } from './rules.ts';

const context = { signal: new AbortController().signal, connection: 'window' };

interface Attributes {
  readonly verb: string;
  readonly resource: string;
  readonly subresource?: string;
  readonly namespace?: string;
}

let cluster: FakeCluster;
/** Rules by namespace. */
let rules: Readonly<Record<string, readonly ResourceRule[]>>;
let incomplete: boolean;
/** Access reviews that were asked. */
let asked: Attributes[];

beforeEach(() => {
  cluster = new FakeCluster();
  rules = {};
  incomplete = false;
  asked = [];
  cluster.onReview = (kind, review) => {
    if (kind === 'SelfSubjectReview')
      return ok({ ...review, status: { userInfo: { username: 'ann' } } } as unknown as KubeObject);
    const { namespace } = (review as unknown as { spec: { namespace: string } }).spec;
    return ok({ ...review, status: { resourceRules: rules[namespace] ?? [], incomplete } } as unknown as KubeObject);
  };
  cluster.allowed = (review) => {
    asked.push((review as { spec: { resourceAttributes: Attributes } }).spec.resourceAttributes);
    return false;
  };
});

async function review(namespace: string, rights = createRights({ connections: fakeConnections(cluster) })) {
  const answer = await rights.review({ cluster: 'fake', namespace }, context);
  if (!answer.ok) throw new Error(answer.failure.why);
  return (action: Action) => answer.value.rights.find((right) => right.action === action);
}

test('a user with rights in one namespace has them there only, and is told what is missing elsewhere', async () => {
  rules = { galaxy: [{ verbs: ['*'], apiGroups: ['cilium.io', ''], resources: ['*'] }] };
  const there = await review('galaxy');
  expect(there('policies.create.CiliumNetworkPolicy')).toEqual({
    action: 'policies.create.CiliumNetworkPolicy',
    allowed: true,
    reason: '',
  });
  expect(there('terminals.debug')?.allowed).toBe(true);
  expect(there('policies.create.NetworkPolicy')?.allowed).toBe(false);
  // What is not of a namespace is not granted by the rules of one: it is asked of the cluster.
  expect(there('policies.create.CiliumClusterwideNetworkPolicy')?.allowed).toBe(false);
  expect(asked).toContainEqual({
    verb: 'create',
    group: 'cilium.io',
    resource: 'ciliumclusterwidenetworkpolicies',
  });
  // A pod on a node is made in kube-system, wherever one looks.
  expect(there('terminals.nodePod')?.allowed).toBe(false);
  const elsewhere = await review('default');
  expect(elsewhere('policies.create.CiliumNetworkPolicy')?.reason).toBe(
    'Your user “ann” may not create ciliumnetworkpolicies.cilium.io in namespace default. Ask whoever runs the cluster for this right, or use a context that has it.',
  );
});

test('a complete list is believed; an incomplete one is asked about, right by right', async () => {
  await review('default');
  expect(asked.filter(({ namespace }) => namespace === 'default')).toEqual([]);
  incomplete = true;
  await review('default');
  expect(asked).toContainEqual({ verb: 'delete', group: '', resource: 'pods', namespace: 'default' });
});

test('who may not even ask for the rules is asked about right by right', async () => {
  cluster.onReview = (kind) => failed({ code: 'kube.forbidden', what: `No ${kind}.`, why: 'RBAC', fix: 'ask' });
  cluster.allowed = () => true;
  const of = await review('default');
  expect(of('terminals.open')?.allowed).toBe(true);
});

test('answers are kept for a while, and forgotten when the cluster comes back or refuses something', async () => {
  let now = 1_000_000;
  const rights = createRights({ connections: fakeConnections(cluster), now: () => now });
  const count = async () => {
    const before = cluster.requests.length;
    await review('default', rights);
    return cluster.requests.length - before;
  };
  expect(await count()).toBeGreaterThan(0);
  expect(await count()).toBe(0);
  rights.forget(cluster);
  expect(await count()).toBeGreaterThan(0);
  now += 31_000;
  expect(await count()).toBeGreaterThan(0);
});

test('a right that was granted meanwhile is there at once for who asks anew', async () => {
  const rights = createRights({ connections: fakeConnections(cluster), now: () => 1_000_000 });
  const opens = async (anew?: boolean) => {
    const answer = await rights.review({ cluster: 'fake', namespace: 'default', ...(anew ? { anew } : {}) }, context);
    return answer.ok && answer.value.rights.find(({ action }) => action === 'terminals.open')?.allowed;
  };
  expect(await opens()).toBe(false);
  rules = { default: [{ verbs: ['*'], apiGroups: [''], resources: ['pods/exec'] }] };
  expect(await opens()).toBe(false);
  expect(await opens(true)).toBe(true);
  expect(await opens()).toBe(true);
});

test('an API server that does not answer is a failure, not a denial', async () => {
  cluster.onReview = () => failed({ code: 'cluster.gone', what: 'It broke.', why: 'closed', fix: 'again' });
  const rights = createRights({ connections: fakeConnections(cluster) });
  expect(await rights.review({ cluster: 'fake', namespace: 'default' }, context)).toMatchObject({
    ok: false,
    failure: { code: 'cluster.gone' },
  });
});

test.each<[string, ResourceRule, { verb: string; group: string; plural: string; subresource?: string }, boolean]>([
  ['everything', { verbs: ['*'], apiGroups: ['*'], resources: ['*'] }, { verb: 'x', group: 'g', plural: 'p' }, true],
  [
    'the thing',
    { verbs: ['get'], apiGroups: [''], resources: ['pods'] },
    { verb: 'get', group: '', plural: 'pods' },
    true,
  ],
  [
    'another verb',
    { verbs: ['get'], apiGroups: [''], resources: ['pods'] },
    { verb: 'list', group: '', plural: 'pods' },
    false,
  ],
  [
    'another group',
    { verbs: ['get'], apiGroups: ['apps'], resources: ['pods'] },
    { verb: 'get', group: '', plural: 'pods' },
    false,
  ],
  [
    'a resource but not what is below it',
    { verbs: ['*'], apiGroups: [''], resources: ['pods'] },
    { verb: 'create', group: '', plural: 'pods', subresource: 'exec' },
    false,
  ],
  [
    'below any resource',
    { verbs: ['*'], apiGroups: [''], resources: ['*/exec'] },
    { verb: 'create', group: '', plural: 'pods', subresource: 'exec' },
    true,
  ],
  [
    'some names only',
    { verbs: ['*'], apiGroups: [''], resources: ['pods'], resourceNames: ['a'] },
    { verb: 'delete', group: '', plural: 'pods' },
    false,
  ],
  ['no resources at all', { verbs: ['get'] }, { verb: 'get', group: '', plural: 'pods' }, false],
])('a rule for %s', (_name, rule, question, expected) => expect(grants([rule], question)).toBe(expected));

test('every action needs something', () => {
  for (const action of actionSchema.options) expect(needsOf(action).length, action).toBeGreaterThan(0);
});

test('a long list of what is missing is cut, and says so', () => {
  expect(explain('', needsOf('install.install'), '')).toMatch(
    /^Your user may not .*; .*; .*, and \d+ more\. Ask whoever runs the cluster for these rights/,
  );
});
