import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { Flow, FlowSide, PolicyReference, Verdict } from '../../../contract/flows.ts';
import { verdictSchema } from '../../../contract/flows.ts';
import {
  type Endpoint,
  FlowType,
  type Flow as HubbleFlow,
  type Service as HubbleService,
  type Layer4,
  type Policy,
  SocketTranslationPointSchema,
  type TCPFlags,
  TraceObservationPointSchema,
  TrafficDirection,
  VerdictSchema,
} from '../agents/gen/flow/flow_pb.ts';
import { explainDrop } from './drop-reasons.ts';

/** Hubble's numbers of monitor message types (event_type.type). */
export const eventTypes = { drop: 1, trace: 4, 'policy-verdict': 5, 'trace-sock': 7, l7: 129 } as const;
const eventNames = new Map<number, string>(Object.entries(eventTypes).map(([name, number]) => [number, name]));

/** Names of policy_match_type, as the hubble CLI prints them. */
const matchNames: Readonly<Record<number, string>> = {
  0: 'none',
  1: 'L3-Only',
  2: 'L3-L4',
  3: 'L4-Only',
  4: 'all',
  5: 'L3-Proto',
  6: 'Proto-Only',
};

const flagNames = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG', 'ECE', 'CWR', 'NS'] as const;

/** Unix milliseconds with microseconds as fraction. */
export function millisecondsOf(time: Timestamp | undefined): number {
  if (!time) return 0;
  return Number(time.seconds) * 1000 + Math.round(time.nanos / 1000) / 1000;
}

/** "to-endpoint" out of "TO_ENDPOINT". */
function kebab(name: string | undefined): string {
  return (name ?? '').toLowerCase().replaceAll('_', '-');
}

/** The reserved entity among labels, without its prefix; "" for pods and addresses. */
export function entityOf(labels: readonly string[]): string {
  const found = labels.find((label) => label.startsWith('reserved:'));
  // A node that hosts the API server carries both labels; the more telling one is shown.
  if (labels.includes('reserved:kube-apiserver')) return 'kube-apiserver';
  return found?.slice('reserved:'.length) ?? '';
}

interface Transport {
  readonly protocol: string;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly flags: TCPFlags | undefined;
  readonly icmp: { readonly type: number; readonly code: number } | undefined;
}

function transportOf(l4: Layer4 | undefined): Transport {
  const none = { sourcePort: 0, destinationPort: 0, flags: undefined, icmp: undefined };
  const layer = l4?.protocol;
  switch (layer?.case) {
    case 'TCP': {
      const { sourcePort, destinationPort, flags } = layer.value;
      return { ...none, protocol: 'TCP', sourcePort, destinationPort, flags };
    }
    case 'UDP':
    case 'SCTP': {
      const { sourcePort, destinationPort } = layer.value;
      return { ...none, protocol: layer.case, sourcePort, destinationPort };
    }
    case 'ICMPv4':
    case 'ICMPv6': {
      const { type, code } = layer.value;
      return { ...none, protocol: layer.case, icmp: { type, code } };
    }
    case 'VRRP':
    case 'IGMP':
      return { ...none, protocol: layer.case };
    default:
      return { ...none, protocol: '' };
  }
}

function sideOf(
  endpoint: Endpoint | undefined,
  rest: {
    readonly address: string;
    readonly port: number;
    readonly mac: string;
    readonly names: readonly string[];
    readonly service: HubbleService | undefined;
  },
): FlowSide {
  const labels = endpoint?.labels ?? [];
  const entity = entityOf(labels);
  const pod = endpoint?.podName ?? '';
  const namespace = endpoint?.namespace ?? '';
  const workload = endpoint?.workloads[0];
  const service = rest.service?.name ? `${rest.service.namespace}/${rest.service.name}` : '';
  const named = rest.names[0];
  // As the hubble command prints it: before a service's address is translated nobody is behind it but the service.
  const label =
    pod !== ''
      ? `${namespace}/${pod}`
      : service || (entity === 'world' && named ? named : entity || rest.address || 'unknown');
  return {
    label,
    namespace,
    pod,
    workload: workload?.name ?? '',
    service,
    entity,
    address: rest.address,
    port: rest.port,
    identity: endpoint?.identity ?? 0,
    labels,
    mac: rest.mac,
    names: rest.names,
  };
}

const sectionPrefix = /^fairlead:section=(.*)$/;

function policyOf(policy: Policy): PolicyReference {
  const section = policy.labels.map((label) => sectionPrefix.exec(label)?.[1]).find((found) => found !== undefined);
  return {
    kind: policy.kind,
    namespace: policy.namespace,
    name: policy.name,
    ...(section ? { section } : {}),
  };
}

function eventOf(flow: HubbleFlow): string {
  if (flow.Type === FlowType.L7) return 'l7';
  if (flow.Type === FlowType.SOCK) return 'trace-sock';
  return eventNames.get(flow.eventType?.type ?? 0) ?? '';
}

function verdictOf(flow: HubbleFlow): Verdict {
  const parsed = verdictSchema.safeParse(VerdictSchema.value[flow.verdict]?.name);
  return parsed.success ? parsed.data : 'UNKNOWN';
}

function directionOf(direction: TrafficDirection): Flow['direction'] {
  switch (direction) {
    case TrafficDirection.INGRESS:
      return 'INGRESS';
    case TrafficDirection.EGRESS:
      return 'EGRESS';
    default:
      return 'UNKNOWN';
  }
}

function summaryOf(flow: HubbleFlow, transport: Transport, flags: readonly string[]): string {
  if (flow.Summary !== '') return flow.Summary;
  if (transport.icmp) return `${transport.protocol} type ${transport.icmp.type} code ${transport.icmp.code}`;
  return flags.length > 0 ? `TCP Flags: ${flags.join(', ')}` : transport.protocol;
}

/** A Hubble flow as the views show it. Pure. */
export function convertFlow(flow: HubbleFlow, sequence: number, node: string): Flow {
  const transport = transportOf(flow.l4);
  const flags = flagNames.filter((name) => transport.flags?.[name]);
  const verdict = verdictOf(flow);
  const reason = flow.dropReasonDesc || flow.dropReason;
  const drop = verdict === 'DROPPED' || verdict === 'ERROR' || reason !== 0 ? explainDrop(reason) : undefined;
  const observation =
    flow.Type === FlowType.SOCK
      ? kebab(SocketTranslationPointSchema.value[flow.sockXlatePoint]?.name)
          .replace('sock-xlate-point-', '')
          .replace('direction', 'xlate')
      : kebab(TraceObservationPointSchema.value[flow.traceObservationPoint]?.name);
  const event = eventOf(flow);
  return {
    sequence,
    uuid: flow.uuid,
    time: millisecondsOf(flow.time),
    node: flow.nodeName.replace(/^default\//, '') || node,
    verdict,
    dropReason: drop?.name ?? '',
    dropText: drop?.text ?? '',
    dropHelp: drop?.help ?? '',
    direction: directionOf(flow.trafficDirection),
    reply: flow.isReply ?? null,
    source: sideOf(flow.source, {
      address: flow.IP?.source ?? '',
      port: transport.sourcePort,
      mac: flow.ethernet?.source ?? '',
      names: flow.sourceNames,
      service: flow.sourceService,
    }),
    destination: sideOf(flow.destination, {
      address: flow.IP?.destination ?? '',
      port: transport.destinationPort,
      mac: flow.ethernet?.destination ?? '',
      names: flow.destinationNames,
      service: flow.destinationService,
    }),
    protocol: transport.protocol,
    tcpFlags: flags,
    ...(transport.icmp ? { icmp: transport.icmp } : {}),
    event,
    observationPoint: observation === 'unknown-point' || observation === 'unknown' ? '' : observation,
    policyMatch: event === 'policy-verdict' ? (matchNames[flow.policyMatchType] ?? String(flow.policyMatchType)) : '',
    allowedBy: [...flow.ingressAllowedBy, ...flow.egressAllowedBy].map(policyOf),
    deniedBy: [...flow.ingressDeniedBy, ...flow.egressDeniedBy].map(policyOf),
    interface: flow.interface?.name ?? '',
    summary: summaryOf(flow, transport, flags),
    socketCookie: flow.socketCookie === 0n ? '' : flow.socketCookie.toString(),
  };
}
