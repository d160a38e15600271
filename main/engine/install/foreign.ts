import type { KubeObject } from '../kube/cluster-connection.ts';
import { isSet } from './kube-proxy.ts';

/** A network plugin of somebody else that serves nodes of the cluster. */
export interface ForeignNetwork {
  readonly product: string;
  readonly namespace: string;
  readonly name: string;
  /** How to be rid of it where it is no object of the cluster. */
  readonly fix?: string;
}

const known: readonly (readonly [RegExp, string])[] = [
  [/^cilium(-agent)?$/, 'Cilium'],
  [/^(calico-node|canal)$/, 'Calico'],
  [/^kube-flannel(-ds.*)?$/, 'Flannel'],
  [/^weave-net$/, 'Weave Net'],
  [/^aws-node$/, 'Amazon VPC CNI'],
  [/^azure-(cns|npm)$/, 'Azure CNI'],
  [/^antrea-agent$/, 'Antrea'],
  [/^kube-router$/, 'kube-router'],
  [/^kindnet$/, 'kindnet'],
  [/^(ovnkube-node.*|ovs-cni)$/, 'OVN-Kubernetes'],
  [/^romana-agent$/, 'Romana'],
  [/^kube-ovn-cni$/, 'Kube-OVN'],
  [/^netd$|^anetd$/, 'GKE Dataplane'],
  [/^multus.*$/, 'Multus'],
];

/** What of a node tells of a network inside of Kubernetes' own process. */
interface Machine {
  readonly name: string;
  readonly version: string;
  readonly arguments: readonly string[];
  readonly flannel: boolean;
}

/** The value of a switch in a command line: "--switch value" or "--switch=value". */
export function switchValue(line: readonly string[], name: string): string | undefined {
  const at = line.findIndex((word) => word === `--${name}` || word.startsWith(`--${name}=`));
  const word = line[at];
  return word?.includes('=') ? word.slice(word.indexOf('=') + 1) : at < 0 ? undefined : line[at + 1];
}

const isK3s = ({ version }: Pick<Machine, 'version'>) => version.includes('+k3s');

/** k3s runs flannel inside of its own process, unless its servers are told not to. */
export function embeddedNetworks(machines: readonly Machine[]): readonly ForeignNetwork[] {
  // Servers decide for all; annotations of an earlier flannel stay on nodes and prove nothing alone.
  const off = machines.some((machine) => switchValue(machine.arguments, 'flannel-backend') === 'none');
  const served = machines.filter((machine) => isK3s(machine) && machine.flannel);
  if (off || served.length === 0) return [];
  return [
    {
      product: 'Flannel',
      namespace: '',
      name: `in the k3s process of ${served.map(({ name }) => name).join(', ')}`,
      fix: 'Start the k3s servers with --flannel-backend=none --disable-network-policy (and --disable-kube-proxy, if services are to be the agents’ alone), restart k3s on every node, and delete the interfaces flannel.1 and cni0.',
    },
  ];
}

/** What of k3s works beside the agent, but should not. */
export function embeddedWarnings(machines: readonly Machine[]): readonly string[] {
  const servers = machines.filter((machine) => isK3s(machine) && machine.arguments[0] === 'server');
  const filtering = servers.filter((machine) => !isSet(machine.arguments, 'disable-network-policy'));
  return filtering.length > 0
    ? [
        `k3s’ own network policy controller runs (${filtering.map(({ name }) => name).join(', ')} without --disable-network-policy): it enforces NetworkPolicies once more, with iptables, knows none of the others, and drops what the agent lets through.`,
      ]
    : [];
}

/** Recognises DaemonSets that are pod networks by their names. */
export function foreignNetworks(daemonSets: readonly KubeObject[]): readonly ForeignNetwork[] {
  return daemonSets.flatMap(({ metadata }) => {
    const found = known.find(([pattern]) => pattern.test(metadata.name));
    return found ? [{ product: found[1], namespace: metadata.namespace ?? '', name: metadata.name }] : [];
  });
}
