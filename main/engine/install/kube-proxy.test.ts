import { describe, expect, test } from 'vitest';
import { type Plan, type Values, valuesSchema } from '../../../contract/index.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import { FakeCluster, fakeSsh } from '../testing/fake-cluster.ts';
import {
  isSet,
  type ProxyWish,
  proxyBackup,
  proxyBackupName,
  proxyFacts,
  proxyManifest,
  proxySent,
} from './kube-proxy.ts';
import { cleaningPod } from './kube-proxy-steps.ts';
import { preparePlan } from './read.ts';

/** As kubeadm 1.34 makes it, after the API server has filled in its defaults. */
const kubeadm = {
  metadata: {
    name: 'kube-proxy',
    namespace: 'kube-system',
    uid: 'u',
    resourceVersion: '7',
    labels: { 'k8s-app': 'kube-proxy' },
    annotations: { 'deprecated.daemonset.template.generation': '1' },
  },
  spec: {
    selector: { matchLabels: { 'k8s-app': 'kube-proxy' } },
    template: {
      metadata: { labels: { 'k8s-app': 'kube-proxy' } },
      spec: {
        hostNetwork: true,
        nodeSelector: { 'kubernetes.io/os': 'linux' },
        serviceAccountName: 'kube-proxy',
        containers: [
          {
            name: 'kube-proxy',
            image: 'registry.k8s.io/kube-proxy:v1.34.4',
            command: [
              '/usr/local/bin/kube-proxy',
              '--config=/var/lib/kube-proxy/config.conf',
              '--hostname-override=$(NODE_NAME)',
            ],
            livenessProbe: { httpGet: { port: 10256 } },
            securityContext: { privileged: true },
            volumeMounts: [{ name: 'xtables-lock', mountPath: '/run/xtables.lock' }],
          },
        ],
        volumes: [{ name: 'xtables-lock', hostPath: { path: '/run/xtables.lock' } }],
      },
    },
  },
  status: { desiredNumberScheduled: 3 },
} as unknown as KubeObject;

const machines = (version: string, line: readonly string[] = []) => [{ version, arguments: line }];
const none = { daemonSets: [], backup: undefined, staticPods: [], machines: machines('v1.34.4') };

describe('who translates services', () => {
  test.each([
    ['nobody', none, 'none'],
    ['a DaemonSet of kubeadm', { ...none, daemonSets: [kubeadm] }, 'daemonset'],
    ['one for Windows alone', { ...none, daemonSets: [proxyManifest(windows())] }, 'none'],
    ['one that runs nowhere', { ...none, daemonSets: [{ ...kubeadm, status: { desiredNumberScheduled: 0 } }] }, 'none'],
    ['RKE2', { ...none, staticPods: [{ metadata: { name: 'kube-proxy-a' } }] }, 'static'],
    ['k3s', { ...none, machines: machines('v1.34.4+k3s1', ['server', '--flannel-backend', 'none']) }, 'embedded'],
    ['k3s without it', { ...none, machines: machines('v1.34.4+k3s1', ['server', '--disable-kube-proxy']) }, 'none'],
  ] as const)('%s', (_name, sources, kind) => {
    const facts = proxyFacts(sources as Parameters<typeof proxyFacts>[0]);
    expect(facts.kind).toBe(kind);
    expect(facts.text).not.toBe('');
  });

  test('one that was taken away is known by its copy, and so is one that is halfway', () => {
    const backup = (state: 'removing' | 'removed') => proxyBackup(kubeadm, state).object;
    const away = { ...proxySent(kubeadm, true), status: { desiredNumberScheduled: 0 } } as KubeObject;
    expect(proxyFacts({ ...none, daemonSets: [away], backup: backup('removed') })).toMatchObject({
      kind: 'removed',
      unfinished: false,
      saved: proxyManifest(kubeadm),
    });
    expect(proxyFacts({ ...none, daemonSets: [kubeadm], backup: backup('removing') })).toMatchObject({
      kind: 'removed',
      unfinished: true,
    });
  });

  test('a switch is read in every spelling', () => {
    expect(isSet(['--disable-kube-proxy'], 'disable-kube-proxy')).toBe(true);
    expect(isSet(['--disable-kube-proxy', '--debug'], 'disable-kube-proxy')).toBe(true);
    expect(isSet(['--disable-kube-proxy=false'], 'disable-kube-proxy')).toBe(false);
    expect(isSet(['--disable-kube-proxy', 'false'], 'disable-kube-proxy')).toBe(false);
    expect(isSet(['--disable'], 'disable-kube-proxy')).toBe(false);
  });
});

function windows(): KubeObject {
  const copy = structuredClone(kubeadm) as unknown as {
    spec: { template: { spec: { nodeSelector: Record<string, string> } } };
  };
  copy.spec.template.spec.nodeSelector = { 'kubernetes.io/os': 'windows' };
  return copy as unknown as KubeObject;
}

test('sent away and back it is what it was, with selectors of others and without any', () => {
  expect(proxySent(proxySent(kubeadm, true), false)).toEqual(kubeadm);
  const bare = structuredClone(kubeadm) as unknown as { spec: { template: { spec: { nodeSelector?: object } } } };
  delete bare.spec.template.spec.nodeSelector;
  const object = bare as unknown as KubeObject;
  expect(proxySent(object, true)).not.toEqual(object);
  expect(proxySent(proxySent(object, true), false)).toEqual(object);
});

describe('the pod that cleans', () => {
  const container = (spec: Readonly<Record<string, unknown>>) =>
    (spec.containers as readonly Readonly<Record<string, unknown>>[])[0] ?? {};

  test('is kube-proxy’s own, told to clean up', () => {
    const spec = cleaningPod(kubeadm);
    expect(container(spec)).toEqual({
      name: 'kube-proxy',
      image: 'registry.k8s.io/kube-proxy:v1.34.4',
      command: ['/usr/local/bin/kube-proxy', '--cleanup'],
      securityContext: { privileged: true },
      volumeMounts: [{ name: 'xtables-lock', mountPath: '/run/xtables.lock' }],
    });
    expect(spec).toMatchObject({ hostNetwork: true, serviceAccountName: 'kube-proxy' });
    expect(spec.nodeSelector).toBeUndefined();
  });

  test.each([
    [
      ['/bin/sh', '-c', 'kube-proxy --config=/x 1>>/var/log/kube-proxy.log 2>&1'],
      { command: ['kube-proxy', '--cleanup'] },
    ],
    [['kube-proxy', '--v=2', '--config=/var/lib/kube-proxy-config/config'], { command: ['kube-proxy', '--cleanup'] }],
    [undefined, { args: ['--cleanup'] }],
  ])('of %s', (command, expected) => {
    const copy = structuredClone(kubeadm) as unknown as {
      spec: { template: { spec: { containers: { command?: unknown; args?: unknown }[] } } };
    };
    const [only] = copy.spec.template.spec.containers;
    if (only && command) only.command = command;
    else if (only) {
      delete only.command;
      only.args = ['--config=/x'];
    }
    expect(container(cleaningPod(copy as unknown as KubeObject))).toMatchObject(expected);
  });
});

describe('a plan', () => {
  const values: Values = valuesSchema.parse({ k8sServiceHost: '172.31.77.10', k8sServicePort: 6443 });
  const image = { path: '', name: 'a:1', digest: '', reference: 'a:1', bytes: 1 };

  async function plan(
    action: Plan['action'],
    kubeProxy: ProxyWish | undefined,
    given: Partial<Values> = {},
    before: (cluster: FakeCluster) => void = (cluster) => cluster.put(resources.daemonSets, kubeadm),
    leaveOut?: readonly string[],
  ): Promise<{ readonly plan: Plan; readonly cluster: FakeCluster }> {
    const cluster = new FakeCluster();
    cluster.put(resources.nodes, {
      metadata: { name: 'n1' },
      spec: { podCIDR: '10.77.1.0/24' },
      status: { nodeInfo: { operatingSystem: 'linux', kubeletVersion: 'v1.34.4' }, images: [{ names: ['a:1'] }] },
    });
    before(cluster);
    const written = cluster.writes().length;
    const prepared = await preparePlan(
      cluster,
      fakeSsh(),
      image,
      action,
      { ...values, ...given },
      { kubeProxy, leaveOut },
    );
    if (!prepared.ok) throw new Error(prepared.failure.what);
    expect(cluster.writes().length).toBe(written);
    return { plan: prepared.value.plan, cluster };
  }
  const taken = (cluster: FakeCluster, state: 'removing' | 'removed' = 'removed') => {
    cluster.put(resources.daemonSets, { ...proxySent(kubeadm, true), status: { desiredNumberScheduled: 0 } });
    cluster.put(resources.configMaps, proxyBackup(kubeadm, state).object);
  };
  const codes = (one: Plan) => one.obstacles.map(({ code }) => code);

  const machine = (name: string, status: string) => ({
    metadata: { name },
    spec: { podCIDR: '10.77.2.0/24' },
    status: {
      nodeInfo: { operatingSystem: 'linux', kubeletVersion: 'v1.34.4' },
      images: [{ names: ['a:1'] }],
      conditions: [{ type: 'Ready', status }],
    },
  });
  const silent = (cluster: FakeCluster) => {
    cluster.put(resources.daemonSets, kubeadm);
    cluster.put(resources.nodes, machine('n2', 'Unknown'));
  };

  test('goes on without a node that does not answer where the operator says so, by name', async () => {
    const { plan: refused } = await plan('upgrade', 'remove', {}, silent);
    expect(refused.kubeProxy).toMatchObject({ silent: ['n2'], leavesOut: [] });
    expect(refused.obstacles.find(({ code }) => code === 'install.node-silent')?.fix).toContain('--leave-out n2');
    const { plan: made } = await plan('upgrade', 'remove', {}, silent, ['n2']);
    expect(codes(made)).toEqual([]);
    expect(made.kubeProxy).toMatchObject({ change: 'remove', silent: [], leavesOut: ['n2'] });
    expect(made.batches).toEqual([['n1']]);
    expect(made.nodes.find(({ name }) => name === 'n2')?.changes).toEqual(['Left out: it does not answer.']);
    expect(made.warnings.some((text) => text.startsWith('n2 does not answer and is left out.'))).toBe(true);
    expect(made.objects.find(({ name }) => name === proxyBackupName)?.after).toContain('leftOut: n2');
    // One that answers is not left out, whatever was said; another that does not answer is named.
    const two = (cluster: FakeCluster) => {
      silent(cluster);
      cluster.put(resources.nodes, machine('n3', 'Unknown'));
    };
    const { plan: other } = await plan('upgrade', 'remove', {}, two, ['n1', 'n2']);
    expect(other.kubeProxy).toMatchObject({ change: 'none', silent: ['n3'], leavesOut: [] });
    expect(other.obstacles.find(({ code }) => code === 'install.node-silent')?.what).toBe(
      'n3 does not answer, so kube-proxy cannot be removed there.',
    );
    // Nothing else is done without a node.
    const { plan: kept } = await plan('upgrade', 'keep', {}, silent, ['n2']);
    expect(kept.kubeProxy.leavesOut).toEqual([]);
    expect(kept.batches.flat().toSorted()).toEqual(['n1', 'n2']);
  });

  test('lists a node that was left out, and takes its rules away when it answers again', async () => {
    const left = (status: string) => (cluster: FakeCluster) => {
      cluster.put(resources.daemonSets, { ...proxySent(kubeadm, true), status: { desiredNumberScheduled: 0 } });
      cluster.put(resources.configMaps, proxyBackup(kubeadm, 'removed', ['n2', 'gone']).object);
      cluster.put(resources.nodes, machine('n2', status));
    };
    const { plan: later } = await plan('upgrade', undefined, {}, left('True'));
    expect(later.kubeProxy).toMatchObject({ kind: 'removed', unfinished: true, change: 'none' });
    expect(later.kubeProxy.text).toContain('Left out, because no answer came: n2. ');
    const { plan: on } = await plan('upgrade', 'remove', {}, left('True'));
    expect(codes(on)).toEqual([]);
    expect(on.kubeProxy).toMatchObject({ change: 'remove', leavesOut: [] });
    const { plan: still } = await plan('upgrade', 'remove', {}, left('Unknown'));
    expect(still.kubeProxy).toMatchObject({ change: 'none', silent: ['n2'] });
    const { plan: back } = await plan('upgrade', 'restore', {}, left('True'));
    expect(back.objects.find(({ name }) => name === proxyBackupName)).toMatchObject({ action: 'delete' });
  });

  test('is refused where a node does not answer, names it and says what to do; bringing back is not', async () => {
    const { plan: refused } = await plan('upgrade', 'remove', {}, silent);
    const obstacle = refused.obstacles.find(({ code }) => code === 'install.node-silent');
    expect(obstacle?.what).toBe('n2 does not answer, so kube-proxy cannot be removed there.');
    expect(obstacle?.fix).toContain('kubectl delete node n2');
    expect(refused.kubeProxy.change).toBe('none');
    const { plan: back } = await plan('upgrade', 'restore', {}, (cluster) => {
      silent(cluster);
      cluster.put(resources.configMaps, proxyBackup(kubeadm, 'removed').object);
    });
    expect(back.kubeProxy.change).toBe('restore');
    expect(back.obstacles.map(({ code }) => code)).not.toContain('install.node-silent');
  });

  test('leaves it alone unless told, and says that it is there', async () => {
    const { plan: made } = await plan('install', undefined);
    expect(made.kubeProxy).toMatchObject({ kind: 'daemonset', change: 'none' });
    expect(made.objects.some(({ name }) => name === 'kube-proxy')).toBe(false);
    expect(made.obstacles).toEqual([]);
  });

  test('that removes it shows the copy and the change, and is another plan', async () => {
    const kept = await plan('install', 'keep');
    const { plan: made } = await plan('install', 'remove');
    expect(made.obstacles).toEqual([]);
    expect(made.kubeProxy.change).toBe('remove');
    expect(made.digest).not.toBe(kept.plan.digest);
    const [backup, set] = made.objects.slice(-2);
    expect(backup).toMatchObject({ kind: 'ConfigMap', name: proxyBackupName, action: 'create' });
    expect(backup?.after).toContain('registry.k8s.io/kube-proxy:v1.34.4');
    expect(set).toMatchObject({ kind: 'DaemonSet', name: 'kube-proxy', action: 'update' });
    expect(set?.before).not.toContain('fairlead.dev/kube-proxy');
    expect(set?.after).toContain('fairlead.dev/kube-proxy: replaced');
    expect(made.nodes[0]?.changes.at(-1)).toContain('kube-proxy');
  });

  test('says who loses external addresses with it, unless pods are to be served there', async () => {
    const service = (name: string, externalIPs: readonly string[]) => ({
      metadata: { name, namespace: 'shop' },
      spec: { externalIPs },
    });
    const before = (cluster: FakeCluster) => {
      cluster.put(resources.daemonSets, kubeadm);
      cluster.put(resources.services, service('web', ['203.0.113.7']));
      cluster.put(resources.services, service('inner', []));
    };
    const about = async (externalIPs: Values['externalIPs']) =>
      (await plan('install', 'remove', { externalIPs }, before)).plan.warnings.filter((text) => text.includes('shop/'));
    const [warning, ...others] = await about({ enabled: true, fromPods: false });
    expect(warning).toContain('external addresses of shop/web by kube-proxy');
    expect(warning).toContain('set externalIPs.fromPods');
    expect(others).toEqual([]);
    expect(await about({ enabled: true, fromPods: true })).toEqual([]);
    expect(await about({ enabled: false, fromPods: true })).toHaveLength(1);
  });

  test('refuses what would leave the cluster without services', async () => {
    expect(
      codes(
        (await plan('install', 'remove', { kubeProxyReplacement: false, bpf: { ...values.bpf, masquerade: false } }))
          .plan,
      ),
    ).toEqual(['install.kube-proxy-needed']);
    expect(codes((await plan('install', 'remove', { k8sServiceHost: '' })).plan)).toContain(
      'install.value.k8sServiceHost',
    );
    expect(codes((await plan('upgrade', 'restore')).plan)).toEqual(['install.kube-proxy-there']);
  });

  test('goes on where taking it away has broken off', async () => {
    const { plan: made } = await plan('upgrade', 'remove', {}, (cluster) => taken(cluster, 'removing'));
    expect(made.kubeProxy).toMatchObject({ kind: 'removed', unfinished: true, change: 'remove' });
    expect((await plan('upgrade', 'remove', {}, taken)).plan.kubeProxy.change).toBe('none');
  });

  test('brings it back first: when asked, on uninstall, and for values that need it', async () => {
    for (const [action, wish, given] of [
      ['upgrade', 'restore', {}],
      ['uninstall', undefined, {}],
      ['uninstall', 'remove', {}],
      ['upgrade', undefined, { kubeProxyReplacement: false, bpf: { ...values.bpf, masquerade: false } }],
    ] as const) {
      const { plan: made } = await plan(action, wish, given, taken);
      expect(made.kubeProxy.change, action).toBe('restore');
      expect(made.objects[0]).toMatchObject({ kind: 'DaemonSet', name: 'kube-proxy', action: 'update' });
      expect(made.objects[0]?.after).not.toContain('fairlead.dev/kube-proxy');
      expect(made.objects[1]).toMatchObject({ name: proxyBackupName, action: 'delete' });
      expect(codes(made).filter((code) => code.startsWith('install.value'))).toEqual([]);
    }
  });

  test('makes it anew where its DaemonSet was deleted meanwhile', async () => {
    const { plan: made } = await plan('upgrade', 'restore', {}, (cluster) =>
      cluster.put(resources.configMaps, proxyBackup(kubeadm, 'removed').object),
    );
    expect(made.objects[0]).toMatchObject({ kind: 'DaemonSet', name: 'kube-proxy', action: 'create' });
  });
});
