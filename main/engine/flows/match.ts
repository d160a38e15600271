import type { Flow, FlowFilter, FlowSide } from '../../../contract/flows.ts';
import { parsePrefix, prefixContains } from '../install/addresses.ts';
import { eventTypes } from './convert.ts';
import { parseEvent } from './filters.ts';

type Texts = readonly string[] | undefined;

function any<T>(values: readonly T[] | undefined, test: (value: T) => boolean): boolean {
  return !values?.length || values.some(test);
}

function podMatches(side: FlowSide, pattern: string): boolean {
  const slash = pattern.indexOf('/');
  if (slash < 0) return side.pod !== '' && side.pod.startsWith(pattern);
  const namespace = pattern.slice(0, slash);
  const name = pattern.slice(slash + 1);
  if (namespace !== '' && side.namespace !== namespace) return false;
  return side.namespace !== '' && (name === '' || (side.pod !== '' && side.pod.startsWith(name)));
}

/** A label selector as hubble has it: "k8s:app=web", "app=web", "app", "reserved:host". */
function labelMatches(side: FlowSide, selector: string): boolean {
  return selector.split(',').every((part) => {
    const wanted = part.trim();
    return side.labels.some((label) => {
      const plain = label.replace(/^[\w-]+:/, '');
      return [label, plain].some((text) => text === wanted || (!wanted.includes('=') && text.split('=')[0] === wanted));
    });
  });
}

function addressMatches(side: FlowSide, pattern: string): boolean {
  if (!pattern.includes('/')) return side.address === pattern;
  const outer = parsePrefix(pattern);
  const inner = parsePrefix(`${side.address}/32`);
  return outer !== undefined && inner !== undefined && prefixContains(outer, inner);
}

function portMatches(side: FlowSide, pattern: string): boolean {
  const [from = '', to] = pattern.split('-', 2);
  return to === undefined ? side.port === Number(from) : side.port >= Number(from) && side.port <= Number(to);
}

function sideMatches(
  side: FlowSide,
  wanted: { namespaces: Texts; pods: Texts; labels: Texts; ips: Texts; ports: Texts },
): boolean {
  return (
    any(wanted.namespaces, (namespace) => side.namespace === namespace) &&
    any(wanted.pods, (pod) => podMatches(side, pod)) &&
    any(wanted.labels, (label) => labelMatches(side, label)) &&
    any(wanted.ips, (ip) => addressMatches(side, ip)) &&
    any(wanted.ports, (port) => portMatches(side, port))
  );
}

function eitherMatches(side: FlowSide, filter: FlowFilter): boolean {
  return (
    sideMatches(side, {
      namespaces: filter.namespace,
      pods: filter.pod,
      labels: filter.label,
      ips: filter.ip,
      ports: filter.port,
    }) &&
    any(filter.identity, (identity) => side.identity === identity) &&
    any(filter.workload, (workload) => side.workload === workload.slice(workload.indexOf('/') + 1)) &&
    any(filter.service, (service) => side.service === service || side.service.startsWith(`${service}`))
  );
}

function eventMatches(flow: Flow, text: string): boolean {
  const parsed = parseEvent(text);
  if (!parsed) return false;
  const [, sub] = text.split(':', 2);
  return (
    (eventTypes as Readonly<Record<string, number>>)[flow.event] === parsed.type &&
    (sub === undefined || flow.observationPoint === sub)
  );
}

/**
 * Does a flow pass a filter? The same meaning as the agents give it (fields of either side are asked together of the
 * source or of the destination), for flows that no agent filters any more: recorded ones. Pure.
 */
export function matchesFlow(flow: Flow, filter: FlowFilter): boolean {
  const { source, destination } = flow;
  return (
    any(filter.verdict, (verdict) => flow.verdict === verdict) &&
    any(filter.protocol, (protocol) => flow.protocol.toLowerCase() === protocol.toLowerCase()) &&
    any(filter.node, (node) => flow.node === node) &&
    any(filter.direction, (direction) => flow.direction === direction) &&
    any(filter.event, (event) => eventMatches(flow, event)) &&
    any(filter.tcpFlags, (flags) =>
      flags
        .toUpperCase()
        .split(',')
        .every((flag) => flow.tcpFlags.includes(flag)),
    ) &&
    any(filter.dropReason, (reason) => flow.dropReason === reason) &&
    (filter.reply === undefined || flow.reply === filter.reply) &&
    sideMatches(source, {
      namespaces: filter.fromNamespace,
      pods: filter.fromPod,
      labels: filter.fromLabel,
      ips: filter.fromIP,
      ports: filter.fromPort,
    }) &&
    sideMatches(destination, {
      namespaces: filter.toNamespace,
      pods: filter.toPod,
      labels: filter.toLabel,
      ips: filter.toIP,
      ports: filter.toPort,
    }) &&
    (eitherMatches(source, filter) || eitherMatches(destination, filter))
  );
}

/** Passes a flow the lists of a request? */
export function passes(flow: Flow, allow: readonly FlowFilter[], deny: readonly FlowFilter[]): boolean {
  if (allow.length > 0 && !allow.some((filter) => matchesFlow(flow, filter))) return false;
  return !deny.some((filter) => matchesFlow(flow, filter));
}
