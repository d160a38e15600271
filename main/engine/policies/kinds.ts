import type { PolicyId, PolicyKind } from '../../../contract/policies.ts';
import { type KubeObject, type ResourceType, resources } from '../kube/cluster-connection.ts';

/** The collections of the three kinds. */
export const policyTypes: Readonly<Record<PolicyKind, ResourceType>> = {
  CiliumNetworkPolicy: resources.ciliumNetworkPolicies,
  CiliumClusterwideNetworkPolicy: resources.ciliumClusterwideNetworkPolicies,
  NetworkPolicy: resources.networkPolicies,
};

export const policyKinds = Object.keys(policyTypes) as readonly PolicyKind[];

export function isPolicyKind(kind: unknown): kind is PolicyKind {
  return typeof kind === 'string' && Object.hasOwn(policyTypes, kind);
}

/** "cilium.io/v2" of a kind. */
export function apiVersionOf(kind: PolicyKind): string {
  const { group, version } = policyTypes[kind];
  return `${group}/${version}`;
}

/** The API server leaves kind and apiVersion out of list items; this puts them back. */
export function withKind(object: KubeObject, kind: string): KubeObject {
  if (object.kind && object.apiVersion) return object;
  return isPolicyKind(kind) ? { ...object, kind, apiVersion: apiVersionOf(kind) } : { ...object, kind };
}

export function idOf(object: KubeObject, kind: PolicyKind): PolicyId {
  return { kind, namespace: object.metadata.namespace ?? '', name: object.metadata.name };
}
