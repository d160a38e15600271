import { z } from 'zod/mini';
import { defaultValues, valuesSchema } from './values.ts';

/** Parts of the form, in order. */
export const valueGroups = [
  { id: 'cluster', title: 'Cluster', text: 'How the cluster is named and where its API server is.' },
  { id: 'routing', title: 'Routing', text: 'How packets travel between nodes.' },
  { id: 'addresses', title: 'Addresses', text: 'Which addresses pods have, and which they show outside.' },
  { id: 'services', title: 'Services', text: 'ClusterIP, NodePort, LoadBalancer and external addresses.' },
  { id: 'policy', title: 'Policy', text: 'What is enforced, and where.' },
  { id: 'l2', title: 'L2 announcements', text: 'Answering for service addresses on the local network.' },
  { id: 'observe', title: 'Flows and metrics', text: 'What the agent remembers and tells.' },
  { id: 'size', title: 'Sizes', text: 'How large the tables in the kernel are; 0 is automatic.' },
  { id: 'node', title: 'On the node', text: 'Interfaces, paths and how much is logged.' },
] as const;
export type ValueGroup = (typeof valueGroups)[number]['id'];

/** How one value is shown and explained. */
export interface ValueField {
  readonly path: string;
  readonly group: ValueGroup;
  readonly title: string;
  readonly text: string;
  /** Shown without asking; the others are for who needs them. */
  readonly basic: boolean;
  readonly options?: readonly string[];
  readonly placeholder?: string;
}

type Row = readonly [path: string, title: string, text: string, more?: Partial<ValueField>];
const basic = { basic: true };

const rows: Readonly<Record<ValueGroup, readonly Row[]>> = {
  cluster: [
    ['cluster.name', 'Cluster name', 'Becomes part of the names in certificates and of flows.', basic],
    [
      'k8sServiceHost',
      'API server: host',
      'A real address that every node reaches. Needed where no kube-proxy runs: service addresses work only once the agent does.',
      { ...basic, placeholder: '192.0.2.10' },
    ],
    ['k8sServicePort', 'API server: port', 'Usually 6443; 0 where no host is set.', basic],
    ['ipam.mode', 'Pod addresses', 'Out of the pod CIDR that Kubernetes gives each node.', { options: ['kubernetes'] }],
  ],
  routing: [
    [
      'routingMode',
      'Mode',
      'A tunnel works on every network. Native is faster where the network between the nodes carries pod addresses.',
      { ...basic, options: ['tunnel', 'native'] },
    ],
    [
      'tunnelProtocol',
      'Tunnel protocol',
      'VXLAN is in every kernel. Geneve needs a kernel that has it; the preflight says which nodes do.',
      { ...basic, options: ['vxlan', 'geneve'] },
    ],
    ['tunnelPort', 'Tunnel port', 'UDP port between the nodes; 0 is the usual one (8472 VXLAN, 6081 Geneve).'],
    [
      'autoDirectNodeRoutes',
      'Direct node routes',
      'The agent adds a route to every other node’s pods. All nodes must share one layer 2 network.',
      basic,
    ],
    [
      'ipv4NativeRoutingCIDR',
      'Native routing range',
      'Packets inside this range keep their addresses. It must hold every node’s pod CIDR.',
      { ...basic, placeholder: '10.0.0.0/8' },
    ],
    ['ipv6NativeRoutingCIDR', 'Native routing range, IPv6', 'The same for IPv6.', { placeholder: 'fd00::/8' }],
    [
      'endpointRoutes.enabled',
      'A route per pod',
      'The node routes to each pod’s own interface, as some cloud networks expect, instead of one route to all.',
    ],
    ['MTU', 'MTU', 'Largest packet of pods; 0 takes the device’s and subtracts what the tunnel needs.', basic],
  ],
  addresses: [
    ['ipv4.enabled', 'IPv4', 'Pods have IPv4 addresses.'],
    ['ipv6.enabled', 'IPv6', 'Pods have IPv6 addresses; every node needs an IPv6 pod CIDR.', basic],
    [
      'enableIPv4Masquerade',
      'Masquerade IPv4',
      'What leaves the cluster gets the node’s address. Off: the network outside must know the way back to pods.',
      basic,
    ],
    ['enableIPv6Masquerade', 'Masquerade IPv6', 'The same for IPv6.'],
    [
      'bpf.masquerade',
      'Masquerade in eBPF',
      'Done by the agent’s programs instead of netfilter: faster, and needed by several values below.',
      basic,
    ],
    [
      'ipMasqAgent.enabled',
      'Exceptions from masquerading',
      'As ip-masq-agent: ranges that are reached with the pod’s own address.',
    ],
    [
      'ipMasqAgent.config.nonMasqueradeCIDRs',
      'Ranges not masqueraded',
      'One range each; the private ranges if empty.',
      { placeholder: '10.0.0.0/8' },
    ],
    ['ipMasqAgent.config.masqLinkLocal', 'Masquerade link-local', 'Also to 169.254.0.0/16.'],
    ['ipMasqAgent.config.masqLinkLocalIPv6', 'Masquerade link-local, IPv6', 'Also to fe80::/10.'],
    [
      'installNoConntrackIptablesRules',
      'Spare the node’s connection tracking',
      'NOTRACK rules in the raw table for pod traffic: saves work on busy nodes. Needs native routing, eBPF masquerading and kube-proxy replacement.',
      basic,
    ],
  ],
  services: [
    [
      'kubeProxyReplacement',
      'Replace kube-proxy',
      'Services are translated in eBPF, mostly when a connection begins; no netfilter rules per service.',
      basic,
    ],
    [
      'loadBalancer.mode',
      'From outside: mode',
      'snat: answers go back through the node that was asked. dsr: the backend’s node answers directly. hybrid: dsr for TCP.',
      { ...basic, options: ['snat', 'dsr', 'hybrid'] },
    ],
    [
      'loadBalancer.algorithm',
      'Choice of backend',
      'maglev keeps most connections on their backend when nodes or backends change; random is lighter.',
      { ...basic, options: ['random', 'maglev'] },
    ],
    [
      'loadBalancer.acceleration',
      'XDP acceleration',
      'What goes on to other nodes is sent on by the driver, before the kernel’s own network code. best-effort: where a driver can and nothing else gets slower; native: wherever a driver can. Each node’s status says for every device whether, and why.',
      { options: ['disabled', 'native', 'best-effort'] },
    ],
    [
      'loadBalancer.dsrDispatch',
      'DSR: how the service address travels',
      'opt: in an option of the packet’s own headers, which needs native routing.',
      { options: ['opt', 'geneve', 'ipip'] },
    ],
    ['maglev.tableSize', 'Maglev table size', 'A prime about 100 times the number of backends of the largest service.'],
    ['maglev.hashSeed', 'Maglev seed', 'Base64 of 12 bytes; the same on all nodes. Empty: a fixed one.'],
    ['nodePort.range', 'NodePort range', 'As the API server has it: first,last.', { placeholder: '30000,32767' }],
    ['externalIPs.enabled', 'External addresses', 'Serve spec.externalIPs of services.', basic],
    [
      'externalIPs.fromPods',
      'External addresses for pods too',
      'As kube-proxy does. Whoever may make a service can then take any address from the pods (CVE-2020-8554).',
    ],
    ['hostPort.enabled', 'Host ports', 'Serve hostPort of pods.'],
    ['socketLB.enabled', 'Translate at connect()', 'In the socket instead of per packet.'],
    [
      'socketLB.hostNamespaceOnly',
      'Only for the node’s own sockets',
      'Pods are translated per packet then, as service meshes in the pod need it.',
    ],
    ['sessionAffinity', 'Session affinity', 'Serve sessionAffinity: ClientIP.'],
    [
      'enableXDPPrefilter',
      'Refuse networks in the driver',
      'What comes from refused networks is dropped by each device’s driver, at the least cost that there is. Needs drivers with XDP.',
    ],
    [
      'xdpPrefilter.cidrs',
      'Refused networks',
      'Ranges of addresses from which nothing is accepted.',
      { placeholder: '203.0.113.0/24' },
    ],
    [
      'xdpPrefilter.cidrGroups',
      'Refused CIDR groups',
      'Names of CiliumCIDRGroups whose ranges are refused, as they change.',
    ],
  ],
  policy: [
    [
      'policyEnforcementMode',
      'Enforcement',
      'default: pods that a policy selects. always: all pods, also those without a policy. never: none.',
      { ...basic, options: ['default', 'always', 'never'] },
    ],
    [
      'policyAuditMode',
      'Audit only',
      'What policies would deny is let through and reported as such: to try policies on a live cluster.',
    ],
    ['nodeSelectorLabels', 'Nodes by their labels', 'Policies can tell nodes apart by their labels.'],
    ['hostFirewall.auditMode', 'Host firewall: audit only', 'What it would deny is let through and reported.'],
    ['hostFirewall.enabled', 'Host firewall', 'Policies with a nodeSelector are enforced on the nodes themselves.'],
    [
      'policyCIDRMatchMode',
      'CIDR rules also match',
      'nodes: rules by range also match nodes of the cluster.',
      { placeholder: 'nodes' },
    ],
    ['l7Proxy', 'HTTP and DNS rules', 'A proxy in the agent for policies with HTTP rules or names.'],
    ['dnsProxy.minTtl', 'Names: shortest life', 'Seconds that an address learnt from DNS stays allowed at least.'],
    ['dnsProxy.maxIPsPerHost', 'Names: most addresses', 'Addresses remembered per name.'],
    [
      'dnsProxy.proxyResponseMaxDelay',
      'Names: longest wait',
      'How long an answer waits for the policy to be in the kernel.',
      { placeholder: '100ms' },
    ],
  ],
  l2: [
    ['l2announcements.enabled', 'Announce', 'One node answers ARP for each announced service address.', basic],
    ['l2announcements.leaseDuration', 'Lease', 'After this long without a sign of life another node takes over.'],
    ['l2announcements.leaseRenewDeadline', 'Renewal', 'How long a node tries to renew before it gives up.'],
    ['l2announcements.leaseRetryPeriod', 'Retry', 'Pause between attempts.'],
  ],
  observe: [
    ['hubble.enabled', 'Flows', 'The agent remembers flows and serves Hubble’s API.', basic],
    ['hubble.listenAddress', 'Flow server’s address', 'Where every agent serves Hubble’s API, with mutual TLS.'],
    ['hubble.eventBufferCapacity', 'Flows remembered', 'Per node; a power of two minus one.'],
    [
      'hubble.relay.enabled',
      'Relay',
      'One address that answers for all nodes, for the hubble command and its UI.',
      basic,
    ],
    ['prometheus.enabled', 'Metrics', 'Served for Prometheus on every node.'],
    ['prometheus.port', 'Metrics port', 'On every node.'],
    [
      'bpf.monitorAggregation',
      'Flow detail',
      'medium: one event per change of a connection. none: one per packet, to find a fault.',
      { options: ['medium', 'none'] },
    ],
    ['healthChecking', 'Node health', 'Agents probe each other on TCP 4240.'],
  ],
  size: [
    [
      'bpf.mapDynamicSizeRatio',
      'Share of memory',
      'Part of the node’s memory for the large tables whose size is 0 below.',
    ],
    ['bpf.ctTcpMax', 'Connections', 'Entries of connection tracking.'],
    [
      'bpf.natMax',
      'Address translations',
      'Entries of the NAT table, two for each flow; half as many more for flows that are being opened.',
    ],
    ['bpf.lbMapMax', 'Services', 'Entries of the service tables.'],
    ['bpf.policyMapMax', 'Policy lines', 'Entries of the policy table.'],
    ['bpf.ipcacheMax', 'Addresses', 'Entries of the table of who is behind which address.'],
    [
      'conntrackGCInterval',
      'Clean-up',
      'Between two clean-ups of connections; empty: automatic.',
      { placeholder: '5m' },
    ],
  ],
  node: [
    ['devices', 'Devices', 'Network devices of the nodes; empty: found out.', { ...basic, placeholder: 'eth0' }],
    [
      'bandwidthManager.enabled',
      'Bandwidth limits',
      'Enforce the pod annotations kubernetes.io/egress-bandwidth and ingress-bandwidth; without the kernel’s fq scheduler by dropping instead of delaying.',
    ],
    [
      'cni.exclusive',
      'Set other CNI configurations aside',
      'They are renamed while the agent is there and come back with the uninstall. Needed to take over from another plugin.',
      basic,
    ],
    ['cni.binPath', 'CNI plugins', 'Directory on the nodes.'],
    ['cni.confPath', 'CNI configurations', 'Directory on the nodes.'],
    ['debug', 'Debug log', 'Much more output; only to find a fault.'],
  ],
};

/** Every value with its explanation, in the order of the form. A test holds it against the schema. */
export const valueFields: readonly ValueField[] = valueGroups.flatMap(({ id }) =>
  rows[id].map(([path, title, text, more]) => ({ path, group: id, title, text, basic: false, ...more })),
);

/** Values that only the console uses: they are not written into the agent's configuration. */
export const consoleValues: readonly string[] = ['cni.binPath', 'cni.confPath', 'hubble.relay.enabled'];

interface Node {
  properties?: Record<string, Node>;
  title?: string;
  description?: string;
  [more: string]: unknown;
}

/** The values as JSON Schema, with titles, explanations and defaults: for editors, and to check values files in CI. */
export function valuesJSONSchema(): Readonly<Record<string, unknown>> {
  const schema = z.toJSONSchema(valuesSchema, { io: 'input' }) as unknown as Node;
  for (const { path, title, text } of valueFields) {
    let at: Node | undefined = schema;
    for (const key of path.split('.')) at = at?.properties?.[key];
    if (at) Object.assign(at, { title, description: text });
  }
  return { ...schema, title: 'Values of a Fairlead installation', default: defaultValues };
}
