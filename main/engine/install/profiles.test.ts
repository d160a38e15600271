import { describe, expect, test } from 'vitest';
import { type Values, valuesSchema, withValue } from '../../../contract/index.ts';
import { resources } from '../kube/cluster-connection.ts';
import { FakeCluster, fakeSsh } from '../testing/fake-cluster.ts';
import { type ClusterFacts, readFacts, serverOf } from './facts.ts';
import { profiles } from './profiles.ts';
import { preparePlan } from './read.ts';
import { suggestValues } from './values.ts';

/** What of a node object decides, as `kubectl get node -o json` gives it. */
interface Recorded {
  readonly name: string;
  readonly address: string;
  readonly podCIDR?: string;
  readonly providerID?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly version: string;
  readonly runtime: string;
  readonly image: string;
  readonly kernel: string;
}

function node({ name, address, podCIDR, providerID, labels, annotations, version, runtime, image, kernel }: Recorded) {
  return {
    metadata: { name, labels: { 'kubernetes.io/os': 'linux', ...labels }, annotations },
    spec: { ...(podCIDR ? { podCIDR, podCIDRs: [podCIDR] } : {}), ...(providerID ? { providerID } : {}) },
    status: {
      addresses: [
        { type: 'InternalIP', address },
        { type: 'Hostname', address: name },
      ],
      conditions: [{ type: 'Ready', status: 'True' }],
      nodeInfo: {
        operatingSystem: 'linux',
        kernelVersion: kernel,
        kubeletVersion: version,
        osImage: image,
        containerRuntimeVersion: runtime,
      },
      images: [{ names: ['a:1'] }],
    },
  };
}

/** k3s as it installs itself: one server, one agent. */
function k3s(version: string, more: readonly string[], flannel = true): FakeCluster {
  const cluster = new FakeCluster();
  const annotations = (line: readonly string[], mac: string) => ({
    'alpha.kubernetes.io/provided-node-ip': '192.168.1.10',
    'k3s.io/hostname': 'server',
    'k3s.io/node-args': JSON.stringify(line),
    'k3s.io/node-config-hash': 'LXZ3NQ2SIKEPKJGDYUXKF3R6UJJH2JOEKGIXVHQ2DRFZ4BWC2SVQ====',
    ...(flannel
      ? {
          'flannel.alpha.coreos.com/backend-data': JSON.stringify({ VNI: 1, VtepMAC: mac }),
          'flannel.alpha.coreos.com/backend-type': 'vxlan',
          'flannel.alpha.coreos.com/kube-subnet-manager': 'true',
          'flannel.alpha.coreos.com/public-ip': '192.168.1.10',
        }
      : {}),
  });
  const common = {
    version,
    runtime: 'containerd://1.7.23-k3s2',
    image: 'Debian GNU/Linux 12 (bookworm)',
    kernel: '6.1.0-28-amd64',
  };
  cluster.put(
    resources.nodes,
    node({
      ...common,
      name: 'server',
      address: '192.168.1.10',
      podCIDR: '10.42.0.0/24',
      providerID: 'k3s://server',
      labels: { 'node-role.kubernetes.io/control-plane': 'true', 'node.kubernetes.io/instance-type': 'k3s' },
      annotations: annotations(['server', ...more], '46:b9:0f:9c:bd:f8'),
    }),
  );
  cluster.put(
    resources.nodes,
    node({
      ...common,
      name: 'agent',
      address: '192.168.1.11',
      podCIDR: '10.42.1.0/24',
      providerID: 'k3s://agent',
      annotations: annotations(['agent'], '46:b9:0f:9c:bd:f9'),
    }),
  );
  apiServers(cluster, ['192.168.1.10'], 6443);
  return cluster;
}

function apiServers(cluster: FakeCluster, addresses: readonly string[], port: number): void {
  cluster.put(resources.endpoints, {
    metadata: { name: 'kubernetes', namespace: 'default' },
    subsets: [{ addresses: addresses.map((ip) => ({ ip })), ports: [{ name: 'https', port }] }],
  });
}

function proxySet(image: string, command: readonly string[]) {
  return {
    metadata: { name: 'kube-proxy', namespace: 'kube-system', labels: { 'k8s-app': 'kube-proxy' } },
    spec: {
      template: {
        metadata: { labels: { 'k8s-app': 'kube-proxy' } },
        spec: { containers: [{ name: 'kube-proxy', image, command }] },
      },
    },
    status: { desiredNumberScheduled: 2 },
  };
}

/** EKS 1.31 with its add-ons, as eksctl makes it: addresses of pods come from the VPC, and no node has a pod CIDR. */
function eks(podCIDRs: readonly (string | undefined)[] = [undefined, undefined]): FakeCluster {
  const cluster = new FakeCluster();
  for (const [index, podCIDR] of podCIDRs.entries())
    cluster.put(
      resources.nodes,
      node({
        name: `ip-192-168-${index}-17.eu-west-1.compute.internal`,
        address: `192.168.${index}.17`,
        ...(podCIDR ? { podCIDR } : {}),
        providerID: `aws:///eu-west-1${'ab'[index]}/i-0a1b2c3d4e5f6789${index}`,
        labels: { 'eks.amazonaws.com/nodegroup': 'workers', 'node.kubernetes.io/instance-type': 'm6i.large' },
        version: 'v1.31.3-eks-59bf375',
        runtime: 'containerd://1.7.23',
        image: 'Amazon Linux 2023.6.20241212',
        kernel: '6.1.119-129.201.amzn2023.x86_64',
      }),
    );
  cluster.put(resources.daemonSets, {
    metadata: { name: 'aws-node', namespace: 'kube-system', labels: { 'k8s-app': 'aws-node' } },
    status: { desiredNumberScheduled: 2 },
  });
  cluster.put(
    resources.daemonSets,
    proxySet('602401143452.dkr.ecr.eu-west-1.amazonaws.com/eks/kube-proxy:v1.31.2-minimal-eksbuild.3', [
      'kube-proxy',
      '--v=2',
      '--config=/var/lib/kube-proxy-config/config',
    ]),
  );
  cluster.put(resources.configMaps, {
    metadata: { name: 'kube-proxy', namespace: 'kube-system' },
    data: {
      kubeconfig:
        'kind: Config\napiVersion: v1\nclusters:\n- cluster:\n    certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt\n    server: https://0123456789abcdef0123456789abcdef.gr7.eu-west-1.eks.amazonaws.com\n  name: default\n',
    },
  });
  apiServers(cluster, ['192.168.101.5', '192.168.170.9'], 443);
  return cluster;
}

/** kubeadm 1.34 with three control planes behind a balancer. */
function kubeadm(): FakeCluster {
  const cluster = new FakeCluster();
  for (const index of [1, 2, 3])
    cluster.put(
      resources.nodes,
      node({
        name: `cp${index}`,
        address: `10.0.0.1${index}`,
        podCIDR: `10.244.${index}.0/24`,
        labels: { 'node-role.kubernetes.io/control-plane': '' },
        annotations: { 'kubeadm.alpha.kubernetes.io/cri-socket': 'unix:///var/run/containerd/containerd.sock' },
        version: 'v1.34.4',
        runtime: 'containerd://2.1.4',
        image: 'Ubuntu 24.04.1 LTS',
        kernel: '6.8.0-51-generic',
      }),
    );
  cluster.put(
    resources.daemonSets,
    proxySet('registry.k8s.io/kube-proxy:v1.34.4', [
      '/usr/local/bin/kube-proxy',
      '--config=/var/lib/kube-proxy/config.conf',
      '--hostname-override=$(NODE_NAME)',
    ]),
  );
  cluster.put(resources.configMaps, {
    metadata: { name: 'kube-proxy', namespace: 'kube-system' },
    data: {
      'config.conf':
        'apiVersion: kubeproxy.config.k8s.io/v1alpha1\nclientConnection:\n  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n',
      'kubeconfig.conf':
        'apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt\n    server: https://k8s.example.org:6443\n  name: default\n',
    },
  });
  apiServers(cluster, ['10.0.0.11', '10.0.0.12', '10.0.0.13'], 6443);
  return cluster;
}

async function factsOf(cluster: FakeCluster): Promise<ClusterFacts> {
  const facts = await readFacts(cluster, fakeSsh());
  if (!facts.ok) throw new Error(facts.failure.what);
  return facts.value;
}

/** The profile that is recognised, its values, and what a plan with them says. */
async function look(cluster: FakeCluster) {
  const facts = await factsOf(cluster);
  const profile = profiles.find(({ recognised }) => recognised(facts));
  const { values: suggested } = suggestValues(valuesSchema.parse({}), facts);
  const values = profile?.values(suggested, facts) as Values;
  const image = { path: '', name: 'a:1', digest: '', reference: 'a:1', bytes: 1 };
  const prepared = await preparePlan(cluster, fakeSsh(), image, 'install', values);
  if (!prepared.ok) throw new Error(prepared.failure.what);
  return { facts, profile, values, plan: prepared.value.plan };
}
const codes = (plan: { readonly obstacles: readonly { readonly code: string }[] }) =>
  plan.obstacles.map(({ code }) => code);

describe('k3s', () => {
  const prepared = ['--flannel-backend=none', '--disable-network-policy', '--disable-kube-proxy'];

  test('as it installs itself: flannel stands in the way, by its own way out', async () => {
    const { profile, plan, facts } = await look(k3s('v1.31.4+k3s1', []));
    expect(profile?.id).toBe('k3s');
    expect(codes(plan)).toEqual(['install.other-network']);
    expect(plan.obstacles[0]).toMatchObject({ what: expect.stringContaining('k3s process of agent, server') });
    expect(plan.obstacles[0]?.fix).toContain('--flannel-backend=none --disable-network-policy');
    expect(plan.warnings.join()).toContain('--disable-network-policy');
    // Nobody would translate services if it were taken for a cluster without kube-proxy.
    expect(facts).toMatchObject({ kubeProxy: true, proxy: { kind: 'embedded' } });
    expect(plan.kubeProxy.text).toContain('--disable-kube-proxy');
  });

  test('with everything of its own switched off is ready, with its own directories', async () => {
    const { values, plan } = await look(k3s('v1.31.4+k3s1', prepared, false));
    expect(plan.obstacles).toEqual([]);
    expect(plan.warnings.join()).not.toContain('network policy controller');
    expect(values).toMatchObject({
      kubeProxyReplacement: true,
      k8sServiceHost: '192.168.1.10',
      k8sServicePort: 6443,
      cni: { binPath: '/var/lib/rancher/k3s/data/cni', confPath: '/var/lib/rancher/k3s/agent/etc/cni/net.d' },
    });
    const daemonSet = plan.objects.find(({ kind }) => kind === 'DaemonSet')?.after ?? '';
    expect(daemonSet).toContain('path: /var/lib/rancher/k3s/agent/etc/cni/net.d');
    expect(daemonSet).toContain('path: /var/lib/rancher/k3s/data/cni');
  });

  test('flannel’s annotations of earlier days prove nothing once its servers are told', async () => {
    for (const line of [['--flannel-backend=none'], ['--flannel-backend', 'none']]) {
      const { plan } = await look(k3s('v1.31.4+k3s1', line));
      expect(codes(plan)).toEqual([]);
      expect(plan.warnings.join()).toContain('network policy controller');
    }
  });

  test.each([
    ['v1.28.14+k3s1', 'current/bin'],
    ['v1.28.15+k3s1', 'cni'],
    ['v1.31.1+k3s1', 'current/bin'],
    ['v1.31.2+k3s1', 'cni'],
    ['v1.33.0+k3s1', 'cni'],
  ])('%s looks for plugins in data/%s', async (version, place) => {
    expect((await look(k3s(version, prepared, false))).values.cni.binPath).toBe(`/var/lib/rancher/k3s/data/${place}`);
  });
});

describe('EKS', () => {
  test('as it is made: the VPC’s plugin and missing pod CIDRs are named', async () => {
    const { profile, plan, values, facts } = await look(eks());
    expect(profile?.id).toBe('eks');
    expect(codes(plan)).toEqual(['install.no-pod-cidr', 'install.other-network']);
    expect(plan.obstacles.map(({ what }) => what).join()).toContain('Amazon VPC CNI');
    expect(plan.obstacles[0]?.fix).toContain('EKS');
    expect(facts.proxy.kind).toBe('daemonset');
    expect(values).toMatchObject({ routingMode: 'tunnel', autoDirectNodeRoutes: false, MTU: 0 });
    expect(values.cni).toMatchObject({ binPath: '/opt/cni/bin', confPath: '/etc/cni/net.d' });
  });

  test('the API server is the cluster’s name and not the addresses of today, and agents ask the node’s DNS for it', async () => {
    const cluster = eks(['10.12.0.0/24', '10.12.1.0/24']);
    cluster.drop(resources.daemonSets, 'aws-node', 'kube-system');
    const { values, plan } = await look(cluster);
    expect(values).toMatchObject({
      k8sServiceHost: '0123456789abcdef0123456789abcdef.gr7.eu-west-1.eks.amazonaws.com',
      k8sServicePort: 443,
    });
    expect(plan.obstacles).toEqual([]);
    expect(plan.objects.find(({ kind }) => kind === 'DaemonSet')?.after).toContain('dnsPolicy: Default');
  });
});

describe('kubeadm', () => {
  test('goes through its balancer, and its kube-proxy can go', async () => {
    const { profile, plan, values, facts } = await look(kubeadm());
    expect(profile?.id).toBe('kubeadm');
    expect(plan.obstacles).toEqual([]);
    expect(facts.apiServers).toBe(3);
    expect(values).toMatchObject({
      routingMode: 'tunnel',
      ipv4NativeRoutingCIDR: '10.244.0.0/22',
      k8sServiceHost: 'k8s.example.org',
      k8sServicePort: 6443,
    });
    expect(plan.kubeProxy).toMatchObject({ kind: 'daemonset', change: 'none' });
  });

  test('one with no such configuration and several servers is left to name one', async () => {
    const cluster = kubeadm();
    cluster.drop(resources.configMaps, 'kube-proxy', 'kube-system');
    expect((await look(cluster)).values.k8sServiceHost).toBe('');
  });
});

test('a server is found in every spelling, and nonsense is none', () => {
  const of = (text: string) => serverOf({ metadata: { name: 'x' }, data: { k: text } } as never);
  expect(of('    server: https://10.0.0.1:6443\n')).toEqual({ host: '10.0.0.1', port: 6443 });
  expect(of('server: "https://[fd00::1]:6443"')).toEqual({ host: 'fd00::1', port: 6443 });
  expect(of('    cluster: {certificate-authority: /x, server: "https://a.example:6443"}')).toEqual({
    host: 'a.example',
    port: 6443,
  });
  expect(of('server: https://a.example')).toEqual({ host: 'a.example', port: 443 });
  for (const bad of ['', 'server: nonsense', 'observer: https://a.example']) expect(of(bad)).toBeUndefined();
});

test('a Geneve tunnel is refused by node where a preflight found that it cannot be made', async () => {
  const facts = await factsOf(kubeadm());
  const { checkValues } = await import('./values.ts');
  const values = withValue(
    withValue(withValue(valuesSchema.parse({}), 'tunnelProtocol', 'geneve'), 'k8sServiceHost', '10.0.0.11'),
    'k8sServicePort',
    6443,
  );
  const found = (able: readonly (boolean | undefined)[]) =>
    checkValues(values, {
      ...facts,
      geneve: able.map((one, index) => ({
        node: `cp${index + 1}`,
        able: one,
        found: one === false ? 'refused' : 'ok',
      })),
    });
  expect(found([true, true, true])).toMatchObject({ obstacles: [] });
  expect(found([true, true, true]).warnings.join()).not.toContain('Geneve');
  expect(found([true, undefined, true])).toMatchObject({ obstacles: [] });
  expect(found([true, undefined, true]).warnings.join()).toContain('not asked yet: cp2');
  const refused = found([true, false, false]).obstacles;
  expect(refused).toMatchObject([{ code: 'install.value.tunnelProtocol' }]);
  expect(refused[0]?.what).toContain('cp2, cp3');
  expect(refused[0]?.why).toContain('cp2: refused');
});
