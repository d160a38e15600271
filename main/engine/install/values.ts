import type { Failure, Values } from '../../../contract/index.ts';
import { parsePrefix, prefixContains } from './addresses.ts';
import { refusing, warning } from './value-rules.ts';

/** The facts of a cluster that decide whether values fit it. */
export interface ValueFacts {
  readonly podCIDRs: readonly string[];
  /** Where nodes reach the API server without a service address. */
  readonly apiEndpoint: { readonly host: string; readonly port: number } | undefined;
  readonly kubeProxy: boolean;
  /** How many API servers the cluster names; undefined when nobody has looked. */
  readonly apiServers?: number;
  readonly nodes: number;
  /** Where kube-proxy reaches the API server, which is a balancer's address where there are several servers. */
  readonly proxyServer?: { readonly host: string; readonly port: number } | undefined;
  /** Whether each node's kernel can make a Geneve tunnel, as its preflight found; undefined where it was not asked. */
  readonly geneve?: readonly { readonly node: string; readonly able: boolean | undefined; readonly found: string }[];
  /** IPv6 pod CIDRs of the nodes; undefined when nobody has looked. */
  readonly podCIDRs6?: readonly string[];
  /** Values that the carried agent knows; undefined when its archive does not say. */
  readonly agentKeys?: readonly string[];
}

function refuse(field: string, what: string, why: string, fix: string): Failure {
  return { code: `install.value.${field}`, what, why, fix };
}

/** Refuses combinations that cannot work, each with its reason; warns of those that need something from outside. */
export function checkValues(
  values: Values,
  facts: ValueFacts,
): { readonly obstacles: readonly Failure[]; readonly warnings: readonly string[] } {
  const obstacles: Failure[] = [];
  const warnings: string[] = [];
  const native = values.routingMode === 'native';
  const range = values.ipv4NativeRoutingCIDR === '' ? undefined : parsePrefix(values.ipv4NativeRoutingCIDR);

  if (values.ipv4NativeRoutingCIDR !== '' && !range)
    obstacles.push(
      refuse(
        'ipv4NativeRoutingCIDR',
        `“${values.ipv4NativeRoutingCIDR}” is not an IPv4 range.`,
        'A range is an address and a length, for example 10.0.0.0/8.',
        'Correct ipv4NativeRoutingCIDR.',
      ),
    );
  if (native && values.ipv4NativeRoutingCIDR === '')
    obstacles.push(
      refuse(
        'ipv4NativeRoutingCIDR',
        'Native routing needs ipv4NativeRoutingCIDR.',
        'Without it the agent cannot tell which addresses travel as they are and which have to be masqueraded.',
        `Set ipv4NativeRoutingCIDR to a range that holds every pod CIDR${facts.podCIDRs.length > 0 ? ` (${facts.podCIDRs.join(', ')})` : ''}.`,
      ),
    );
  if (native && range)
    for (const cidr of facts.podCIDRs) {
      const inner = parsePrefix(cidr);
      if (inner && !prefixContains(range, inner))
        obstacles.push(
          refuse(
            'ipv4NativeRoutingCIDR',
            `${values.ipv4NativeRoutingCIDR} does not hold the pod CIDR ${cidr}.`,
            'Traffic to pods outside the range would be masqueraded, and policies would see the node instead of the pod.',
            'Widen ipv4NativeRoutingCIDR.',
          ),
        );
    }
  if (values.autoDirectNodeRoutes && !native)
    obstacles.push(
      refuse(
        'autoDirectNodeRoutes',
        'autoDirectNodeRoutes works with native routing only.',
        'In tunnel mode packets between nodes travel inside VXLAN and need no routes to pod CIDRs.',
        'Set routingMode to native, or switch autoDirectNodeRoutes off.',
      ),
    );
  if (native && !values.autoDirectNodeRoutes && facts.nodes > 1)
    warnings.push(
      'Native routing without autoDirectNodeRoutes: the network between the nodes must know the route to every pod CIDR.',
    );
  if (values.kubeProxyReplacement && !facts.kubeProxy && values.k8sServiceHost === '')
    obstacles.push(
      refuse(
        'k8sServiceHost',
        'k8sServiceHost is needed: no kube-proxy runs in this cluster.',
        'The agent itself makes service addresses work, so until it runs it can reach the API server by a real address only.',
        facts.apiEndpoint
          ? `Set k8sServiceHost to ${facts.apiEndpoint.host} and k8sServicePort to ${facts.apiEndpoint.port}.`
          : 'Set k8sServiceHost and k8sServicePort to an address of the API server that every node can reach.',
      ),
    );
  if (!values.kubeProxyReplacement && !facts.kubeProxy)
    obstacles.push(
      refuse(
        'kubeProxyReplacement',
        'Nobody would translate service addresses.',
        'kubeProxyReplacement is off and no kube-proxy runs in this cluster.',
        'Set kubeProxyReplacement to true, or install kube-proxy first.',
      ),
    );
  if (values.kubeProxyReplacement && facts.kubeProxy)
    warnings.push(
      'kube-proxy runs as well. Services work, but its rules stay on every node; the plan says whether it can be removed.',
    );
  if (values.k8sServiceHost !== '' && (values.k8sServicePort < 1 || values.k8sServicePort > 65535))
    obstacles.push(
      refuse(
        'k8sServicePort',
        `${values.k8sServicePort} is not a port.`,
        'k8sServiceHost is set, so the port of the API server is needed too.',
        'Set k8sServicePort, usually 6443.',
      ),
    );
  if (values.MTU !== 0 && (values.MTU < 1280 || values.MTU > 65_535))
    obstacles.push(
      refuse(
        'MTU',
        `An MTU of ${values.MTU} cannot work.`,
        'It must be 1280 to 65535, or 0 for automatic.',
        'Correct MTU.',
      ),
    );
  if (!/^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$/.test(values.cluster.name))
    obstacles.push(
      refuse(
        'cluster.name',
        `“${values.cluster.name}” is not a cluster name.`,
        'It becomes part of DNS names in certificates: at most 32 lower-case letters, digits and dashes.',
        'Correct cluster.name.',
      ),
    );
  for (const device of values.devices)
    if (!/^[^\s/:]{1,15}$/.test(device))
      obstacles.push(
        refuse(
          'devices',
          `“${device}” is not an interface name.`,
          'Interface names have 1 to 15 characters.',
          'Correct devices.',
        ),
      );
  if (!values.enableIPv4Masquerade)
    warnings.push(
      'Masquerading is off: pods reach the outside only if the network there knows the way back to pod CIDRs.',
    );
  if (values.policyEnforcementMode === 'never')
    warnings.push('policyEnforcementMode is never: policies are not enforced at all.');
  if (values.policyEnforcementMode === 'always')
    warnings.push('policyEnforcementMode is always: pods without a policy are cut off, including CoreDNS.');
  for (const rule of refusing) {
    const found = rule(values, facts);
    if (found) obstacles.push(refuse(...found));
  }
  for (const rule of warning) {
    const found = rule(values, facts);
    if (found) warnings.push(found);
  }
  return { obstacles, warnings };
}

/** Values that fit the cluster as found, keeping what is set already, and why each was chosen. */
export function suggestValues(
  current: Values,
  facts: ValueFacts,
): { readonly values: Values; readonly reasons: Readonly<Record<string, string>> } {
  const reasons: Record<string, string> = {};
  const suggested = { ...current };
  // With several API servers, a service's address of all of them is better than one of theirs.
  const single = !facts.kubeProxy || facts.apiServers === 1 ? facts.apiEndpoint : undefined;
  const server = facts.proxyServer ?? single;
  if (current.k8sServiceHost === '' && server) {
    suggested.k8sServiceHost = server.host;
    suggested.k8sServicePort = server.port;
    reasons.k8sServiceHost = facts.proxyServer
      ? 'Where kube-proxy itself reaches the API server: with it agents start without anybody else translating services, so that kube-proxy may go.'
      : facts.kubeProxy
        ? 'The address of the one API server: with it agents start without anybody else translating services, so that kube-proxy may go.'
        : 'The address of the API server that the cluster names itself; no kube-proxy runs, so service addresses do not work before the agent does.';
    reasons.k8sServicePort = reasons.k8sServiceHost;
  }
  if (current.ipv4NativeRoutingCIDR === '') {
    const ranges = facts.podCIDRs.flatMap((cidr) => parsePrefix(cidr) ?? []);
    const cover = coveringPrefix(ranges);
    if (cover) {
      suggested.ipv4NativeRoutingCIDR = cover;
      reasons.ipv4NativeRoutingCIDR = `The smallest range that holds every node's pod CIDR (${facts.podCIDRs.slice(0, 3).join(', ')}${facts.podCIDRs.length > 3 ? ', …' : ''}).`;
    }
  }
  reasons.kubeProxyReplacement = facts.kubeProxy
    ? 'kube-proxy runs in this cluster; the agent can replace it.'
    : 'No kube-proxy runs in this cluster, so the agent has to translate service addresses.';
  if (!facts.kubeProxy) suggested.kubeProxyReplacement = true;
  reasons.routingMode = 'A tunnel works on every network; native routing is faster where the nodes share a link.';
  return { values: suggested, reasons };
}

/** The smallest prefix that contains all of them; undefined for none, or when it would be wider than /8. */
function coveringPrefix(ranges: readonly { readonly address: number; readonly length: number }[]): string | undefined {
  const first = ranges[0];
  if (!first) return undefined;
  let length = Math.min(...ranges.map((range) => range.length));
  const mask = (bits: number) => (bits === 0 ? 0 : (0xffff_ffff << (32 - bits)) >>> 0);
  while (length > 8 && ranges.some((range) => ((range.address ^ first.address) & mask(length)) !== 0)) length -= 1;
  if (ranges.some((range) => ((range.address ^ first.address) & mask(length)) !== 0)) return undefined;
  const address = (first.address & mask(length)) >>> 0;
  return `${[24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.')}/${length}`;
}
