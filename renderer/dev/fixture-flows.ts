import type { Inventory, Pod } from '../../contract/clusters.ts';
import type { Flow, FlowFilter, FlowSide, PolicyReference } from '../../contract/flows.ts';
import type { Topology, TopologyEdge, TopologyNode, TopologyScope } from '../../contract/topology.ts';
import { seeded } from './fixture-data.ts';

interface Talk {
  readonly from: Pod | 'world' | 'host';
  readonly to: Pod | 'world' | 'host';
  readonly port: number;
  readonly protocol: 'TCP' | 'UDP' | 'ICMPv4';
  readonly service?: string;
  readonly denied?: boolean;
  readonly rate: number;
}

const demoRule: PolicyReference = { kind: 'CiliumNetworkPolicy', namespace: 'default', name: 'rule1' };
const databaseRule: PolicyReference = { kind: 'NetworkPolicy', namespace: 'shop', name: 'database-from-api' };

/** Who talks to whom in a made-up cluster. `enforced`: the demo's policy is there. */
export function makeTalks(inventory: Inventory, enforced: boolean): readonly Talk[] {
  const all = inventory.pods;
  const by = (start: string) => all.find((pod) => `${pod.namespace}/${pod.name}`.startsWith(start));
  const talks: Talk[] = [];
  const add = (
    from: Talk['from'] | undefined,
    to: Talk['to'] | undefined,
    port: number,
    rate: number,
    more: Partial<Talk> = {},
  ) => {
    if (from && to) talks.push({ from, to, port, protocol: 'TCP', rate, ...more });
  };
  const dns = by('kube-system/coredns');
  add(by('default/tiefighter'), by('default/deathstar'), 80, 2.4, { service: 'default/deathstar' });
  add(by('default/xwing'), by('default/deathstar-7f9c5d6b8-q9'), 80, 1.6, {
    service: 'default/deathstar',
    denied: enforced,
  });
  for (const name of ['default/tiefighter', 'default/xwing', 'shop/frontend', 'shop/cart', 'shop/payments']) {
    add(by(name), dns, 53, 1.2, { protocol: 'UDP', service: 'kube-system/kube-dns' });
  }
  add('world', by('shop/frontend-5d4f8c7b9-2'), 80, 6, { service: 'shop/frontend' });
  add('world', by('shop/frontend-5d4f8c7b9-m'), 80, 5, { service: 'shop/frontend' });
  add(by('shop/frontend-5d4f8c7b9-2'), by('shop/cart'), 8080, 4, { service: 'shop/cart' });
  add(by('shop/frontend-5d4f8c7b9-m'), by('shop/cart'), 8080, 3.5, { service: 'shop/cart' });
  add(by('shop/cart'), by('shop/payments'), 8443, 0.8);
  add(by('shop/cart'), by('shop/database'), 5432, 7);
  add(by('shop/payments'), by('shop/database'), 5432, 2);
  add(by('shop/frontend-5d4f8c7b9-m'), by('shop/database'), 5432, 0.4, { denied: true });
  add(by('shop/payments'), 'world', 443, 0.6);
  for (const name of ['shop/cart', 'shop/payments', 'kube-system/coredns-6c8d9b7f5-t'])
    add(by('monitoring/prometheus'), by(name), 9090, 0.3);
  add('host', dns, 8080, 0.2);
  add(by('shop/frontend-5d4f8c7b9-2'), by('shop/cart'), 0, 0.1, { protocol: 'ICMPv4' });
  add(by('customer-facing'), by('shop/cart'), 8080, 2);
  const random = seeded(11);
  const many = all.filter((pod) => pod.namespace.startsWith('team-')).slice(0, 640);
  for (let index = 0; index < many.length * 2.1; index += 1) {
    const from = many[Math.floor(random() * many.length)];
    const near = many.filter((pod) => pod.namespace === from?.namespace);
    const to = random() < 0.8 ? near[Math.floor(random() * near.length)] : many[Math.floor(random() * many.length)];
    if (from !== to) add(from, to, [80, 443, 8080, 5432][index % 4] ?? 80, random() * 5, { denied: random() < 0.04 });
  }
  return talks;
}

function side(end: Talk['from'], port: number, service = ''): FlowSide {
  if (typeof end === 'string') {
    return {
      label: end,
      namespace: '',
      pod: '',
      workload: '',
      service: '',
      entity: end,
      address: end === 'world' ? '203.0.113.20' : '10.20.0.11',
      port,
      identity: end === 'world' ? 2 : 1,
      labels: [`reserved:${end}`],
      mac: '0a:58:0a:14:00:01',
      names: end === 'world' ? ['outside.example'] : [],
    };
  }
  return {
    label: `${end.namespace}/${end.name}`,
    namespace: end.namespace,
    pod: end.name,
    workload: end.workload.name,
    service,
    entity: '',
    address: end.address,
    port,
    identity: end.identity ?? 0,
    labels: [
      ...Object.entries(end.labels).map(([key, value]) => `k8s:${key}=${value}`),
      `k8s:io.kubernetes.pod.namespace=${end.namespace}`,
    ],
    mac: '0a:58:0a:2a:00:17',
    names: [],
  };
}

/** Makes flows out of talks, one after the other; rates are kept on average. */
export function createFlowSource(talks: readonly Talk[], inventory: Inventory) {
  const random = seeded(42);
  const total = talks.reduce((sum, talk) => sum + talk.rate, 0);
  let sequence = 0;
  const pickTalk = () => {
    let at = random() * total;
    for (const talk of talks) {
      at -= talk.rate;
      if (at <= 0) return talk;
    }
    return talks[0];
  };
  return (time: number): Flow | undefined => {
    const talk = pickTalk();
    if (!talk) return undefined;
    sequence += 1;
    const reply = !talk.denied && random() < 0.4;
    const clientPort = 32768 + Math.floor(random() * 28000);
    const client = side(talk.from, talk.protocol === 'ICMPv4' ? 0 : clientPort);
    const server = side(talk.to, talk.port, talk.service);
    const egress = random() < 0.4 && !talk.denied;
    const place = egress ? talk.from : talk.to;
    const node = typeof place === 'string' ? (inventory.nodes[0]?.name ?? 'node1') : place.node;
    const verdict = talk.denied ? 'DROPPED' : random() < 0.06 && talk.service ? 'TRANSLATED' : 'FORWARDED';
    const flags =
      talk.protocol !== 'TCP'
        ? []
        : talk.denied
          ? ['SYN']
          : (([['SYN'], ['SYN', 'ACK'], ['ACK', 'PSH'], ['ACK', 'FIN'], ['ACK']] as const)[
              Math.floor(random() * 5)
            ] ?? ['ACK']);
    const toDatabase = typeof talk.to !== 'string' && talk.to.workload.name === 'database';
    const rule = toDatabase ? databaseRule : demoRule;
    const governed = toDatabase || (typeof talk.to !== 'string' && talk.to.workload.name === 'deathstar');
    return {
      sequence,
      uuid: `6f1c${sequence.toString(16).padStart(8, '0')}-7d2a-4c31-9b7e-0a42`,
      time: time + random(),
      node,
      verdict,
      dropReason: talk.denied ? 'POLICY_DENIED' : '',
      dropText: talk.denied ? 'Policy denied' : '',
      dropHelp: talk.denied
        ? 'A policy puts default deny on for the destination’s ingress, and none of its rules admits this source on this port. If it should be admitted, add a rule to the policy that is named here.'
        : '',
      direction: egress ? 'EGRESS' : 'INGRESS',
      reply: talk.protocol === 'ICMPv4' ? null : reply,
      source: reply ? server : client,
      destination: reply ? client : server,
      protocol: talk.protocol,
      tcpFlags: flags,
      ...(talk.protocol === 'ICMPv4' ? { icmp: { type: 8, code: 0 } } : {}),
      event: talk.denied
        ? 'drop'
        : verdict === 'TRANSLATED'
          ? 'trace-sock'
          : flags[0] === 'SYN' && flags.length === 1
            ? 'policy-verdict'
            : 'trace',
      observationPoint: verdict === 'TRANSLATED' ? 'post-xlate-fwd' : egress ? 'from-endpoint' : 'to-endpoint',
      policyMatch: governed ? (talk.denied ? 'none' : 'L3-L4') : '',
      allowedBy: governed && !talk.denied ? [rule] : [],
      deniedBy: talk.denied ? [rule] : [],
      interface: 'lxc4f21a90c',
      summary: talk.protocol === 'TCP' ? `TCP Flags: ${flags.join(', ')}` : talk.protocol,
      socketCookie: '',
    };
  };
}

/** Does a flow pass one filter? Enough of the semantics for the fixture: the engine's own code decides in the product. */
export function matchesFilter(flow: Flow, filter: FlowFilter): boolean {
  const any = <T>(values: readonly T[] | undefined, test: (value: T) => boolean) => !values || values.some(test);
  const podIs = (pattern: string, end: FlowSide) => {
    const full = `${end.namespace}/${end.pod}`;
    return end.pod !== '' && full.startsWith(pattern.includes('/') ? pattern : `default/${pattern}`);
  };
  const labelIs = (label: string, end: FlowSide) => end.labels.some((one) => one === label || one === `k8s:${label}`);
  const { source, destination } = flow;
  const either = (test: (end: FlowSide) => boolean) => test(source) || test(destination);
  return (
    any(filter.verdict, (value) => flow.verdict === value) &&
    any(filter.namespace, (value) => either((end) => end.namespace === value)) &&
    any(filter.fromNamespace, (value) => source.namespace === value) &&
    any(filter.toNamespace, (value) => destination.namespace === value) &&
    any(filter.pod, (value) => either((end) => podIs(value, end))) &&
    any(filter.fromPod, (value) => podIs(value, source)) &&
    any(filter.toPod, (value) => podIs(value, destination)) &&
    any(filter.label, (value) => either((end) => labelIs(value, end))) &&
    any(filter.fromLabel, (value) => labelIs(value, source)) &&
    any(filter.toLabel, (value) => labelIs(value, destination)) &&
    any(filter.ip, (value) => either((end) => end.address === value)) &&
    any(filter.fromIP, (value) => source.address === value) &&
    any(filter.toIP, (value) => destination.address === value) &&
    any(filter.port, (value) => either((end) => String(end.port) === value)) &&
    any(filter.fromPort, (value) => String(source.port) === value) &&
    any(filter.toPort, (value) => String(destination.port) === value) &&
    any(filter.protocol, (value) => flow.protocol.toLowerCase() === value.toLowerCase()) &&
    any(filter.identity, (value) => either((end) => end.identity === value)) &&
    any(filter.workload, (value) =>
      either((end) => end.workload === value || `${end.namespace}/${end.workload}` === value),
    ) &&
    any(filter.node, (value) => flow.node === value) &&
    any(filter.direction, (value) => flow.direction === value) &&
    any(filter.event, (value) => flow.event === value) &&
    any(filter.dropReason, (value) => flow.dropReason === value) &&
    (filter.reply === undefined || flow.reply === filter.reply)
  );
}

function idOf(end: Talk['from'], scope: TopologyScope): string {
  if (typeof end === 'string') return `entity:${end}`;
  if (scope === 'namespace') return `namespace:${end.namespace}`;
  return scope === 'pod'
    ? `pod:${end.namespace}/${end.name}`
    : `workload:${end.namespace}/${end.workload.kind}/${end.workload.name}`;
}

/** The picture that talks make at a scope. `phase` lets rates move a little between updates. */
export function makeTopology(
  inventory: Inventory,
  talks: readonly Talk[],
  scope: TopologyScope,
  namespaces: readonly string[],
  phase: number,
): Topology {
  const nodes = new Map<string, TopologyNode>();
  const edges = new Map<string, TopologyEdge>();
  const now = Date.now();
  const note = (end: Talk['from']) => {
    const id = idOf(end, scope);
    if (nodes.has(id)) return id;
    if (typeof end === 'string') {
      nodes.set(id, {
        id,
        kind: 'entity',
        label: end,
        namespace: '',
        pods: 0,
        hosts: [],
        identities: [end === 'world' ? 2 : 1],
        labels: [`reserved:${end}`],
        addresses: [],
        ready: true,
        isolatedIngress: false,
        isolatedEgress: false,
      });
      return id;
    }
    const members = inventory.pods.filter((pod) => idOf(pod, scope) === id);
    nodes.set(id, {
      id,
      kind: scope,
      label: scope === 'namespace' ? end.namespace : scope === 'pod' ? end.name : end.workload.name,
      namespace: end.namespace,
      pods: members.length,
      hosts: [...new Set(members.map((pod) => pod.node))],
      identities: [...new Set(members.map((pod) => pod.identity ?? 0))],
      labels: scope === 'namespace' ? [] : Object.entries(end.labels).map(([key, value]) => `k8s:${key}=${value}`),
      addresses: members.map((pod) => pod.address),
      ready: true,
      isolatedIngress: scope !== 'namespace' && ['deathstar', 'database'].includes(end.workload.name),
      isolatedEgress: false,
    });
    return id;
  };
  const wanted = (end: Talk['from']) => typeof end !== 'string' && namespaces.includes(end.namespace);
  for (const talk of talks) {
    if (namespaces.length > 0 && !wanted(talk.from) && !wanted(talk.to)) continue;
    const source = note(talk.from);
    const target = note(talk.to);
    if (source === target) continue;
    const id = `${source}>${target}`;
    const rate = talk.rate * (1 + 0.15 * Math.sin(phase + talk.rate * 9));
    const old = edges.get(id);
    const dropped = (old?.droppedPerSecond ?? 0) + (talk.denied ? rate : 0);
    const events = (old?.eventsPerSecond ?? 0) + rate * 4;
    const rule = typeof talk.to !== 'string' && talk.to.workload.name === 'database' ? databaseRule : demoRule;
    edges.set(id, {
      id,
      source,
      target,
      verdict:
        dropped === 0 ? 'forwarded' : (old && old.verdict !== 'dropped') || (old && !talk.denied) ? 'mixed' : 'dropped',
      connectionsPerSecond: (old?.connectionsPerSecond ?? 0) + rate,
      eventsPerSecond: events,
      droppedPerSecond: dropped,
      bytesPerSecond: events * 740,
      forwarded: (old?.forwarded ?? 0) + (talk.denied ? 0 : Math.round(rate * 600)),
      dropped: (old?.dropped ?? 0) + (talk.denied ? Math.round(rate * 600) : 0),
      ports: [
        ...(old?.ports ?? []),
        {
          protocol: talk.protocol,
          port: talk.port,
          service: talk.service ?? '',
          forwarded: talk.denied ? 0 : Math.round(rate * 600),
          dropped: talk.denied ? Math.round(rate * 600) : 0,
        },
      ],
      dropReason: talk.denied ? 'POLICY_DENIED' : (old?.dropReason ?? ''),
      deniedBy: talk.denied ? [rule] : (old?.deniedBy ?? []),
      allowedBy: old?.allowedBy ?? (talk.service === 'default/deathstar' && !talk.denied ? [demoRule] : []),
      lastSeen: now,
    });
  }
  return { at: now, scope, nodes: [...nodes.values()], edges: [...edges.values()], lost: 0, missing: [] };
}
