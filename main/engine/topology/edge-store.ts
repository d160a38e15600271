import type { PolicyReference } from '../../../contract/flows.ts';
import type { Edge as AgentEdge, EdgeSide as AgentSide } from '../agents/gen/fairlead/v1/agent_pb.ts';
import { entityOf } from '../flows/convert.ts';
import { explainDrop } from '../flows/drop-reasons.ts';

/** One end of an observed edge. */
export interface EdgeEnd {
  readonly namespace: string;
  readonly pod: string;
  readonly workload: string;
  readonly workloadKind: string;
  /** reserved entity, or "world" for plain addresses; "" for pods. */
  readonly entity: string;
  readonly address: string;
  readonly identity: number;
  readonly host: string;
  readonly labels: readonly string[];
}

/** What was seen of one pair of ends, protocol and port, within the window. */
export interface ObservedEdge {
  readonly source: EdgeEnd;
  readonly destination: EdgeEnd;
  readonly service: string;
  readonly protocol: string;
  readonly port: number;
  readonly forwarded: number;
  readonly dropped: number;
  readonly connections: number;
  readonly bytes: number;
  readonly dropReason: string;
  readonly deniedBy: PolicyReference | undefined;
  readonly allowedBy: PolicyReference | undefined;
  /** Unix milliseconds. */
  readonly lastSeen: number;
}

const protocolNames: Readonly<Record<number, string>> = {
  1: 'ICMP',
  2: 'IGMP',
  6: 'TCP',
  17: 'UDP',
  58: 'ICMPv6',
  132: 'SCTP',
};

/** Reads "Kind namespace/name section" as the agents write it; undefined for "". */
export function parsePolicy(text: string): PolicyReference | undefined {
  const [kind = '', name = '', ...section] = text.split(' ').filter(Boolean);
  if (kind === '' || name === '') return undefined;
  const slash = name.indexOf('/');
  return {
    kind,
    namespace: slash < 0 ? '' : name.slice(0, slash),
    name: name.slice(slash + 1),
    ...(section.length > 0 ? { section: section.join(' ') } : {}),
  };
}

function endOf(side: AgentSide | undefined): EdgeEnd {
  const labels = side?.labels ?? [];
  const pod = side?.podName ?? '';
  const entity = pod === '' ? side?.entity || entityOf(labels) || 'world' : '';
  return {
    namespace: side?.namespace ?? '',
    pod,
    workload: side?.workloadName ?? '',
    workloadKind: side?.workloadKind ?? '',
    entity,
    address: side?.address ?? '',
    identity: side?.identity ?? 0,
    host: side?.nodeName ?? '',
    labels,
  };
}

interface Bucket {
  readonly second: number;
  forwarded: number;
  dropped: number;
  connections: number;
  bytes: number;
}

interface Entry {
  source: EdgeEnd;
  destination: EdgeEnd;
  service: string;
  readonly protocol: string;
  readonly port: number;
  dropReason: string;
  deniedBy: PolicyReference | undefined;
  allowedBy: PolicyReference | undefined;
  lastSeen: number;
  readonly buckets: Bucket[];
}

function keyOfEnd(end: EdgeEnd): string {
  return end.pod !== ''
    ? `${end.namespace}/${end.pod}`
    : `${end.entity}@${end.entity === 'world' ? end.address : end.host}`;
}

/** Keeps what agents saw for as long as the longest window that somebody looks through. */
export class EdgeStore {
  readonly #entries = new Map<string, Entry>();
  readonly #keep: number;

  /** @param keep How long counts are kept, in seconds. */
  constructor(keep: number) {
    this.#keep = keep;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Takes one batch of one agent. `now` in Unix milliseconds. */
  add(edges: readonly AgentEdge[], now: number): void {
    const second = Math.floor(now / 1000);
    for (const edge of edges) this.#addOne(edge, second, now);
  }

  #addOne(edge: AgentEdge, second: number, now: number): void {
    const source = endOf(edge.source);
    const destination = endOf(edge.destination);
    const key = `${keyOfEnd(source)}>${keyOfEnd(destination)}:${edge.protocol}/${edge.destinationPort}`;
    let entry = this.#entries.get(key);
    if (!entry) {
      entry = {
        source,
        destination,
        service: edge.service,
        protocol: protocolNames[edge.protocol] ?? String(edge.protocol),
        port: edge.destinationPort,
        dropReason: '',
        deniedBy: undefined,
        allowedBy: undefined,
        lastSeen: 0,
        buckets: [],
      };
      this.#entries.set(key, entry);
    }
    // Both nodes of an edge tell of it; the one that hosts the end knows more of it.
    if (source.workload !== '') entry.source = source;
    if (destination.workload !== '') entry.destination = destination;
    if (edge.service !== '') entry.service = edge.service;
    if (edge.dropped > 0n) {
      entry.dropReason = explainDrop(edge.dropReason).text;
      entry.deniedBy = parsePolicy(edge.dropPolicy) ?? entry.deniedBy;
    }
    if (edge.forwarded > 0n) entry.allowedBy = parsePolicy(edge.allowPolicy) ?? entry.allowedBy;
    const seen = edge.lastSeen ? Number(edge.lastSeen.seconds) * 1000 + edge.lastSeen.nanos / 1e6 : now;
    // A node's clock may be ahead; the future would never leave the window.
    entry.lastSeen = Math.max(entry.lastSeen, Math.min(seen, now));
    let bucket = entry.buckets.at(-1);
    if (bucket?.second !== second) {
      bucket = { second, forwarded: 0, dropped: 0, connections: 0, bytes: 0 };
      entry.buckets.push(bucket);
    }
    bucket.forwarded += Number(edge.forwarded);
    bucket.dropped += Number(edge.dropped);
    bucket.connections += Number(edge.connections);
    bucket.bytes += Number(edge.bytes);
  }

  /** Everything seen within the last `windowSeconds`. Forgets what is older than is kept. */
  within(windowSeconds: number, now: number): readonly ObservedEdge[] {
    const oldest = Math.floor(now / 1000) - this.#keep;
    const from = now / 1000 - windowSeconds;
    const found: ObservedEdge[] = [];
    for (const [key, entry] of this.#entries) {
      while (entry.buckets[0] && entry.buckets[0].second < oldest) entry.buckets.shift();
      if (entry.buckets.length === 0) {
        this.#entries.delete(key);
        continue;
      }
      let forwarded = 0;
      let dropped = 0;
      let connections = 0;
      let bytes = 0;
      let any = false;
      for (const bucket of entry.buckets) {
        if (bucket.second + 1 <= from) continue;
        any = true;
        forwarded += bucket.forwarded;
        dropped += bucket.dropped;
        connections += bucket.connections;
        bytes += bucket.bytes;
      }
      if (!any) continue;
      const { source, destination, service, protocol, port, dropReason, deniedBy, allowedBy, lastSeen } = entry;
      found.push({
        source,
        destination,
        service,
        protocol,
        port,
        forwarded,
        dropped,
        connections,
        bytes,
        dropReason: dropped > 0 ? dropReason : '',
        deniedBy: dropped > 0 ? deniedBy : undefined,
        allowedBy,
        lastSeen,
      });
    }
    return found;
  }
}
