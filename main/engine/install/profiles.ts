import { type Values, withValue } from '../../../contract/index.ts';
import type { ClusterFacts } from './facts.ts';

/** A kind of cluster, how it is recognised, and which values it needs. */
export interface Profile {
  readonly id: string;
  readonly title: string;
  readonly text: string;
  readonly recognised: (facts: ClusterFacts) => boolean;
  readonly values: (suggested: Values, facts: ClusterFacts) => Values;
}

const every = (facts: ClusterFacts, test: (machine: ClusterFacts['machines'][number]) => boolean) =>
  facts.machines.length > 0 && facts.machines.every(test);

/** Several values at once. */
function changed(values: Values, to: Readonly<Record<string, Parameters<typeof withValue>[2]>>): Values {
  return Object.entries(to).reduce((all, [path, value]) => withValue(all, path, value), values);
}

/** k3s looks for CNI plugins at one place since its releases of October 2024; before, in a directory of each release. */
function hasFixedCniPath(version: string): boolean {
  const [, minor = 0, patch = 0] = (/^v1\.(\d+)\.(\d+)/.exec(version) ?? []).map(Number);
  const since: Readonly<Record<number, number>> = { 28: 15, 29: 10, 30: 6, 31: 2 };
  return minor > 31 || patch >= (since[minor] ?? Number.POSITIVE_INFINITY);
}

/** Kinds of clusters, the most particular first. */
export const profiles: readonly Profile[] = [
  {
    id: 'k3s',
    title: 'k3s, RKE2',
    text: 'Start the servers with --flannel-backend=none --disable-network-policy, and with --disable-kube-proxy to have it replaced: it is a part of k3s and cannot be removed from here (RKE2: cni: none, disable-kube-proxy: true). k3s keeps its CNI files below /var/lib/rancher.',
    recognised: (facts) => every(facts, ({ version }) => /\+(k3s|rke2)/.test(version)),
    values: (values, facts) =>
      changed(
        values,
        every(facts, ({ version }) => version.includes('+rke2'))
          ? { k8sServicePort: values.k8sServicePort || 6443 }
          : {
              'cni.binPath': every(facts, ({ version }) => hasFixedCniPath(version))
                ? '/var/lib/rancher/k3s/data/cni'
                : '/var/lib/rancher/k3s/data/current/bin',
              'cni.confPath': '/var/lib/rancher/k3s/agent/etc/cni/net.d',
              k8sServicePort: values.k8sServicePort || 6443,
            },
      ),
  },
  {
    id: 'eks',
    title: 'EKS',
    text: 'The DaemonSet aws-node has to go first, and nodes need pod CIDRs (kube-controller-manager of EKS gives none: use an IPAM that writes spec.podCIDR). The network of a VPC does not carry pod addresses, so the tunnel is used; the MTU follows the card’s (9001).',
    recognised: (facts) =>
      every(facts, ({ providerID, version }) => providerID.startsWith('aws') && version.includes('-eks-')),
    values: (values) => changed(values, { routingMode: 'tunnel', autoDirectNodeRoutes: false }),
  },
  {
    id: 'lab',
    title: 'Bare lab',
    text: 'Machines on one link without another network between them: native routing with a route per node, everything in eBPF.',
    recognised: (facts) => every(facts, ({ image }) => /lab/i.test(image)),
    values: (values, facts) =>
      changed(values, {
        routingMode: 'native',
        autoDirectNodeRoutes: true,
        kubeProxyReplacement: true,
        ...(facts.podCIDRs.length > 0 ? {} : { ipv4NativeRoutingCIDR: values.ipv4NativeRoutingCIDR }),
      }),
  },
  {
    id: 'kubeadm',
    title: 'kubeadm',
    text: 'podSubnet has to be set. kube-proxy may stay or be replaced: kubeadm init --skip-phases=addon/kube-proxy leaves it out.',
    recognised: () => true,
    values: (values) => changed(values, { routingMode: 'tunnel' }),
  },
];
