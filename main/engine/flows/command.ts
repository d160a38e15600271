import { fromJsonString, toJsonString } from '@bufbuild/protobuf';
import { failed, ok, type Result } from '../../../contract/failure.ts';
import { type FlowFilter, type Verdict, verdictSchema } from '../../../contract/flows.ts';
import {
  DropReasonSchema,
  FlowFilterSchema,
  type FlowFilter as HubbleFilter,
  TrafficDirection,
  VerdictSchema,
} from '../agents/gen/flow/flow_pb.ts';
import { eventTypes } from './convert.ts';
import { parseEvent, toHubbleFilters, traceSubTypeName } from './filters.ts';
import { quote, splitWords } from './shell.ts';

type Lists = { -readonly [K in keyof FlowFilter]: FlowFilter[K] };
type TextField = Exclude<keyof FlowFilter, 'reply' | 'identity' | 'verdict' | 'direction'>;

/** Fields that are lists of text, with their flag. */
const flags: readonly (readonly [TextField, string])[] = [
  ['namespace', 'namespace'],
  ['fromNamespace', 'from-namespace'],
  ['toNamespace', 'to-namespace'],
  ['pod', 'pod'],
  ['fromPod', 'from-pod'],
  ['toPod', 'to-pod'],
  ['label', 'label'],
  ['fromLabel', 'from-label'],
  ['toLabel', 'to-label'],
  ['ip', 'ip'],
  ['fromIP', 'from-ip'],
  ['toIP', 'to-ip'],
  ['port', 'port'],
  ['fromPort', 'from-port'],
  ['toPort', 'to-port'],
  ['protocol', 'protocol'],
  ['workload', 'workload'],
  ['service', 'service'],
  ['node', 'node-name'],
  ['event', 'type'],
  ['tcpFlags', 'tcp-flags'],
  ['dropReason', 'drop-reason-desc'],
];

/** Groups of flags that the hubble CLI refuses beside each other, and combinations that it reads in another way. */
const conflicts: readonly (readonly string[])[] = [
  ['from-ip', 'ip', 'from-namespace', 'namespace'],
  ['from-ip', 'ip', 'from-pod', 'pod'],
  ['to-ip', 'ip', 'to-namespace', 'namespace'],
  ['to-ip', 'ip', 'to-pod', 'pod'],
  ['to-pod', 'namespace'],
  ['from-pod', 'namespace'],
  ['label', 'from-label'],
  ['label', 'to-label'],
  ['port', 'from-port'],
  ['port', 'to-port'],
  ['pod', 'from-pod', 'from-namespace'],
  ['pod', 'to-pod', 'to-namespace'],
  // Namespaces and services meet in one list there.
  ['service', 'namespace', 'pod'],
];

function usedFlags(filter: FlowFilter): readonly (readonly [string, string])[] {
  const words: [string, string][] = [];
  for (const [field, flag] of flags) for (const value of filter[field] ?? []) words.push([flag, value]);
  for (const value of filter.verdict ?? []) words.push(['verdict', value]);
  for (const value of filter.identity ?? []) words.push(['identity', String(value)]);
  for (const value of filter.direction ?? []) words.push(['traffic-direction', value.toLowerCase()]);
  if (filter.reply !== undefined) words.push([filter.reply ? 'reply' : 'not-reply', '']);
  return words;
}

/** Can this filter be said with flags, meaning the same? */
function sayable(filter: FlowFilter): boolean {
  const words = usedFlags(filter);
  const used = new Set(words.map(([flag]) => flag));
  if (words.length === 0 || conflicts.some((group) => group.filter((flag) => used.has(flag)).length > 1)) return false;
  // Values that the flags would take apart or refuse.
  if (words.some(([flag, value]) => value === '' && !flag.endsWith('reply'))) return false;
  if (filter.verdict?.includes('UNKNOWN')) return false;
  if (filter.event?.some((text) => !parseEvent(text)) || filter.dropReason?.some((name) => !isDropReason(name)))
    return false;
  const namespaced = (namespaces: FlowFilter['pod'], pods: FlowFilter['pod']) =>
    !namespaces?.length || !pods?.some((pod) => pod.includes('/'));
  return (
    namespaced(filter.namespace, filter.pod) &&
    namespaced(filter.fromNamespace, filter.fromPod) &&
    namespaced(filter.toNamespace, filter.toPod)
  );
}

function isDropReason(name: string): boolean {
  return DropReasonSchema.values.some((value) => value.name === name);
}

function flagWords(filter: FlowFilter, negated: boolean): readonly string[] {
  return usedFlags(filter).flatMap(([flag, value]) => [
    ...(negated ? ['--not'] : []),
    `--${flag}`,
    ...(value === '' ? [] : [value]),
  ]);
}

function jsonWords(filters: readonly FlowFilter[], flag: string): readonly string[] {
  return filters
    .flatMap(toHubbleFilters)
    .flatMap((filter) => [`--${flag}`, toJsonString(FlowFilterSchema, filter, { useProtoFieldName: true })]);
}

export interface ObserveRequest {
  readonly allow: readonly FlowFilter[];
  readonly deny: readonly FlowFilter[];
  readonly last: number;
  readonly follow: boolean;
}

/** The same request for the hubble CLI, quoted for a POSIX shell. One filter per list is said with flags, more as JSON. */
export function asHubbleCommand({ allow, deny, last, follow }: ObserveRequest): string {
  const [first] = allow;
  const [denied] = deny;
  const words = ['hubble', 'observe'];
  if (last > 0) words.push('--last', String(last));
  if (follow) words.push('--follow');
  words.push(
    ...(first && allow.length === 1 && sayable(first) ? flagWords(first, false) : jsonWords(allow, 'allowlist')),
  );
  words.push(
    ...(denied && deny.length === 1 && sayable(denied) ? flagWords(denied, true) : jsonWords(deny, 'denylist')),
  );
  return words.map(quote).join(' ');
}

/** Flags with a value that say nothing about which flows. */
const ignoredWithValue = new Set([
  'last',
  'first',
  'output',
  'o',
  'since',
  'until',
  'server',
  'tls-server-name',
  'tls-ca-cert-files',
  'tls-client-cert-file',
  'tls-client-key-file',
  'timeout',
  'config',
  'time-format',
  'color',
  'port-forward-port',
  'n-last',
  'kubeconfig',
  'kube-context',
]);
const ignored = new Set([
  'follow',
  'f',
  'all',
  'port-forward',
  'P',
  'tls',
  'tls-allow-insecure',
  'print-node-name',
  'print-policy-names',
  'debug',
  'D',
  'json',
  'j',
  'numeric',
  'ip-translation',
  'no-ip-translation',
  'i',
]);
const shortNames: Readonly<Record<string, string>> = { n: 'namespace', A: 'all-namespaces', t: 'type', l: 'label' };

function unknown(flag: string): Result<never> {
  return failed({
    code: 'flows.unknown-flag',
    what: `“${flag}” has no equivalent here.`,
    why: 'The flag is not known, or it filters by something that the flows view cannot filter by.',
    fix: 'Leave it out, or filter in a terminal with the hubble CLI.',
  });
}

function wrongValue(flag: string, value: string): Result<never> {
  return failed({
    code: 'flows.wrong-value',
    what: `“${value}” is not a value of --${flag}.`,
    why: 'The hubble CLI would refuse it too.',
    fix: 'Correct the value.',
  });
}

function append<K extends TextField>(filter: Lists, field: K, value: string): void {
  (filter as Record<TextField, readonly string[] | undefined>)[field] = [...(filter[field] ?? []), value];
}

function putFlag(filter: Lists, flag: string, value: string): Result<void> {
  const field = flags.find(([, name]) => name === flag)?.[0];
  if (field) {
    if (field === 'event' && !parseEvent(value)) return wrongValue(flag, value);
    if (field === 'dropReason' && !isDropReason(value)) return wrongValue(flag, value);
    append(
      filter,
      field,
      field === 'protocol' ? value.toLowerCase() : field === 'tcpFlags' ? value.toUpperCase() : value,
    );
    return ok(undefined);
  }
  switch (flag) {
    case 'verdict': {
      const verdict = verdictSchema.safeParse(value.toUpperCase());
      if (!verdict.success) return wrongValue(flag, value);
      filter.verdict = [...(filter.verdict ?? []), verdict.data];
      return ok(undefined);
    }
    case 'identity': {
      if (!/^\d+$/.test(value)) return wrongValue(flag, value);
      filter.identity = [...(filter.identity ?? []), Number(value)];
      return ok(undefined);
    }
    case 'traffic-direction': {
      const direction = value.toUpperCase();
      if (direction !== 'INGRESS' && direction !== 'EGRESS') return wrongValue(flag, value);
      filter.direction = [...(filter.direction ?? []), direction];
      return ok(undefined);
    }
    default:
      return unknown(`--${flag}`);
  }
}

/** Reads a `hubble observe …` line. What it says about output and connection is passed over; unknown filters are refused. */
export function fromHubbleCommand(
  command: string,
): Result<{ readonly allow: readonly FlowFilter[]; readonly deny: readonly FlowFilter[] }> {
  const split = splitWords(command);
  if (!split.ok) return split;
  const words = [...split.value];
  while (words[0] !== undefined && /^(\$|hubble|observe|flows|.*\/hubble)$/.test(words[0])) words.shift();
  const allow: Lists = {};
  const deny: Lists = {};
  const lists: { readonly allow: FlowFilter[]; readonly deny: FlowFilter[] } = { allow: [], deny: [] };
  let negated = false;
  for (let word = words.shift(); word !== undefined; word = words.shift()) {
    const parsed = /^(?:--([a-z][\w-]*)|-([A-Za-z]))(?:=(.*))?$/s.exec(word);
    if (!parsed) return unknown(word);
    const flag = parsed[1] ?? shortNames[parsed[2] ?? ''] ?? parsed[2] ?? '';
    if (flag === 'not') {
      negated = true;
      continue;
    }
    if (ignored.has(flag)) continue;
    const target = negated ? deny : allow;
    negated = false;
    if (flag === 'reply' || flag === 'not-reply') {
      target.reply = flag === 'reply';
      continue;
    }
    if (flag === 'all-namespaces') continue;
    const value = parsed[3] ?? words.shift();
    if (value === undefined) return wrongValue(flag, '');
    if (ignoredWithValue.has(flag)) continue;
    if (flag === 'allowlist' || flag === 'denylist') {
      const read = fromJSON(value);
      if (!read.ok) return read;
      lists[flag === 'allowlist' ? 'allow' : 'deny'].push(read.value);
      continue;
    }
    const put = putFlag(target, flag, value);
    if (!put.ok) return put;
  }
  if (Object.keys(allow).length > 0) lists.allow.unshift(allow);
  if (Object.keys(deny).length > 0) lists.deny.unshift(deny);
  return ok(lists);
}

function fromJSON(text: string): Result<FlowFilter> {
  let filter: HubbleFilter;
  try {
    filter = fromJsonString(FlowFilterSchema, text);
  } catch (error) {
    return failed({
      code: 'flows.wrong-filter',
      what: 'The filter is not a FlowFilter in JSON.',
      why: error instanceof Error ? error.message : String(error),
      fix: 'Correct it, or copy it again.',
    });
  }
  return fromHubbleFilter(filter);
}

/** Fields of Hubble's filter that the contract has. */
const understood = new Set([
  'sourcePod',
  'destinationPod',
  'sourceLabel',
  'destinationLabel',
  'sourceIp',
  'destinationIp',
  'sourcePort',
  'destinationPort',
  'verdict',
  'protocol',
  'nodeName',
  'trafficDirection',
  'eventType',
  'tcpFlags',
  'dropReasonDesc',
  'reply',
  'uuid',
  'sourceIdentity',
  'destinationIdentity',
  'sourceWorkload',
  'destinationWorkload',
  'sourceService',
  'destinationService',
]);

/** One filter of Hubble's API as the view edits it. Fields that have no side there are refused when they stand on one. */
export function fromHubbleFilter(filter: HubbleFilter): Result<FlowFilter> {
  for (const [field, value] of Object.entries(filter)) {
    if (field.startsWith('$') || understood.has(field)) continue;
    if (Array.isArray(value) ? value.length > 0 : value !== undefined) return unknown(field);
  }
  // Identity, workload and service have no side in the contract, so one side alone cannot be kept.
  const sided = ['Identity', 'Workload', 'Service'] as const;
  for (const name of sided)
    if (filter[`source${name}`].length > 0 || filter[`destination${name}`].length > 0)
      return unknown(`source_${name.toLowerCase()} or destination_${name.toLowerCase()} in JSON`);
  const result: Lists = {};
  const put = (field: TextField, values: readonly string[]) => {
    if (values.length > 0) (result as Record<string, unknown>)[field] = [...values];
  };
  put('fromPod', filter.sourcePod);
  put('toPod', filter.destinationPod);
  put('fromLabel', filter.sourceLabel);
  put('toLabel', filter.destinationLabel);
  put('fromIP', filter.sourceIp);
  put('toIP', filter.destinationIp);
  put('fromPort', filter.sourcePort);
  put('toPort', filter.destinationPort);
  put('protocol', filter.protocol);
  put('node', filter.nodeName);
  put('event', filter.eventType.map(eventText));
  put(
    'tcpFlags',
    filter.tcpFlags.map((set) =>
      (['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG', 'ECE', 'CWR', 'NS'] as const).filter((name) => set[name]).join(','),
    ),
  );
  put(
    'dropReason',
    filter.dropReasonDesc.map((number) => DropReasonSchema.value[number]?.name ?? String(number)),
  );
  if (filter.uuid.length > 0) put('event', ['none']);
  if (filter.verdict.length > 0)
    result.verdict = filter.verdict.map((number) => {
      const name = VerdictSchema.value[number]?.name;
      return (verdictSchema.safeParse(name).success ? name : 'UNKNOWN') as Verdict;
    });
  if (filter.trafficDirection.length > 0)
    result.direction = filter.trafficDirection.map((one) => (one === TrafficDirection.INGRESS ? 'INGRESS' : 'EGRESS'));
  const [reply] = filter.reply;
  if (reply !== undefined) result.reply = reply;
  return ok(result);
}

function eventText({ type, matchSubType, subType }: HubbleFilter['eventType'][number]): string {
  const name = Object.entries(eventTypes).find(([, number]) => number === type)?.[0] ?? String(type);
  if (!matchSubType) return name;
  return `${name}:${type === eventTypes.trace ? traceSubTypeName(subType) : subType}`;
}
