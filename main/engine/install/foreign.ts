import type { KubeObject } from '../kube/cluster-connection.ts';

/** A network plugin of somebody else that serves nodes of the cluster. */
export interface ForeignNetwork {
  readonly product: string;
  readonly namespace: string;
  readonly name: string;
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

/** Recognises DaemonSets that are pod networks by their names. */
export function foreignNetworks(daemonSets: readonly KubeObject[]): readonly ForeignNetwork[] {
  return daemonSets.flatMap(({ metadata }) => {
    const found = known.find(([pattern]) => pattern.test(metadata.name));
    return found ? [{ product: found[1], namespace: metadata.namespace ?? '', name: metadata.name }] : [];
  });
}
