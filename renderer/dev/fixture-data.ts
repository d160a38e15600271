import type { Cluster, ClusterNode, Inventory, Pod, Service } from '../../contract/clusters.ts';
import type { Failure } from '../../contract/failure.ts';

/** Names of the made-up worlds; `?fixture=NAME` chooses one. */
export const presets = ['galaxy', 'empty', 'errors', 'long', 'many', 'large'] as const;
export type Preset = (typeof presets)[number];

/** Random numbers that come out the same each time, so that pictures can be compared. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 4294967296;
  };
}

export const unreachable: Failure = {
  code: 'cluster.unreachable',
  what: 'The API server at 10.20.0.1:6443 does not answer.',
  why: 'The connection was refused: nothing listens at that address and port.',
  fix: 'Check that the control plane runs and that the address in the kubeconfig is right. Fairlead tries again by itself.',
  details: 'connect ECONNREFUSED 10.20.0.1:6443',
};

export const agentSilent: Failure = {
  code: 'flows.agent-unreachable',
  what: 'The agent on node3 does not answer.',
  why: 'Its pod fairlead-agent-x7k2p is in CrashLoopBackOff since 4 minutes.',
  fix: 'Open the node’s details in Clusters, and read the agent’s log there.',
};

function cluster(change: Partial<Cluster> & Pick<Cluster, 'id' | 'name'>): Cluster {
  return {
    source: 'kubeconfig',
    origin: 'config',
    server: '10.20.0.1:6443',
    user: 'admin',
    state: 'idle',
    protected: false,
    insecure: false,
    route: ['direct'],
    ...change,
  };
}

/** Clusters of a preset. */
export function makeClusters(preset: Preset): Cluster[] {
  if (preset === 'empty') return [];
  const now = Date.now();
  const long = preset === 'long';
  const main = cluster({
    id: 'galaxy',
    name: long ? 'arn:aws:eks:eu-central-1:123456789012:cluster/galaxy-production-blue-green-canary-europe' : 'galaxy',
    source: long ? 'kubeconfig' : 'lab',
    origin: 'lab',
    state: preset === 'errors' ? 'degraded' : 'online',
    latencyMilliseconds: 3.4,
    dataAt: now,
    serverVersion: 'v1.34.4',
    route: preset === 'errors' ? ['ssh bastion', 'ssh node1'] : ['direct'],
    ...(preset === 'errors' ? { failure: agentSilent } : {}),
  });
  return [
    main,
    cluster({
      id: 'prod',
      name: 'production-eu',
      protected: true,
      server: 'api.prod.example:6443',
      user: 'oidc:anna',
      route: ['ssh bastion', 'ssh cp-1'],
    }),
    cluster({
      id: 'staging',
      name: 'staging',
      state: 'offline',
      failure: unreachable,
      retryAt: now + 24_000,
      insecure: preset === 'errors',
    }),
    cluster({
      id: 'eks',
      name: 'payments-eks',
      server: 'ABCD.gr7.eu-central-1.eks.example:443',
      state: 'needs-login',
      execPlugin: { command: 'aws', allowed: false, locked: false },
      failure: {
        code: 'cluster.exec-not-allowed',
        what: 'This context logs in with a program that has not been allowed.',
        why: 'Its kubeconfig names the command “aws”. A kubeconfig can run any program on this machine.',
        fix: 'Look at what would be run and allow it, or choose another context.',
      },
    }),
    cluster({
      id: 'demo',
      name: 'Starwars demo (recorded)',
      source: 'recording',
      origin: 'demo.flowcase',
      server: 'recorded',
      route: ['recording'],
    }),
  ];
}

const MiB = 1024 * 1024;

function node(index: number, name: string, change: Partial<ClusterNode['agent']> = {}, ready = true): ClusterNode {
  return {
    name,
    ready,
    ...(ready ? {} : { reason: 'container runtime network not ready: cni plugin not initialized' }),
    address: `10.20.0.${10 + index}`,
    podCIDR: `10.42.${index - 1}.0/24`,
    kernel: '6.18.5',
    os: 'Debian GNU/Linux 12 (bookworm)',
    kubelet: 'v1.34.4',
    runtime: 'containerd://1.6.20',
    pods: 0,
    ssh: name,
    agent: {
      state: 'ready',
      version: '0.1.0',
      routingMode: 'tunnel (vxlan)',
      masquerade: 'BPF (v4)',
      kubeProxyReplacement: 'on (eth0)',
      memoryBytes: (31 + index * 1.7) * MiB,
      endpoints: 0,
      identities: 14,
      flowsPerSecond: 12 + index * 3,
      flowsLost: 0,
      components: [
        { name: 'datapath', state: 'ok', message: 'programs attached on 7 devices, maps 3 % full', fix: '' },
        { name: 'policy', state: 'ok', message: 'revision 9 enforced on all endpoints', fix: '' },
        { name: 'flows', state: 'ok', message: 'serving on 4244', fix: '' },
      ],
      ...change,
    },
  };
}

function pod(
  namespace: string,
  name: string,
  on: string,
  address: string,
  labels: Record<string, string>,
  workload: Pod['workload'],
  identity: number,
): Pod {
  return {
    namespace,
    name,
    node: on,
    address,
    phase: 'Running',
    ready: true,
    hostNetwork: false,
    labels,
    workload,
    containers: [workload.name],
    identity,
    endpointState: 'ready',
  };
}

function service(namespace: string, name: string, clusterIP: string, port: number, backends: number): Service {
  return {
    namespace,
    name,
    type: 'ClusterIP',
    clusterIP,
    externalIPs: [],
    ports: [{ name: '', port, targetPort: String(port), protocol: 'TCP' }],
    backends,
  };
}

/** Nodes, pods and services of a preset. Deterministic. */
export function makeInventory(preset: Preset): Inventory {
  const nodes = [
    node(1, 'node1'),
    node(2, preset === 'long' ? 'ip-10-20-0-12.eu-central-1.compute.internal.example-corporation.net' : 'node2'),
    node(3, 'node3'),
  ];
  const names = nodes.map((one) => one.name);
  const at = (index: number) => names[index % names.length] ?? 'node1';
  const pods: Pod[] = [
    pod(
      'default',
      'deathstar-7f9c5d6b8-4xk2m',
      at(0),
      '10.42.0.23',
      { org: 'empire', class: 'deathstar' },
      { kind: 'Deployment', name: 'deathstar' },
      40211,
    ),
    pod(
      'default',
      'deathstar-7f9c5d6b8-q9wlt',
      at(1),
      '10.42.1.17',
      { org: 'empire', class: 'deathstar' },
      { kind: 'Deployment', name: 'deathstar' },
      40211,
    ),
    pod(
      'default',
      'tiefighter',
      at(1),
      '10.42.1.31',
      { org: 'empire', class: 'tiefighter' },
      { kind: 'Pod', name: 'tiefighter' },
      17320,
    ),
    pod(
      'default',
      'xwing',
      at(2),
      '10.42.2.9',
      { org: 'alliance', class: 'xwing' },
      { kind: 'Pod', name: 'xwing' },
      51877,
    ),
    pod(
      'kube-system',
      'coredns-6c8d9b7f5-bl7r2',
      at(0),
      '10.42.0.5',
      { 'k8s-app': 'kube-dns' },
      { kind: 'Deployment', name: 'coredns' },
      20455,
    ),
    pod(
      'kube-system',
      'coredns-6c8d9b7f5-tt52n',
      at(2),
      '10.42.2.4',
      { 'k8s-app': 'kube-dns' },
      { kind: 'Deployment', name: 'coredns' },
      20455,
    ),
    pod(
      'shop',
      'frontend-5d4f8c7b9-2bq7x',
      at(0),
      '10.42.0.40',
      { app: 'frontend', tier: 'web' },
      { kind: 'Deployment', name: 'frontend' },
      33102,
    ),
    pod(
      'shop',
      'frontend-5d4f8c7b9-mm8vd',
      at(2),
      '10.42.2.41',
      { app: 'frontend', tier: 'web' },
      { kind: 'Deployment', name: 'frontend' },
      33102,
    ),
    pod(
      'shop',
      'cart-6b7c9d5f4-x4n6p',
      at(1),
      '10.42.1.42',
      { app: 'cart', tier: 'api' },
      { kind: 'Deployment', name: 'cart' },
      33577,
    ),
    pod(
      'shop',
      'payments-84d6f7c5b-hz9kk',
      at(2),
      '10.42.2.43',
      { app: 'payments', tier: 'api' },
      { kind: 'Deployment', name: 'payments' },
      34910,
    ),
    pod(
      'shop',
      'database-0',
      at(1),
      '10.42.1.44',
      { app: 'database' },
      { kind: 'StatefulSet', name: 'database' },
      35001,
    ),
    pod(
      'monitoring',
      'prometheus-0',
      at(0),
      '10.42.0.50',
      { app: 'prometheus' },
      { kind: 'StatefulSet', name: 'prometheus' },
      38120,
    ),
  ];
  if (preset === 'long') {
    // Of two families, whose addresses are long as well.
    for (const [index, one] of nodes.entries()) {
      const podCIDR = `${one.podCIDR}, fd00:10:42:${index}::/64`;
      const longest = '2a05:d014:0abc:ef01:2345:6789:abcd:ef01';
      nodes[index] = { ...one, podCIDR, moreAddresses: [index === 0 ? longest : `fd00:10:20::${10 + index}`] };
    }
    for (const [index, one] of pods.entries()) pods[index] = { ...one, moreAddresses: [`fd00:10:42::${10 + index}`] };
    pods.push(
      pod(
        'customer-facing-storefront-experience-platform-production',
        'recommendation-engine-personalisation-worker-with-a-very-long-name-6f5d8c9b7d-8xk2q',
        at(1),
        'fd00:10:42:0001:abcd:ef01:2345:6789',
        {
          'app.kubernetes.io/name': 'recommendation-engine-personalisation-worker',
          'app.kubernetes.io/managed-by': 'argocd-application-controller',
        },
        { kind: 'Deployment', name: 'recommendation-engine-personalisation-worker-with-a-very-long-name' },
        61234,
      ),
    );
  }
  const random = seeded(7);
  if (preset === 'many' || preset === 'large') {
    const spaces = preset === 'large' ? 24 : 40;
    const count = preset === 'large' ? 640 : 5000;
    for (let index = 0; index < count; index += 1) {
      const namespace = `team-${String(index % spaces).padStart(2, '0')}`;
      const app = `service-${Math.floor(index / spaces) % 12}`;
      pods.push(
        pod(
          namespace,
          `${app}-${(index * 7919).toString(36).slice(-5)}-${index}`,
          at(Math.floor(random() * 3)),
          `10.42.${index % 250}.${Math.floor(index / 250) + 60}`,
          { app, team: namespace },
          { kind: 'Deployment', name: app },
          60000 + (index % 900),
        ),
      );
    }
  }
  const counted: ClusterNode[] = nodes.map((one) => {
    const here = pods.filter((each) => each.node === one.name).length;
    const counts = { ...one, pods: here, agent: { ...one.agent, endpoints: here } };
    return preset === 'long'
      ? { ...counts, kernel: '5.15.0-1071-azure-fde', agent: { ...counts.agent, version: '0.1.0+3c1f9a77d2e4b05d' } }
      : counts;
  });
  if (preset === 'errors') {
    const [first, second, third] = counted;
    if (first && second && third) {
      counted[1] = {
        ...second,
        agent: {
          ...second.agent,
          state: 'degraded',
          flowsLost: 18_344,
          components: [
            { name: 'datapath', state: 'ok', message: 'programs attached on 7 devices', fix: '' },
            {
              name: 'policy',
              state: 'degraded',
              message: '1 policy is not enforced: shop/broken does not parse',
              fix: 'Open shop/broken in Policies; the editor marks the line.',
            },
            {
              name: 'flows',
              state: 'degraded',
              message: 'the ring buffer overflowed 14 times in the last minute',
              fix: 'Raise the ring’s size or narrow what is recorded.',
            },
          ],
        },
      };
      counted[2] = {
        ...third,
        ready: false,
        reason: 'container runtime network not ready: cni plugin not initialized',
        agent: {
          state: 'failing',
          version: '0.1.0',
          message: 'the kernel has no BTF: /sys/kernel/btf/vmlinux does not exist',
          components: [
            {
              name: 'preflight',
              state: 'failing',
              message: 'Kernel 5.4.0 without BTF',
              fix: 'Boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, 5.15 or newer.',
            },
          ],
        },
      };
    }
  }
  return {
    at: Date.now(),
    nodes: counted,
    namespaces: [...new Set(pods.map((one) => one.namespace))].map((name) => ({
      name,
      labels: { 'kubernetes.io/metadata.name': name },
    })),
    pods,
    services: [
      service('default', 'deathstar', '10.96.14.7', 80, 2),
      service('default', 'kubernetes', '10.96.0.1', 443, 1),
      service('kube-system', 'kube-dns', '10.96.0.10', 53, 2),
      service('shop', 'frontend', '10.96.31.2', 80, 2),
      service('shop', 'cart', '10.96.31.3', 8080, 1),
    ],
  };
}
