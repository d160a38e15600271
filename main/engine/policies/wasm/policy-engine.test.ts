import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadPolicyEngine, type PolicyEngine } from './policy-engine.ts';
import type { PolicyPod } from './types.ts';

const root = join(import.meta.dirname, '..', '..', '..', '..');
let engine: PolicyEngine;

beforeAll(async () => {
  const built = spawnSync(process.execPath, [join(root, 'scripts', 'build-policy-wasm.mjs')], { encoding: 'utf8' });
  expect(built.stderr).toBe('');
  engine = await loadPolicyEngine(join(root, 'out', 'wasm'));
}, 120_000);

const galaxy = (name: string, labels: Record<string, string>): PolicyPod => ({
  namespace: 'galaxy',
  name,
  labels,
  serviceAccount: 'default',
  ports: { http: [{ protocol: 6, port: 80 }] },
});
const pods = [
  galaxy('deathstar', { org: 'empire', class: 'deathstar', 'pod-template-hash': 'abc' }),
  galaxy('tiefighter', { org: 'empire', class: 'tiefighter' }),
  galaxy('xwing', { org: 'alliance', class: 'xwing' }),
];
const deathstarPolicy = {
  apiVersion: 'cilium.io/v2',
  kind: 'CiliumNetworkPolicy',
  metadata: { name: 'rule1', namespace: 'galaxy' },
  spec: {
    endpointSelector: { matchLabels: { org: 'empire', class: 'deathstar' } },
    ingress: [
      {
        fromEndpoints: [{ matchLabels: { org: 'empire' } }],
        toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }] }],
      },
    ],
  },
};

describe('policy engine in WebAssembly', () => {
  it('validates and says what a policy means', () => {
    expect(engine.validate(deathstarPolicy)).toMatchObject({
      ref: { kind: 'CiliumNetworkPolicy', namespace: 'galaxy', name: 'rule1' },
      valid: true,
      problems: [],
      ingress: true,
      egress: false,
      defaultDenyIngress: true,
      selector: 'class=deathstar, org=empire',
      meaning: [
        'Governs pods with class=deathstar, org=empire of namespace galaxy.',
        'They may receive TCP 80 from pods with org=empire of namespace galaxy.',
        'Everything else that they would receive is dropped.',
      ],
    });
  });

  it('reports every problem with path, reason and fix', () => {
    const answer = engine.validate({
      ...deathstarPolicy,
      spec: {
        endpointSelector: {},
        ingress: [{ fromEndpoint: [{}], toPorts: [{ ports: [{ port: '70000', protocol: 'tcp' }] }] }],
        egress: [{ toGroups: [{ aws: { region: 'eu-central-1' } }] }],
      },
    });
    expect(answer.valid).toBe(false);
    expect(answer.problems.map((problem) => `${problem.path}: ${problem.what}`)).toEqual([
      'spec.ingress[0].fromEndpoint: unknown field, did you mean fromEndpoints?',
      'spec.ingress[0].toPorts[0].ports[0].protocol: "tcp" is not a protocol',
      'spec.egress[0].toGroups: selecting cloud machines by group cannot be enforced by this version',
    ]);
    for (const problem of answer.problems) expect(problem.why && problem.fix).toBeTruthy();
  });

  it('answers a document that is no policy at all with problems', () => {
    for (const document of [null, undefined, 7, 'text', [], {}, { kind: 'Pod' }, { kind: 'NetworkPolicy', spec: 1 }]) {
      const answer = engine.validate(document);
      expect(answer.valid).toBe(false);
      expect(answer.problems.length).toBeGreaterThan(0);
    }
  });

  it('tells which pods are selected', () => {
    expect(engine.selected({ policy: deathstarPolicy, pods })).toEqual({ valid: true, problems: [], pods: [0] });
  });

  it('knows groups of ranges and services where it is told of them', () => {
    const policy = {
      ...deathstarPolicy,
      spec: {
        endpointSelector: { matchLabels: { class: 'deathstar' } },
        egress: [
          { toCIDRSet: [{ cidrGroupRef: 'partners' }] },
          { toServices: [{ k8sService: { serviceName: 'hangar', namespace: 'galaxy' } }] },
        ],
      },
    };
    expect(engine.validate(policy)).toMatchObject({
      valid: true,
      references: ['the CIDR group partners', 'the service galaxy/hangar'],
      requires: [],
    });
    const queries = [
      { from: { pod: 0 }, to: { address: '198.51.100.10' }, protocol: 6, port: 443 },
      { from: { pod: 0 }, to: { pod: 1 }, protocol: 6, port: 443 },
      { from: { pod: 0 }, to: { pod: 2 }, protocol: 6, port: 443 },
    ];
    const allowed = (more: object): boolean[] =>
      engine
        .verdicts({ policies: [policy], pods, queries, ...more })
        .verdicts.map((verdict) => verdict.egress?.allowed === true);
    expect(allowed({})).toEqual([false, false, false]);
    expect(
      allowed({
        groups: [{ name: 'partners', prefixes: ['198.51.100.0/24'] }],
        services: [{ namespace: 'galaxy', name: 'hangar', selector: { org: 'empire' } }],
      }),
    ).toEqual([true, true, false]);
    const host = { ...policy, kind: 'CiliumClusterwideNetworkPolicy', metadata: { name: 'host' } };
    expect(
      engine.validate({ ...host, spec: { nodeSelector: {}, ingress: [{ fromEntities: ['cluster'] }] } }),
    ).toMatchObject({ valid: true, requires: ['hostFirewall.enabled'], selector: 'all nodes' });
  });

  it('takes an ipBlock for addresses, those of pods too, and tells pods of the same labels apart by them', () => {
    const block = {
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: { name: 'block', namespace: 'galaxy' },
      spec: {
        podSelector: { matchLabels: { class: 'deathstar' } },
        ingress: [{ from: [{ ipBlock: { cidr: '10.0.0.0/16', except: ['10.0.3.0/24'] } }] }],
      },
    };
    const ship = { namespace: 'galaxy', labels: { class: 'xwing' } };
    const there = [
      { namespace: 'galaxy', name: 'deathstar', labels: { class: 'deathstar' }, addresses: ['10.0.1.1'] },
      { ...ship, name: 'in', addresses: ['10.0.2.1'] },
      { ...ship, name: 'excepted', addresses: ['10.0.3.1'] },
      { ...ship, name: 'elsewhere', addresses: ['10.1.0.1'] },
    ];
    const { verdicts } = engine.verdicts({
      policies: [block],
      pods: there,
      queries: [1, 2, 3].map((pod) => ({ from: { pod }, to: { pod: 0 }, protocol: 6, port: 80 })),
    });
    expect(verdicts.map((verdict) => verdict.allowed)).toEqual([true, false, false]);
    const { groups, changes } = engine.explain({ policies: [], candidate: block, pods: there });
    expect(groups.map((group) => group.pods)).toEqual([[0], [1], [2], [3]]);
    const closed = new Set(changes.map((change) => change.peer));
    expect([1, 2, 3].map((group) => closed.has(group))).toEqual([false, true, true]);
  });

  it('decides on connections, naming the rule', () => {
    const { verdicts } = engine.verdicts({
      policies: [deathstarPolicy],
      pods,
      queries: [
        { from: { pod: 1 }, to: { pod: 0 }, protocol: 6, port: 80 },
        { from: { pod: 2 }, to: { pod: 0 }, protocol: 6, port: 80 },
        { from: { pod: 1 }, to: { pod: 0 }, protocol: 6, port: 443 },
        { from: { entity: 'host' }, to: { pod: 0 }, protocol: 6, port: 443 },
        { from: { address: '198.51.100.10' }, to: { pod: 0 }, protocol: 6, port: 80 },
        { from: { pod: 0 }, to: { pod: 2 }, protocol: 6, port: 80 },
      ],
    });
    expect(verdicts.map((verdict) => [verdict.allowed, verdict.ingress?.reason])).toEqual([
      [true, 'allowed-by-rule'],
      [false, 'default-deny'],
      [false, 'default-deny'],
      [true, 'allowed-by-rule'],
      [false, 'default-deny'],
      [true, 'no-policy'],
    ]);
    expect(verdicts[0]?.ingress?.rules).toEqual([
      {
        policy: { kind: 'CiliumNetworkPolicy', namespace: 'galaxy', name: 'rule1' },
        rule: 0,
        section: 'ingress',
        index: 0,
        path: 'spec.ingress[0]',
      },
    ]);
    expect(verdicts[1]?.ingress?.policies.map((policy) => policy.name)).toEqual(['rule1']);
  });

  it('explains what a policy would change', () => {
    const answer = engine.explain({ policies: [], candidate: deathstarPolicy, pods });
    expect(answer.selected).toEqual([0]);
    expect(answer.truncated).toBe(false);
    expect(answer.changes.every((change) => change.before.allowed && !change.after.allowed)).toBe(true);
    const tcp80 = answer.changes.filter((change) => change.protocol === 6 && change.port === 80);
    const denied = tcp80.map((change) => change.entity ?? pods[answer.groups[change.peer ?? -1]?.pods[0] ?? -1]?.name);
    expect(denied).toEqual(['xwing', 'remote-node', 'kube-apiserver', 'world']);
    // In force already: nothing changes.
    expect(engine.explain({ policies: [deathstarPolicy], candidate: deathstarPolicy, pods }).changes).toEqual([]);
  });

  it('knows the identity labels of a pod', () => {
    expect(engine.labels({ pods: pods.slice(0, 1) }).labels).toEqual([
      [
        'k8s:class=deathstar',
        'k8s:io.cilium.k8s.policy.cluster=default',
        'k8s:io.cilium.k8s.policy.serviceaccount=default',
        'k8s:io.kubernetes.pod.namespace=galaxy',
        'k8s:org=empire',
      ],
    ]);
  });

  it('refuses a query about a pod that is not there', () => {
    const queries = [{ from: { pod: 9 }, to: { pod: 0 }, protocol: 6, port: 80 }];
    expect(() => engine.verdicts({ policies: [], pods, queries })).toThrow(/there is no pod 9/);
  });
});
