import { create, type MessageInitShape } from '@bufbuild/protobuf';
import type { FlowFilter } from '../../../contract/flows.ts';
import {
  DropReason,
  EventTypeFilterSchema,
  FlowFilterSchema,
  type FlowFilter as HubbleFilter,
  TCPFlagsSchema,
  TraceObservationPointSchema,
  TrafficDirection,
  Verdict,
} from '../agents/gen/flow/flow_pb.ts';
import { eventTypes } from './convert.ts';

type Init = MessageInitShape<typeof FlowFilterSchema>;
type Side = 'source' | 'destination';
type Texts = readonly string[] | undefined;

/** A filter that no flow passes: Hubble's answer to "a and not a". */
const never: Init = { uuid: ['none'] };

/** Sub-type of a trace event by the name of its observation point, as the BPF programs number them. */
export function traceSubType(name: string): number | undefined {
  if (name === 'to-endpoint') return 0;
  const wanted = name.toUpperCase().replaceAll('-', '_');
  return TraceObservationPointSchema.values.find((value) => value.name === wanted)?.number;
}

/** Name of a trace sub-type. */
export function traceSubTypeName(number: number): string {
  if (number === 0) return 'to-endpoint';
  return (TraceObservationPointSchema.values.find((value) => value.number === number)?.name ?? String(number))
    .toLowerCase()
    .replaceAll('_', '-');
}

/** "trace", "trace:to-network", "5" → Hubble's numbers; undefined when it is neither a name nor a number. */
export function parseEvent(text: string): { type: number; matchSubType: boolean; subType: number } | undefined {
  const [name = '', sub] = text.split(':', 2);
  const type =
    (eventTypes as Readonly<Record<string, number>>)[name] ?? (/^\d+$/.test(name) ? Number(name) : undefined);
  if (type === undefined) return undefined;
  if (sub === undefined) return { type, matchSubType: false, subType: 0 };
  const named = type === eventTypes.trace ? traceSubType(sub) : undefined;
  const subType = named ?? (/^\d+$/.test(sub) ? Number(sub) : undefined);
  return subType === undefined ? undefined : { type, matchSubType: true, subType };
}

const flagNames = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG', 'ECE', 'CWR', 'NS'] as const;

/** "SYN,ACK" → flags that must all be set. */
function parseFlags(text: string): Partial<Record<(typeof flagNames)[number], boolean>> {
  const set = text.toUpperCase().split(',');
  return Object.fromEntries(flagNames.filter((name) => set.includes(name)).map((name) => [name, true]));
}

function parseWorkload(text: string): { kind: string; name: string } {
  const slash = text.indexOf('/');
  return slash < 0 ? { kind: '', name: text } : { kind: text.slice(0, slash), name: text.slice(slash + 1) };
}

/** Joins lists of namespaces and of pod patterns that must both hold. Undefined: no condition; empty: impossible. */
function podPatterns(namespaces: Texts, pods: Texts): readonly string[] | undefined {
  if (!namespaces?.length) return pods?.length ? pods : undefined;
  if (!pods?.length) return namespaces.map((namespace) => `${namespace}/`);
  return pods.flatMap((pod) => {
    const slash = pod.indexOf('/');
    if (slash < 0) return namespaces.map((namespace) => `${namespace}/${pod}`);
    return namespaces.includes(pod.slice(0, slash)) ? [pod] : [];
  });
}

/** Conditions of one side that must hold beside each other: each list is "one of these". */
function both(a: readonly string[] | undefined, b: readonly string[] | undefined): readonly string[] | undefined {
  if (!a?.length) return b?.length ? b : undefined;
  if (!b?.length) return a;
  return a.filter((value) => b.includes(value));
}

/** Pod patterns are prefixes: of two that must both hold, the longer one is kept where it begins with the other. */
function bothPods(a: readonly string[] | undefined, b: readonly string[] | undefined): readonly string[] | undefined {
  if (!a) return b;
  if (!b) return a;
  const pairs = a.flatMap((one) =>
    b.flatMap((other) => (one.startsWith(other) ? [one] : other.startsWith(one) ? [other] : [])),
  );
  return [...new Set(pairs)];
}

const eitherFields = ['namespace', 'pod', 'label', 'ip', 'port', 'identity', 'workload', 'service'] as const;

function hasEither(filter: FlowFilter): boolean {
  return eitherFields.some((field) => (filter[field]?.length ?? 0) > 0);
}

/** Conditions on one side; `either` says whether the fields without a side count for it. */
function sideOf(filter: FlowFilter, side: Side, either: boolean): Init | undefined {
  const source = side === 'source';
  const own = {
    pods: podPatterns(source ? filter.fromNamespace : filter.toNamespace, source ? filter.fromPod : filter.toPod),
    labels: source ? filter.fromLabel : filter.toLabel,
    ips: source ? filter.fromIP : filter.toIP,
    ports: source ? filter.fromPort : filter.toPort,
  };
  const pods = bothPods(own.pods, either ? podPatterns(filter.namespace, filter.pod) : undefined);
  const labels = both(own.labels, either ? filter.label : undefined);
  const ips = both(own.ips, either ? filter.ip : undefined);
  const ports = both(own.ports, either ? filter.port : undefined);
  for (const list of [pods, labels, ips, ports]) if (list && list.length === 0) return undefined;
  const identities = either ? [...(filter.identity ?? [])] : [];
  const workloads = either ? (filter.workload ?? []).map(parseWorkload) : [];
  const services = either ? [...(filter.service ?? [])] : [];
  return source
    ? {
        sourcePod: [...(pods ?? [])],
        sourceLabel: [...(labels ?? [])],
        sourceIp: [...(ips ?? [])],
        sourcePort: [...(ports ?? [])],
        sourceIdentity: identities,
        sourceWorkload: workloads,
        sourceService: services,
      }
    : {
        destinationPod: [...(pods ?? [])],
        destinationLabel: [...(labels ?? [])],
        destinationIp: [...(ips ?? [])],
        destinationPort: [...(ports ?? [])],
        destinationIdentity: identities,
        destinationWorkload: workloads,
        destinationService: services,
      };
}

function common(filter: FlowFilter): Init | undefined {
  const eventType = (filter.event ?? []).flatMap((text) => parseEvent(text) ?? []);
  const drops = (filter.dropReason ?? []).flatMap((name) => {
    const number = DropReason[name as keyof typeof DropReason];
    return number === undefined ? [] : [number];
  });
  // Names that nothing can have leave a list empty, which Hubble would read as "any".
  if ((filter.event?.length ?? 0) > 0 && eventType.length === 0) return undefined;
  if ((filter.dropReason?.length ?? 0) > 0 && drops.length === 0) return undefined;
  return {
    verdict: (filter.verdict ?? []).map((name) => (name === 'UNKNOWN' ? Verdict.VERDICT_UNKNOWN : Verdict[name])),
    protocol: (filter.protocol ?? []).map((name) => name.toLowerCase()),
    nodeName: [...(filter.node ?? [])],
    trafficDirection: (filter.direction ?? []).map((name) => TrafficDirection[name]),
    eventType: eventType.map((one) => create(EventTypeFilterSchema, one)),
    tcpFlags: (filter.tcpFlags ?? []).map((text) => create(TCPFlagsSchema, parseFlags(text))),
    dropReasonDesc: drops,
    reply: filter.reply === undefined ? [] : [filter.reply],
  };
}

/**
 * The filters of Hubble's API that together pass what this one passes. Fields of either side give two filters, one that
 * asks all of them of the source and one of the destination, exactly as the hubble CLI does. A filter that contradicts
 * itself gives one that passes nothing, never an empty list, which would pass all. Pure.
 */
export function toHubbleFilters(filter: FlowFilter): readonly HubbleFilter[] {
  const shared = common(filter);
  if (!shared) return [create(FlowFilterSchema, never)];
  const variants: readonly (readonly [boolean, boolean])[] = hasEither(filter)
    ? [
        [true, false],
        [false, true],
      ]
    : [[false, false]];
  const filters = variants.flatMap(([forSource, forDestination]) => {
    const source = sideOf(filter, 'source', forSource);
    const destination = sideOf(filter, 'destination', forDestination);
    return source && destination ? [create(FlowFilterSchema, { ...shared, ...source, ...destination } as Init)] : [];
  });
  return filters.length > 0 ? filters : [create(FlowFilterSchema, never)];
}

/** All filters of a list. */
export function toHubbleLists(filters: readonly FlowFilter[]): HubbleFilter[] {
  return filters.flatMap(toHubbleFilters);
}
