import { DropReasonSchema } from '../agents/gen/flow/flow_pb.ts';

/** A drop in words. `help` says what it means and what to do. */
export interface DropText {
  /** Hubble's name, e.g. "POLICY_DENIED"; the number where it has none. */
  readonly name: string;
  readonly text: string;
  readonly help: string;
}

const explained: Readonly<Record<number, { readonly text: string; readonly help: string }>> = {
  130: {
    text: 'Invalid source MAC',
    help: 'The packet left a pod with a hardware address that is not the pod’s. Something inside the pod forges frames, or a bridge runs in it.',
  },
  131: {
    text: 'Invalid destination MAC',
    help: 'The frame was not meant for this interface. Look for a bridge or a stale neighbour entry inside the pod.',
  },
  132: {
    text: 'Invalid source IP',
    help: 'The packet left a pod with an address that is not the pod’s. Virtual machines and VPNs inside pods do that: give them an address of the pod network or masquerade inside the pod.',
  },
  133: {
    text: 'Policy denied',
    help: 'A policy puts default deny on for this pod and direction, and no rule admits this peer on this port. If the connection is wanted, add a rule to one of the policies named here.',
  },
  134: {
    text: 'Invalid packet',
    help: 'The packet is shorter than its headers say, or otherwise malformed. A few are harmless; many point to a broken sender or NIC offload.',
  },
  135: {
    text: 'Truncated or invalid header',
    help: 'Connection tracking could not read the TCP, UDP or ICMP header. Look for a broken sender or MTU trouble.',
  },
  136: {
    text: 'Fragmentation needed',
    help: 'The packet is larger than the route allows and must not be fragmented. Compare the MTU of the pod with that of the nodes’ network; set MTU if it was found wrongly.',
  },
  137: {
    text: 'Unknown transport protocol',
    help: 'Connection tracking knows TCP, UDP, SCTP and ICMP. Other protocols pass only without policy on both ends.',
  },
  139: {
    text: 'Unsupported network protocol',
    help: 'The packet is neither IPv4 nor ARP. IPv6 is not enabled in this version: turn it off in the application if it retries for long.',
  },
  140: {
    text: 'Missed tail call',
    help: 'A program of the datapath was not loaded, usually for a moment during an upgrade. If it goes on, restart the agent on the node and keep its log.',
  },
  141: {
    text: 'Packet could not be rewritten',
    help: 'The kernel refused to change the packet (no memory, or a cloned buffer). Look at memory pressure on the node.',
  },
  142: {
    text: 'Unknown transport protocol',
    help: 'Policy knows TCP, UDP, SCTP and ICMP; this packet is something else and no rule admits every protocol.',
  },
  151: {
    text: 'Stale or unroutable address',
    help: 'The address belongs to no pod any more, or there is no route to it. Usual just after a pod was deleted; if it goes on, a client keeps an old address (DNS cache, connection pool).',
  },
  152: {
    text: 'No local pod with this address',
    help: 'The packet reached the node that should host the pod, but the pod is not there (any more). Usual for a moment after a pod has gone.',
  },
  153: {
    text: 'Checksum could not be corrected (IP)',
    help: 'The kernel refused to update the checksum. Report it with the kernel version.',
  },
  154: {
    text: 'Checksum could not be corrected (transport)',
    help: 'The kernel refused to update the checksum. Report it with the kernel version.',
  },
  155: {
    text: 'Connection could not be tracked',
    help: 'Either a pod asked one backend twice by one port, once as a service and once by another address, and was refused so that it takes another port; or the connection tracking map took no entry: look at its pressure, which a scan or a leak of connections causes.',
  },
  157: {
    text: 'Fragments not supported',
    help: 'A fragment arrived without its first part being known. Avoid fragmentation: lower the MTU or the size of datagrams.',
  },
  158: {
    text: 'Service without backends',
    help: 'The service address has no ready pod behind it. Look at the pods that the service selects: are they there, and are they Ready?',
  },
  160: {
    text: 'No tunnel to the node',
    help: 'It is not known which node hosts the destination. Usual for a moment when a node joins; if it goes on, compare CiliumNode objects with the nodes.',
  },
  163: {
    text: 'Unknown connection state',
    help: 'The connection tracking entry could not be read. Report it with the kernel version.',
  },
  165: {
    text: 'No policy loaded for the pod',
    help: 'The pod’s policy was not in the kernel yet. It must not last: if it does, restart the agent of the node and keep its log.',
  },
  166: {
    text: 'Unsupported frame',
    help: 'The frame is not Ethernet with IPv4 or ARP. Some discovery protocols do that; it is harmless.',
  },
  167: {
    text: 'No port left for masquerading',
    help: 'All ports of the node towards this destination are in use. Spread clients over nodes, or reuse connections.',
  },
  168: {
    text: 'Protocol cannot be masqueraded',
    help: 'Only TCP, UDP and ICMP can leave the cluster under the node’s address.',
  },
  169: {
    text: 'No route',
    help: 'The node’s routing table has no way to the destination, or its neighbour does not answer. Look at ip route get on the node.',
  },
  170: {
    text: 'Encapsulated traffic refused',
    help: 'A pod sent VXLAN packets to the tunnel port. That could forge an identity, so it is never let through.',
  },
  171: {
    text: 'Invalid identity',
    help: 'The packet carries an identity that this node does not know. Usual for a moment when pods start; if it goes on, compare CiliumIdentity objects.',
  },
  172: {
    text: 'Unknown sender',
    help: 'Nobody is known behind the source address. Is the sender a pod of this cluster?',
  },
  174: {
    text: 'Service address on the wire',
    help: 'A packet for a service address arrived untranslated and from outside. Service addresses work inside the cluster only.',
  },
  177: {
    text: 'Outside the allowed source ranges',
    help: 'The service has loadBalancerSourceRanges and the client is in none of them.',
  },
  181: {
    text: 'Policy denied (deny rule)',
    help: 'A deny rule matches this connection. Deny rules win over every allow rule: change or remove the rule named here if the connection is wanted.',
  },
  183: {
    text: 'Invalid VNI',
    help: 'A tunnel packet came with a network number that is no identity. Something else uses UDP 8472 on this network.',
  },
  189: {
    text: 'Authentication required',
    help: 'A rule demands mutual authentication, which this version does not have.',
  },
  190: { text: 'Connection table missing', help: 'A map is not there, usually for a moment during an upgrade.' },
  195: { text: 'Unencrypted traffic', help: 'Encryption is demanded and the packet was not encrypted.' },
  196: {
    text: 'TTL exceeded',
    help: 'The packet travelled over too many hops: look for a routing loop. traceroute causes it on purpose.',
  },
  198: { text: 'Rate limited', help: 'More than the allowed rate arrived.' },
  202: { text: 'Host not ready', help: 'The node’s own policy was not loaded yet. It must not last.' },
  203: { text: 'Pod not ready', help: 'The pod’s programs were not loaded yet. It must not last.' },
};

function dropReasonName(number: number): string | undefined {
  return DropReasonSchema.values.find((value) => value.number === number)?.name;
}

/** Explains a drop by Hubble's number. */
export function explainDrop(reason: number): DropText {
  const name = dropReasonName(reason) ?? String(reason);
  const known = explained[reason];
  if (known) return { name, ...known };
  const words = name
    .replace(/^DROP_/, '')
    .toLowerCase()
    .replaceAll('_', ' ');
  return {
    name,
    text: /^\d+$/.test(name) ? `Reason ${name}` : words.charAt(0).toUpperCase() + words.slice(1),
    help: 'This reason is Hubble’s; the agent of this version does not give it. Look it up in the documentation of the network that serves this node.',
  };
}
