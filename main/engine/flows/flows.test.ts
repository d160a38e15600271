import { create, equals, type MessageInitShape } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import type { Flow, FlowFilter } from '../../../contract/flows.ts';
import { flowSchema, verdictSchema } from '../../../contract/flows.ts';
import {
  DropReason,
  FlowFilterSchema,
  FlowSchema,
  FlowType,
  TraceObservationPoint,
  TrafficDirection,
  Verdict,
} from '../agents/gen/flow/flow_pb.ts';
import { pick, random } from '../testing/fake-cluster.ts';
import { MergeBuffer } from './buffer.ts';
import { asHubbleCommand, fromHubbleCommand } from './command.ts';
import { convertFlow } from './convert.ts';
import { explainDrop } from './drop-reasons.ts';
import { toHubbleFilters, toHubbleLists } from './filters.ts';
import { matchesFlow } from './match.ts';
import { quote, splitWords } from './shell.ts';

const dropped: MessageInitShape<typeof FlowSchema> = {
  time: { seconds: 1_790_000_000n, nanos: 123_456_789 },
  uuid: 'u1',
  verdict: Verdict.DROPPED,
  dropReasonDesc: DropReason.POLICY_DENIED,
  IP: { source: '10.0.0.1', destination: '10.0.1.2' },
  l4: { protocol: { case: 'TCP', value: { sourcePort: 40000, destinationPort: 80, flags: { SYN: true } } } },
  source: {
    identity: 4711,
    namespace: 'galaxy',
    podName: 'xwing',
    labels: ['k8s:org=alliance'],
    workloads: [{ name: 'xwing', kind: 'Pod' }],
  },
  destination: { identity: 4712, namespace: 'galaxy', podName: 'deathstar-1', labels: ['k8s:org=empire'] },
  Type: FlowType.L3_L4,
  nodeName: 'default/node1',
  eventType: { type: 5 },
  policyMatchType: 2,
  trafficDirection: TrafficDirection.INGRESS,
  destinationService: { name: 'deathstar', namespace: 'galaxy' },
  ingressDeniedBy: [{ kind: 'CiliumNetworkPolicy', namespace: 'galaxy', name: 'rule1' }],
};

describe('convertFlow', () => {
  test('gives what the contract says, with the deciding policy and help', () => {
    const flow = convertFlow(create(FlowSchema, dropped), 7, 'node1');
    expect(flowSchema.safeParse(flow).success).toBe(true);
    expect(flow).toMatchObject({
      sequence: 7,
      time: 1_790_000_000_123.457,
      node: 'node1',
      verdict: 'DROPPED',
      dropReason: 'POLICY_DENIED',
      dropText: 'Policy denied',
      direction: 'INGRESS',
      reply: null,
      source: { label: 'galaxy/xwing', port: 40000, workload: 'xwing', identity: 4711 },
      destination: { label: 'galaxy/deathstar-1', port: 80, service: 'galaxy/deathstar' },
      protocol: 'TCP',
      tcpFlags: ['SYN'],
      event: 'policy-verdict',
      policyMatch: 'L3-L4',
      deniedBy: [{ kind: 'CiliumNetworkPolicy', namespace: 'galaxy', name: 'rule1' }],
    });
    expect(flow.dropHelp).toContain('default deny');
  });

  test('an address of a service is named as the service, before a name of the world', () => {
    const flow = convertFlow(
      create(FlowSchema, {
        verdict: Verdict.TRACED,
        Type: FlowType.SOCK,
        IP: { source: '10.77.1.2', destination: '10.96.0.10' },
        source: { identity: 4711, namespace: 'galaxy', podName: 'xwing' },
        destination: { labels: ['reserved:world'], identity: 2 },
        destinationNames: ['kube-dns.kube-system.svc.cluster.local'],
        destinationService: { name: 'kube-dns', namespace: 'kube-system' },
        sourceService: { name: 'ships', namespace: 'galaxy' },
      }),
      1,
      'node1',
    );
    expect(flow.destination).toMatchObject({ label: 'kube-system/kube-dns', entity: 'world', address: '10.96.0.10' });
    // A pod stays the pod, whatever service has its address.
    expect(flow.source.label).toBe('galaxy/xwing');
  });

  test('entities, names of the world, replies and sockets', () => {
    const world = convertFlow(
      create(FlowSchema, {
        verdict: Verdict.FORWARDED,
        isReply: false,
        source: { labels: ['reserved:host'], identity: 1 },
        destination: { labels: ['reserved:world'], identity: 2 },
        destinationNames: ['example.org'],
        traceObservationPoint: TraceObservationPoint.TO_STACK,
        eventType: { type: 4 },
      }),
      1,
      'n',
    );
    expect(world).toMatchObject({
      source: { label: 'host', entity: 'host' },
      destination: { label: 'example.org' },
      reply: false,
      event: 'trace',
      observationPoint: 'to-stack',
      dropReason: '',
      dropHelp: '',
    });
    const socket = convertFlow(
      create(FlowSchema, { Type: FlowType.SOCK, sockXlatePoint: 1, socketCookie: 99n, eventType: { type: 7 } }),
      1,
      'n',
    );
    expect(socket).toMatchObject({
      event: 'trace-sock',
      observationPoint: 'pre-xlate-fwd',
      socketCookie: '99',
      verdict: 'UNKNOWN',
    });
    const api = convertFlow(
      create(FlowSchema, { source: { labels: ['reserved:kube-apiserver', 'reserved:remote-node'] } }),
      1,
      'n',
    );
    expect(api.source.entity).toBe('kube-apiserver');
  });

  test('an empty message and unknown numbers are flows too', () => {
    const empty = convertFlow(create(FlowSchema, {}), 1, 'node9');
    expect(flowSchema.safeParse(empty).success).toBe(true);
    expect(empty).toMatchObject({ node: 'node9', source: { label: 'unknown' } });
    expect(explainDrop(251)).toMatchObject({ name: '251', text: 'Reason 251' });
  });

  test('every reason has text, and those of our datapath say what to do', () => {
    for (const reason of Object.values(DropReason)) expect(explainDrop(reason).text).not.toBe('');
    for (const reason of [133, 181, 132, 158, 151, 155, 160])
      expect(explainDrop(reason).help.length).toBeGreaterThan(60);
  });
});

describe('toHubbleFilters', () => {
  test('fields of either side give two filters, others one', () => {
    expect(toHubbleFilters({ verdict: ['DROPPED'] })).toHaveLength(1);
    const [left, right] = toHubbleFilters({ pod: ['galaxy/xwing'], verdict: ['DROPPED'] });
    expect(left).toMatchObject({ sourcePod: ['galaxy/xwing'], destinationPod: [], verdict: [Verdict.DROPPED] });
    expect(right).toMatchObject({ sourcePod: [], destinationPod: ['galaxy/xwing'], verdict: [Verdict.DROPPED] });
  });

  test('namespaces are pod patterns, and hold beside pods', () => {
    expect(toHubbleFilters({ fromNamespace: ['a', 'b'] })[0]?.sourcePod).toEqual(['a/', 'b/']);
    expect(toHubbleFilters({ fromNamespace: ['a'], fromPod: ['web', 'a/x', 'b/y'] })[0]?.sourcePod).toEqual([
      'a/web',
      'a/x',
    ]);
    expect(toHubbleFilters({ namespace: ['a'], fromPod: ['a/web'] })[0]?.sourcePod).toEqual(['a/web']);
  });

  test('what contradicts itself passes nothing, and is never an empty list', () => {
    for (const filter of [
      { fromNamespace: ['a'], fromPod: ['b/x'] },
      { fromPort: ['80'], port: ['81'], toPort: ['82'] },
      { event: ['nonsense'] },
      { dropReason: ['NONSENSE'] },
    ] satisfies FlowFilter[]) {
      const filters = toHubbleFilters(filter);
      expect(filters).toHaveLength(1);
      expect(filters[0]?.uuid).toEqual(['none']);
    }
  });

  test('events with observation points', () => {
    expect(toHubbleFilters({ event: ['trace:to-endpoint'] })[0]?.eventType[0]).toMatchObject({
      type: 4,
      matchSubType: true,
      subType: 0,
    });
    expect(toHubbleFilters({ event: ['trace:to-network'] })[0]?.eventType[0]).toMatchObject({ type: 4, subType: 11 });
    expect(toHubbleFilters({ event: ['drop'] })[0]?.eventType[0]).toMatchObject({ type: 1, matchSubType: false });
  });
});

/** A filter of random fields; no sided identity, workload or service, which JSON cannot bring back. */
function randomFilter(next: () => number, sayable: boolean): FlowFilter {
  const some = <T>(values: readonly T[]) =>
    Array.from({ length: 1 + Math.floor(next() * 2) }, () => pick(next, values));
  const word = () => pick(next, ['web', "it's", 'a b', 'x$y', '"q"', '-dash', 'k8s:app=web', 'p*']);
  const all: { readonly [K in keyof FlowFilter]-?: () => NonNullable<FlowFilter[K]> } = {
    verdict: () => some(verdictSchema.options.filter((one) => one !== 'UNKNOWN')),
    namespace: () => some(['default', 'kube-system']),
    fromNamespace: () => some(['default', 'galaxy']),
    toNamespace: () => some(['default', 'galaxy']),
    pod: () => some(['default/web', 'web', 'galaxy/']),
    fromPod: () => some(['default/web', 'web', 'galaxy/']),
    toPod: () => some(['default/web', 'web', 'galaxy/']),
    label: () => [word()],
    fromLabel: () => [word()],
    toLabel: () => [word()],
    ip: () => some(['10.0.0.1', '10.0.0.0/8']),
    fromIP: () => some(['10.0.0.1']),
    toIP: () => some(['10.0.0.0/8']),
    port: () => some(['80', '8000-8080']),
    fromPort: () => some(['80']),
    toPort: () => some(['443']),
    protocol: () => some(['tcp', 'udp']),
    identity: () => [Math.floor(next() * 70_000)],
    workload: () => some(['Deployment/web', 'web']),
    service: () => some(['default/web']),
    node: () => some(['default/node1', 'node*']),
    direction: () => some(['INGRESS', 'EGRESS'] as const),
    event: () => some(['drop', 'trace:to-endpoint', 'policy-verdict', 'trace']),
    tcpFlags: () => some(['SYN', 'SYN,ACK']),
    dropReason: () => some(['POLICY_DENIED', 'POLICY_DENY']),
    reply: () => next() < 0.5,
  };
  const names = (Object.keys(all) as (keyof FlowFilter)[]).filter(
    (name) => sayable || !['identity', 'workload', 'service'].includes(name),
  );
  const chosen = new Set(Array.from({ length: 1 + Math.floor(next() * 4) }, () => pick(next, names)));
  return Object.fromEntries([...chosen].map((name) => [name, all[name]()]));
}

function sameFilters(a: readonly FlowFilter[], b: readonly FlowFilter[]): boolean {
  const left = toHubbleLists(a);
  const right = toHubbleLists(b);
  return left.length === right.length && left.every((one, index) => equals(FlowFilterSchema, one, right[index] ?? one));
}

describe('hubble command lines', () => {
  test('say simple filters with flags', () => {
    expect(
      asHubbleCommand({
        allow: [{ namespace: ['galaxy'], verdict: ['DROPPED'] }],
        deny: [{ toPort: ['53'] }],
        last: 20,
        follow: true,
      }),
    ).toBe('hubble observe --last 20 --follow --namespace galaxy --verdict DROPPED --not --to-port 53');
  });

  test('round trip: what is read back asks for the same flows', () => {
    const next = random(20_261_123);
    let flagged = 0;
    for (let round = 0; round < 1500; round += 1) {
      const one = round % 2 === 0;
      const filters = () => Array.from({ length: one ? 1 : Math.floor(next() * 3) }, () => randomFilter(next, false));
      const allow = filters();
      const deny = next() < 0.5 ? [] : filters();
      const command = asHubbleCommand({ allow, deny, last: 10, follow: false });
      if (!command.includes('list')) flagged += 1;
      const back = fromHubbleCommand(command);
      expect(back.ok, command).toBe(true);
      if (!back.ok) continue;
      expect(sameFilters(allow, back.value.allow), command).toBe(true);
      expect(sameFilters(deny, back.value.deny), command).toBe(true);
    }
    expect(flagged).toBeGreaterThan(200);
  });

  test('flags about output and connection are passed over', () => {
    const read = fromHubbleCommand(
      `hubble observe -f --server localhost:4245 -o json --since=5m --pod 'galaxy/x-wing' --type trace:to-endpoint -n galaxy`,
    );
    expect(read).toEqual({
      ok: true,
      value: { allow: [{ pod: ['galaxy/x-wing'], event: ['trace:to-endpoint'], namespace: ['galaxy'] }], deny: [] },
    });
  });

  test.each([
    ['hubble observe --http-status 500', '--http-status'],
    ['hubble observe --verdict MAYBE', 'MAYBE'],
    ['hubble observe --type nonsense', 'nonsense'],
    ['hubble observe --allowlist {', 'JSON'],
    ['hubble observe --allowlist \'{"http_status_code":["500"]}\'', 'httpStatusCode'],
    ["hubble observe --pod 'open", 'quotation'],
    ['hubble observe stray', 'stray'],
    ['hubble observe --pod', '--pod'],
  ])('%s is refused by name', (command, text) => {
    const read = fromHubbleCommand(command);
    expect(read.ok).toBe(false);
    if (!read.ok) expect(read.failure.what).toContain(text);
  });
});

test('quoting: the shell gives back every word', () => {
  const next = random(7);
  for (let round = 0; round < 500; round += 1) {
    const words = Array.from({ length: 1 + Math.floor(next() * 4) }, () =>
      Array.from({ length: 1 + Math.floor(next() * 8) }, () => pick(next, `ab'"\\ $\`!*?\t;&|`.split(''))).join(''),
    );
    expect(splitWords(words.map(quote).join(' '))).toEqual({ ok: true, value: words });
  }
});

describe('MergeBuffer', () => {
  test('orders what arrives within the window, whoever sends it', () => {
    const buffer = new MergeBuffer<number>(100);
    for (const [time, at] of [
      [5, 0],
      [1, 1],
      [4, 2],
      [2, 3],
      [3, 50],
    ] as const)
      buffer.add({ time, value: time }, at);
    expect(buffer.take(10)).toEqual([1, 2, 4, 5]);
    expect(buffer.take(60)).toEqual([3]);
    expect(buffer.size).toBe(0);
  });

  test('property: nothing is lost or doubled below capacity, and every take is in order', () => {
    const next = random(3);
    const buffer = new MergeBuffer<number>(10_000);
    const out: number[] = [];
    for (let now = 0; now < 300; now += 1) {
      for (let count = 0; count < 10; count += 1) buffer.add({ time: now - next() * 20, value: now * 10 + count }, now);
      if (now % 7 === 0) out.push(...buffer.take(now - 5, 1 + Math.floor(next() * 200)));
    }
    out.push(...buffer.take(1000));
    expect(out.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 3000 }, (_, index) => index));
    expect(buffer.lost).toBe(0);
  });

  test('a slow view loses the oldest, and every one of them is counted', () => {
    const buffer = new MergeBuffer<number>(100);
    for (let index = 0; index < 1000; index += 1) buffer.add({ time: index, value: index }, 0);
    const kept = buffer.take(1);
    expect(kept).toHaveLength(100);
    expect(kept.at(-1)).toBe(999);
    expect(kept[0]).toBe(900);
    expect(buffer.lost).toBe(900);
  });
});

describe('matchesFlow', () => {
  const flow: Flow = convertFlow(create(FlowSchema, dropped), 1, 'node1');
  test.each<[FlowFilter, boolean]>([
    [{}, true],
    [{ verdict: ['DROPPED'] }, true],
    [{ verdict: ['FORWARDED'] }, false],
    [{ namespace: ['galaxy'] }, true],
    [{ fromPod: ['galaxy/xw'] }, true],
    [{ toPod: ['galaxy/xw'] }, false],
    [{ pod: ['galaxy/'] }, true],
    [{ label: ['org=empire'] }, true],
    [{ fromLabel: ['org=empire'] }, false],
    [{ toPort: ['79-81'] }, true],
    [{ ip: ['10.0.1.0/24'] }, true],
    [{ fromIP: ['10.0.1.0/24'] }, false],
    [{ protocol: ['tcp'], tcpFlags: ['SYN'] }, true],
    [{ tcpFlags: ['SYN,ACK'] }, false],
    [{ service: ['galaxy/deathstar'] }, true],
    [{ event: ['policy-verdict'], dropReason: ['POLICY_DENIED'] }, true],
    [{ pod: ['galaxy/xwing'], port: ['80'] }, false],
    [{ reply: true }, false],
    [{ direction: ['EGRESS'] }, false],
  ])('%j → %s', (filter, passes) => {
    expect(matchesFlow(flow, filter)).toBe(passes);
  });
});
