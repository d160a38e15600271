/** Which tests of the suite cannot say anything about this network here, and why. Everything else runs. */

/** Tests (by a pattern on their full name) that are not run, with the reason. */
export interface Exclusion {
  readonly pattern: RegExp;
  readonly reason: string;
}

/** A test by its full name, and why it is not run; undefined when it runs. */
export interface Selected {
  readonly name: string;
  readonly reason: string | undefined;
}

/** What this machine and this cluster have; what is missing takes tests away. */
export interface Facilities {
  /** The kernel has SCTP sockets. */
  readonly sctp: boolean;
  /** The cluster has IPv4 and IPv6. */
  readonly dualStack: boolean;
}

const always: readonly Exclusion[] = [
  { pattern: /\[Feature:LoadBalancer\]|\[Provider:GCE\]/, reason: 'needs a cloud (its load balancers, its machines)' },
  {
    pattern: /\[Feature:(Networking-Performance|PerformanceDNS)\]/,
    reason: 'a load test for large clusters, not a test of behaviour (npm run bench measures)',
  },
  { pattern: /\[Feature:(Networking-IPv4|Networking-DNS|Networking-IPv6)\]/, reason: 'needs the Internet' },
  {
    pattern: /should forward PTR records lookup/,
    reason: 'needs the Internet (it asks for the name of 8.8.8.8 first)',
  },
  {
    pattern: /\[Feature:KubeProxy|\bKubeProxy\b|kube-proxy urls|restarting kube-proxy/,
    reason: 'tests kube-proxy itself; there is none here, the network has taken its place',
  },
  {
    pattern: /recreate its iptables rules/,
    reason: 'deletes the iptables rules of kube-proxy over SSH in a cloud; there are none here',
  },
  { pattern: /restarting apiserver/, reason: 'needs an API server that runs as a pod' },
  { pattern: /\[Alpha\]/, reason: 'an alpha feature of Kubernetes, off in the API server' },
];

/** The rules for a machine and a cluster. The first one that fits a name gives the reason. */
export function exclusionsFor(facilities: Facilities): Exclusion[] {
  const rules = [...always];
  if (!facilities.sctp)
    rules.push({
      pattern: /\[Feature:SCTPConnectivity\]/,
      reason: 'sends SCTP; this kernel has no SCTP sockets',
    });
  if (!facilities.dualStack)
    rules.push({ pattern: /\[Feature:IPv6DualStack\]/, reason: 'needs a dual-stack cluster (--dual-stack)' });
  return rules;
}

/**
 * Tests that fail because this network decides otherwise on purpose, with what it does instead. They run all the same, and
 * count as failed.
 */
export const decisions: readonly Exclusion[] = [
  {
    pattern: /via ExternalIP when the external IP is not assigned to a node/,
    reason:
      'by decision: pods reach an external address by a service only if it is their node’s own, or whoever may make a service could take any address of the world from them (CVE-2020-8554), unless externalIPs.fromPods is set; clients outside are not concerned',
  },
];

/** One line of the suite's list of tests: "FILE:LINE: full name". */
export function namesOf(listing: string): string[] {
  return listing
    .split('\n')
    .map((line) => /^\s+\S+:\d+: (\[sig-network\].*?)\s*$/.exec(line)?.[1])
    .filter((name) => name !== undefined);
}

/** Says of every test that `focus` wants whether it runs. */
export function select(names: readonly string[], focus: RegExp, rules: readonly Exclusion[]): Selected[] {
  return names
    .filter((name) => focus.test(name))
    .map((name) => ({ name, reason: rules.find((rule) => rule.pattern.test(name))?.reason }));
}

/** A regular expression, of Go and of JavaScript alike, that fits the given full names and no other. */
export function exactly(names: readonly string[]): string {
  return `(${names.map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|')})\\s*$`;
}
