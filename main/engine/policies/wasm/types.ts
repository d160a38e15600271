/** What the policy engine takes and gives; the same shapes as in node-agent/policy (connection.go, json.go, policy.go). */

/** A Kubernetes object as a JSON value. Anything else is answered with a problem. */
export type PolicyDocument = unknown;

export interface PolicyRef {
  readonly kind: string;
  readonly namespace?: string;
  readonly name: string;
  readonly uid?: string;
  readonly resourceVersion?: string;
}

export interface EngineProblem {
  readonly severity: 'error' | 'warning';
  /** e.g. unknown-field, invalid-cidr, unsupported, no-dns, deny-only. */
  readonly code: string;
  /** e.g. spec.ingress[0].fromEndpoints[1].matchLabels; keys that are no plain words are in ["…"]. "" is the document. */
  readonly path: string;
  readonly what: string;
  readonly why: string;
  readonly fix: string;
}

export interface Validation {
  /** kind and name are "" where they could not be read. */
  readonly ref: PolicyRef;
  /** No problem of severity error: the agents enforce it. */
  readonly valid: boolean;
  /** Errors first. */
  readonly problems: readonly EngineProblem[];
  /** Directions that the policy takes part in, and in which it switches default deny on. */
  readonly ingress: boolean;
  readonly egress: boolean;
  readonly defaultDenyIngress: boolean;
  readonly defaultDenyEgress: boolean;
  /** Address ranges that it names. */
  readonly prefixes: readonly string[];
  /** The governed pods in short: "class=deathstar, org=empire". */
  readonly selector: string;
  /** Plain sentences of what it does. */
  readonly meaning: readonly string[];
  /** Settings of the agents without which they do not enforce it: hostFirewall.enabled, nodeSelectorLabels. */
  readonly requires: readonly string[];
  /** Objects that it names beside pods, in plain words: "the CIDR group partners", "the service data/db". */
  readonly references: readonly string[];
}

export interface NamedPort {
  /** IP protocol number: 6 TCP, 17 UDP, 132 SCTP. */
  readonly protocol: number;
  readonly port: number;
}

export interface PolicyPod {
  readonly namespace: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Labels of the namespace object. */
  readonly namespaceLabels?: Readonly<Record<string, string>>;
  readonly serviceAccount?: string;
  readonly node?: string;
  /** Such a pod is the node, as far as policy is concerned: nothing selects it. */
  readonly hostNetwork?: boolean;
  /** Named container ports; names in lower case. */
  readonly ports?: Readonly<Record<string, readonly NamedPort[]>>;
  /** The primary one first. ipBlock looks at them; without them it means nobody of the cluster. */
  readonly addresses?: readonly string[];
}

/** A CiliumCIDRGroup as policies see it. */
export interface PolicyCIDRGroup {
  readonly name: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly prefixes: readonly string[];
}

/** A service as toServices sees it: its selector, or without one the addresses of its endpoint slices. */
export interface PolicyService {
  readonly namespace: string;
  readonly name: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly selector?: Readonly<Record<string, string>>;
  readonly addresses?: readonly string[];
}

export interface SelectedPods {
  readonly valid: boolean;
  readonly problems: readonly EngineProblem[];
  readonly pods: readonly number[];
}

/** A pod by its index, an entity (host, remote-node, world, kube-apiserver …), or an address outside of the cluster. */
export type PolicyParty = { readonly pod: number } | { readonly entity: string } | { readonly address: string };

export interface PolicyQuery {
  readonly from: PolicyParty;
  readonly to: PolicyParty;
  /** IP protocol number: 1 ICMP, 6 TCP, 17 UDP, 58 ICMPv6, 132 SCTP. */
  readonly protocol: number;
  /** Port of the backend, not of the service; of ICMP the type. */
  readonly port: number;
}

export interface RuleRef {
  readonly policy: PolicyRef;
  /** 0 is `spec`, and the rules of `specs` follow (from 0 where there is no `spec`). */
  readonly rule: number;
  readonly section: 'ingress' | 'ingressDeny' | 'egress' | 'egressDeny' | 'builtin';
  readonly index: number;
  /** Where the element stands in the document: specs[1].ingress[0]. "" for a builtin rule. */
  readonly path: string;
}

export interface Decision {
  readonly allowed: boolean;
  readonly reason: 'allowed-by-rule' | 'no-policy' | 'default-deny' | 'denied-by-rule';
  readonly rules: readonly RuleRef[];
  /** With default-deny: the policies that switched it on. */
  readonly policies: readonly PolicyRef[];
  /** Hubble's policy_match_type. */
  readonly matchType: number;
  /** Traffic passes only as far as one of these rules on its content allows; absent: without condition. */
  readonly l7?: { readonly kind: 'http' | 'dns'; readonly rules: readonly string[] };
}

export interface ConnectionVerdict {
  /** Both sides agree. */
  readonly allowed: boolean;
  /** null where that side is not a governed pod. */
  readonly egress: Decision | null;
  readonly ingress: Decision | null;
}

export interface PolicyVerdicts {
  /** Indexes of policies that are not valid and were passed over. */
  readonly invalid: readonly number[];
  /** One for each query, in its order. */
  readonly verdicts: readonly ConnectionVerdict[];
}

export interface PodGroup {
  /** Pods that policy cannot tell apart. */
  readonly pods: readonly number[];
  readonly labels: readonly string[];
}

export interface PairChange {
  /** Index of the governed group. */
  readonly subject: number;
  readonly direction: 'ingress' | 'egress';
  /** The other side: index of a group, or an entity, or a range of addresses. */
  readonly peer?: number;
  readonly entity?: string;
  readonly cidr?: string;
  readonly protocol: number;
  readonly port: number;
  /** The port stands for all that no policy mentions. */
  readonly other: boolean;
  readonly before: Decision;
  readonly after: Decision;
}

export interface Explanation {
  readonly valid: boolean;
  readonly problems: readonly EngineProblem[];
  readonly invalid: readonly number[];
  readonly groups: readonly PodGroup[];
  readonly selected: readonly number[];
  /** Only what passes or not otherwise than before. */
  readonly changes: readonly PairChange[];
  readonly examined: number;
  readonly truncated: boolean;
}

export interface IdentityLabels {
  readonly labels: readonly (readonly string[])[];
}
