import { changedValues, consoleValues, type Values } from '../../../contract/index.ts';
import { parsePrefix, parsePrefix6, rangeContains } from './addresses.ts';
import type { ValueFacts } from './values.ts';

/** What is wrong with a value: the field, what, why, and what to do. */
type Finding = readonly [field: string, what: string, why: string, fix: string];
type Rule = (values: Values, facts: ValueFacts) => Finding | undefined | false;

/** Sizes that Maglev's tables may have: primes, so that every permutation visits every place. */
const maglevSizes = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071];

/** Reads "15s", "500ms", "2m30s" as milliseconds; undefined when it is no duration. */
export function durationOf(text: string): number | undefined {
  if (!/^(\d+(\.\d+)?(ms|s|m|h))+$/.test(text)) return undefined;
  const units: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
  return [...text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)].reduce(
    (sum, [, amount, unit]) => sum + Number(amount) * (units[unit ?? ''] ?? 0),
    0,
  );
}

const duration =
  (field: string, read: (values: Values) => string): Rule =>
  (values) =>
    read(values) !== '' &&
    durationOf(read(values)) === undefined && [
      field,
      `“${read(values)}” is not a duration.`,
      'A duration is a number with a unit: 100ms, 15s, 5m.',
      `Correct ${field}.`,
    ];

const size =
  (field: string, read: (values: Values) => number): Rule =>
  (values) =>
    (read(values) < 0 || !Number.isInteger(read(values))) && [
      field,
      `${read(values)} is not a number of entries.`,
      'It must be a whole number, or 0 for automatic.',
      `Correct ${field}.`,
    ];

const port =
  (field: string, read: (values: Values) => number): Rule =>
  (values) =>
    (read(values) < 0 || read(values) > 65_535 || !Number.isInteger(read(values))) && [
      field,
      `${read(values)} is not a port.`,
      'Ports are 1 to 65535; 0 is the default.',
      `Correct ${field}.`,
    ];

const listenPorts: ReadonlyMap<number, string> = new Map([
  [4240, 'node health'],
  [4244, 'Hubble'],
]);

function nodePorts(values: Values): readonly [number, number] | undefined {
  const found = /^(\d{1,5})[,-](\d{1,5})$/.exec(values.nodePort.range);
  return found ? [Number(found[1]), Number(found[2])] : undefined;
}

/** A network that can be refused: not everybody. */
const isRefusable = (cidr: string) => (parsePrefix(cidr) ?? parsePrefix6(cidr)) !== undefined && !cidr.endsWith('/0');

const dsr = (values: Values) => values.loadBalancer.mode !== 'snat';

/** Every rule that refuses: each one thing, with its reason. */
export const refusing: readonly Rule[] = [
  ({ routingMode, tunnelProtocol }, { geneve = [] }) => {
    const without = geneve.filter(({ able }) => able === false);
    return (
      routingMode === 'tunnel' &&
      tunnelProtocol === 'geneve' &&
      without.length > 0 && [
        'tunnelProtocol',
        `No Geneve tunnel can be made on ${without.map(({ node }) => node).join(', ')}.`,
        `The preflight has tried: ${without.map(({ node, found }) => `${node}: ${found}`).join('; ')}.`,
        'Boot kernels with CONFIG_GENEVE there and run the preflight again, or set tunnelProtocol to vxlan.',
      ]
    );
  },
  ({ ipv4, ipv6 }) =>
    !ipv4.enabled &&
    !ipv6.enabled && [
      'ipv4.enabled',
      'Pods would have no addresses at all.',
      'Both ipv4.enabled and ipv6.enabled are off.',
      'Switch one of them on.',
    ],
  ({ ipv6 }, { podCIDRs6 }) =>
    ipv6.enabled &&
    podCIDRs6 !== undefined &&
    podCIDRs6.length === 0 && [
      'ipv6.enabled',
      'No node has an IPv6 pod CIDR.',
      'With ipam.mode=kubernetes pods get their addresses out of spec.podCIDRs of their node, and there is none for IPv6.',
      'Start kube-controller-manager with an IPv6 range in --cluster-cidr as well, or switch ipv6.enabled off.',
    ],
  ({ ipv4, ipv6 }, { podCIDRs }) =>
    !ipv4.enabled &&
    ipv6.enabled &&
    podCIDRs.length > 0 && [
      'ipv4.enabled',
      'The nodes have IPv4 pod CIDRs, but IPv4 would be off.',
      'Kubernetes would go on giving out addresses that nobody carries.',
      'Switch ipv4.enabled on.',
    ],
  ({ ipv6NativeRoutingCIDR: range }) =>
    range !== '' &&
    !parsePrefix6(range) && [
      'ipv6NativeRoutingCIDR',
      `“${range}” is not an IPv6 range.`,
      'A range is an address and a length, for example fd00::/8.',
      'Correct ipv6NativeRoutingCIDR.',
    ],
  ({ routingMode, ipv6, ipv6NativeRoutingCIDR: range }) =>
    routingMode === 'native' &&
    ipv6.enabled &&
    range === '' && [
      'ipv6NativeRoutingCIDR',
      'Native routing of IPv6 needs ipv6NativeRoutingCIDR.',
      'Without it the agent cannot tell which addresses travel as they are and which have to be masqueraded.',
      'Set ipv6NativeRoutingCIDR to a range that holds every IPv6 pod CIDR.',
    ],
  ({ routingMode, ipv6, ipv6NativeRoutingCIDR: range }, { podCIDRs6 = [] }) => {
    const outside = podCIDRs6.find((cidr) => parsePrefix6(range) && !rangeContains(range, cidr));
    return (
      routingMode === 'native' &&
      ipv6.enabled &&
      outside !== undefined && [
        'ipv6NativeRoutingCIDR',
        `${range} does not hold the pod CIDR ${outside}.`,
        'Traffic to pods outside the range would be masqueraded, and policies would see the node instead of the pod.',
        'Widen ipv6NativeRoutingCIDR.',
      ]
    );
  },
  port('tunnelPort', (values) => values.tunnelPort),
  port('prometheus.port', (values) => values.prometheus.port),
  (values) => {
    const taken = listenPorts.get(values.prometheus.port);
    return (
      values.prometheus.enabled &&
      taken !== undefined && [
        'prometheus.port',
        `Port ${values.prometheus.port} is taken by ${taken}.`,
        'Both listen on the node itself.',
        'Choose another prometheus.port, usually 9962.',
      ]
    );
  },
  (values) =>
    values.installNoConntrackIptablesRules &&
    (values.routingMode !== 'native' || !values.bpf.masquerade || !values.kubeProxyReplacement) && [
      'installNoConntrackIptablesRules',
      'Pod traffic cannot skip the node’s connection tracking with these values.',
      `It would be needed for ${[
        values.routingMode !== 'native' ? 'the tunnel (routingMode)' : '',
        values.bpf.masquerade ? '' : 'masquerading with netfilter (bpf.masquerade is off)',
        values.kubeProxyReplacement ? '' : 'kube-proxy’s rules (kubeProxyReplacement is off)',
      ]
        .filter(Boolean)
        .join(' and ')}.`,
      'Set routingMode to native, and bpf.masquerade and kubeProxyReplacement to true; or switch it off.',
    ],
  (values) =>
    values.ipMasqAgent.enabled &&
    !values.enableIPv4Masquerade &&
    !values.enableIPv6Masquerade && [
      'ipMasqAgent.enabled',
      'There is nothing to make exceptions from.',
      'enableIPv4Masquerade and enableIPv6Masquerade are off.',
      'Switch one of them on, or ipMasqAgent.enabled off.',
    ],
  ({ ipMasqAgent }) => {
    const bad = ipMasqAgent.config.nonMasqueradeCIDRs.find((cidr) => !parsePrefix(cidr) && !parsePrefix6(cidr));
    return (
      bad !== undefined && [
        'ipMasqAgent.config.nonMasqueradeCIDRs',
        `“${bad}” is not a range.`,
        'A range is an address and a length, for example 10.0.0.0/8.',
        'Correct it.',
      ]
    );
  },
  (values) =>
    values.bpf.masquerade &&
    !values.kubeProxyReplacement && [
      'bpf.masquerade',
      'Masquerading in eBPF needs kubeProxyReplacement.',
      'kube-proxy’s rules run after the programs and would translate answers that were translated already.',
      'Set kubeProxyReplacement to true, or bpf.masquerade to false.',
    ],
  (values) =>
    values.loadBalancer.dsrDispatch !== 'opt' && [
      'loadBalancer.dsrDispatch',
      `DSR by ${values.loadBalancer.dsrDispatch === 'geneve' ? 'Geneve' : 'IP-in-IP'} is not in this version.`,
      values.loadBalancer.dsrDispatch === 'geneve'
        ? 'The service address would have to travel as an option of the Geneve header, which the agent does not write.'
        : 'The agent does not wrap service traffic into IP-in-IP.',
      'Use opt with native routing, or loadBalancer.mode snat.',
    ],
  (values) =>
    dsr(values) &&
    values.routingMode !== 'native' && [
      'loadBalancer.mode',
      'Direct server return needs native routing.',
      'The service address travels as an IP option to the backend’s node, and a tunnel would hide it from the network.',
      'Set routingMode to native, or loadBalancer.mode to snat.',
    ],
  (values) =>
    !values.kubeProxyReplacement &&
    (dsr(values) || values.loadBalancer.acceleration === 'native' || values.loadBalancer.algorithm === 'maglev') && [
      'kubeProxyReplacement',
      'Modes of load balancing need kubeProxyReplacement.',
      'With it off, kube-proxy serves what comes from outside, in its own way.',
      'Set kubeProxyReplacement to true, or leave loadBalancer at its defaults.',
    ],
  ({ enableXDPPrefilter, xdpPrefilter }) =>
    !enableXDPPrefilter &&
    xdpPrefilter.cidrs.length + xdpPrefilter.cidrGroups.length > 0 && [
      'enableXDPPrefilter',
      'Networks are to be refused, and the prefilter is off.',
      'Nothing would be refused.',
      'Turn it on, or name no networks.',
    ],
  ({ xdpPrefilter }) => {
    const wrong = xdpPrefilter.cidrs.find((cidr) => !isRefusable(cidr));
    return (
      wrong !== undefined && [
        'xdpPrefilter.cidrs',
        `${wrong} cannot be refused.`,
        'A network is an address and a length, and not everybody.',
        'Write it as 203.0.113.0/24 or 2001:db8::/32.',
      ]
    );
  },
  ({ maglev, loadBalancer }) =>
    loadBalancer.algorithm === 'maglev' &&
    !maglevSizes.includes(maglev.tableSize) && [
      'maglev.tableSize',
      `A table of ${maglev.tableSize} places cannot be used.`,
      `The size must be a prime out of ${maglevSizes.join(', ')}.`,
      'Use 16381 unless a service has more than 160 backends.',
    ],
  ({ maglev }) =>
    maglev.hashSeed !== '' &&
    !/^[A-Za-z0-9+/]{16}$/.test(maglev.hashSeed) && [
      'maglev.hashSeed',
      'The Maglev seed is not 12 bytes in Base64.',
      'All nodes mix it into their tables; 12 bytes are 16 characters.',
      'Make one with: head -c12 /dev/urandom | base64',
    ],
  (values) => {
    const range = nodePorts(values);
    return (
      (!range || range[0] < 1 || range[1] > 65_535 || range[0] > range[1]) && [
        'nodePort.range',
        `“${values.nodePort.range}” is not a range of ports.`,
        'It is the first and the last port with a comma between.',
        'Use the range of the API server (--service-node-port-range), usually 30000,32767.',
      ]
    );
  },
  ({ l2announcements, kubeProxyReplacement }) =>
    l2announcements.enabled &&
    !kubeProxyReplacement && [
      'l2announcements.enabled',
      'L2 announcements need kubeProxyReplacement.',
      'The node that answers ARP must also take the traffic in and hand it to a backend.',
      'Set kubeProxyReplacement to true.',
    ],
  duration('l2announcements.leaseDuration', (values) => values.l2announcements.leaseDuration),
  duration('l2announcements.leaseRenewDeadline', (values) => values.l2announcements.leaseRenewDeadline),
  duration('l2announcements.leaseRetryPeriod', (values) => values.l2announcements.leaseRetryPeriod),
  ({ l2announcements: { enabled, leaseDuration, leaseRenewDeadline, leaseRetryPeriod } }) => {
    const [lease, renew, retry] = [leaseDuration, leaseRenewDeadline, leaseRetryPeriod].map(durationOf);
    if (!enabled || lease === undefined || renew === undefined || retry === undefined) return undefined;
    return (
      (lease <= renew || renew <= retry) && [
        'l2announcements.leaseDuration',
        'The lease would be lost between two renewals.',
        `It must be longer than the renewal, and that longer than the retry; they are ${leaseDuration}, ${leaseRenewDeadline} and ${leaseRetryPeriod}.`,
        'Use 15s, 5s and 2s.',
      ]
    );
  },
  ({ hubble }) =>
    hubble.relay.enabled &&
    !hubble.enabled && [
      'hubble.relay.enabled',
      'The relay has nobody to ask.',
      'hubble.enabled is off, so no agent serves flows.',
      'Set hubble.enabled to true, or hubble.relay.enabled to false.',
    ],
  ({ hubble }) =>
    (!Number.isInteger(Math.log2(hubble.eventBufferCapacity + 1)) || hubble.eventBufferCapacity > 65_535) && [
      'hubble.eventBufferCapacity',
      `${hubble.eventBufferCapacity} flows cannot be remembered.`,
      'The ring holds a power of two minus one, up to 65535.',
      'Use 4095.',
    ],
  ({ socketLB, kubeProxyReplacement }) =>
    socketLB.hostNamespaceOnly &&
    (!socketLB.enabled || !kubeProxyReplacement) && [
      'socketLB.hostNamespaceOnly',
      'There is no translation at connect() to restrict.',
      'socketLB.enabled or kubeProxyReplacement is off.',
      'Switch socketLB.hostNamespaceOnly off.',
    ],
  ({ policyCIDRMatchMode }) =>
    policyCIDRMatchMode.some((mode) => mode !== 'nodes') && [
      'policyCIDRMatchMode',
      `“${policyCIDRMatchMode.join(', ')}” is not known.`,
      'CIDR rules can be made to match nodes as well, and nothing else.',
      'Use nodes, or leave it empty.',
    ],
  ({ hubble }) =>
    hubble.listenAddress !== ':4244' &&
    !hubble.listenAddress.endsWith(':4244') && [
      'hubble.listenAddress',
      `The console would not find the agents at “${hubble.listenAddress}”.`,
      'It reaches them on port 4244 of their pods.',
      'Use :4244, or an address with this port.',
    ],
  ({ policyAuditMode, policyEnforcementMode }) =>
    policyAuditMode &&
    policyEnforcementMode === 'never' && [
      'policyAuditMode',
      'There would be nothing to audit.',
      'policyEnforcementMode is never: policies are not even looked at.',
      'Set policyEnforcementMode to default.',
    ],
  duration('conntrackGCInterval', (values) => values.conntrackGCInterval),
  duration('dnsProxy.proxyResponseMaxDelay', (values) => values.dnsProxy.proxyResponseMaxDelay),
  size('bpf.ctTcpMax', ({ bpf }) => bpf.ctTcpMax),
  size('bpf.natMax', ({ bpf }) => bpf.natMax),
  size('bpf.lbMapMax', ({ bpf }) => bpf.lbMapMax),
  size('bpf.policyMapMax', ({ bpf }) => bpf.policyMapMax),
  size('bpf.ipcacheMax', ({ bpf }) => bpf.ipcacheMax),
  size('dnsProxy.minTtl', ({ dnsProxy }) => dnsProxy.minTtl),
  size('dnsProxy.maxIPsPerHost', ({ dnsProxy }) => dnsProxy.maxIPsPerHost),
  ({ bpf }) =>
    (bpf.mapDynamicSizeRatio <= 0 || bpf.mapDynamicSizeRatio > 0.5) && [
      'bpf.mapDynamicSizeRatio',
      `A share of ${bpf.mapDynamicSizeRatio} cannot work.`,
      'It is the part of the node’s memory for the tables: above 0, up to 0.5.',
      'Use 0.0025; single tables have sizes of their own.',
    ],
  ({ cni }) => {
    const bad = [cni.binPath, cni.confPath].find((path) => !/^\/[\w./-]+$/.test(path) || path.includes('..'));
    return (
      bad !== undefined && [
        'cni.binPath',
        `“${bad}” is not a directory of a node.`,
        'The agent’s pod mounts it from the node: it is an absolute path.',
        'Correct cni.binPath and cni.confPath; usually /opt/cni/bin and /etc/cni/net.d.',
      ]
    );
  },
  (values, { agentKeys }) => {
    if (!agentKeys) return undefined;
    const known = new Set(agentKeys);
    const unknown = changedPaths(values).filter((path) => !known.has(path) && !consoleValues.includes(path));
    return (
      unknown.length > 0 && [
        unknown[0] ?? '',
        `The agent of this console does not know ${unknown.join(', ')}.`,
        'It would refuse to start with a value that it cannot keep.',
        'Leave it at its default, or use a console with a newer agent.',
      ]
    );
  },
];

function changedPaths(values: Values): readonly string[] {
  const walk = (tree: Readonly<Record<string, unknown>>, before: string): readonly string[] =>
    Object.entries(tree).flatMap(([key, value]) =>
      typeof value === 'object' && value !== null && !Array.isArray(value)
        ? walk(value as Readonly<Record<string, unknown>>, `${before}${key}.`)
        : [`${before}${key}`],
    );
  return walk(changedValues(values), '');
}

/** What works, but needs something from outside or has a price. */
export const warning: readonly ((values: Values, facts: ValueFacts) => string | undefined | false)[] = [
  ({ tunnelProtocol, routingMode }, { geneve }) => {
    const unknown = geneve?.filter(({ able }) => able === undefined).map(({ node }) => node) ?? [];
    if (routingMode !== 'tunnel' || tunnelProtocol !== 'geneve' || (geneve && unknown.length === 0)) return undefined;
    return `Geneve needs CONFIG_GENEVE in every node’s kernel. The preflight asks them${unknown.length > 0 ? `; not asked yet: ${unknown.join(', ')}` : ''}.`;
  },
  ({ routingMode, loadBalancer }) =>
    routingMode === 'native' &&
    loadBalancer.mode !== 'snat' &&
    'Direct server return: the network must let nodes answer with service addresses as their source, and let IP options (of IPv6: destination options) through.',
  ({ loadBalancer }) =>
    loadBalancer.acceleration === 'native' &&
    'XDP acceleration needs a driver that has it on every device: look at the preflight. Devices without are served without it, and the node’s status is degraded.',
  ({ bandwidthManager }) =>
    bandwidthManager.enabled &&
    'Where a node’s kernel has no packet scheduler fq (look at the preflight), what is above a limit is dropped instead of delayed.',
  ({ hostFirewall }) =>
    hostFirewall.enabled &&
    'The host firewall can lock you out of nodes: let TCP 22, 6443 and 10250 in before the first policy with a nodeSelector.',
  ({ ipv6 }, { podCIDRs6 }) =>
    !ipv6.enabled &&
    (podCIDRs6?.length ?? 0) > 0 &&
    'The nodes have IPv6 pod CIDRs as well; with ipv6.enabled off pods get IPv4 only.',
  ({ policyAuditMode }) => policyAuditMode && 'policyAuditMode is on: nothing is denied, only reported.',
  ({ l7Proxy }) => !l7Proxy && 'l7Proxy is off: policies with HTTP rules or names are refused on every node.',
];
