import type { CheckResult } from '../../../contract/checks.ts';
import type { Values } from '../../../contract/index.ts';
import type {
  GetStatusResponse,
  ListMapsResponse,
  NodeHealth,
  ProbeAnswer,
} from '../agents/gen/fairlead/v1/agent_pb.ts';
import { type Outcome, partOf, tableText } from '../checks/runner.ts';
import { agentConfiguration } from '../install/manifests.ts';
import type { PrintedFacts, PrintedRule } from './node-facts.ts';

const rulesText = (rules: readonly PrintedRule[]) =>
  rules.length === 0
    ? '(none)'
    : tableText(
        ['TABLE', 'CHAIN', 'OWNER', 'RULE'],
        rules.map(({ table, chain, owner, text }) => [table, chain, owner, text]),
      );

/** What the agent lists of both families with a comma between. */
const listed = (text: string) => text.split(',').filter((one) => one !== '');

/** How many addresses a range has for pods; of a large one of IPv6, as many as the agent counts. */
const capacityOf = (range: string) => {
  const bits = (range.includes(':') ? 128 : 32) - Number(range.split('/')[1]);
  return 2 ** Math.min(bits, 30) - 3;
};

/** Every way in which another node is asked: at its address, in its pods' network, and at both of IPv6 where there are two families. */
function pathsOf(node: NodeHealth) {
  const { reachable, latencyMilliseconds, error } = node;
  const own = { reachable, latencyMilliseconds, error };
  const { endpointAddress, endpointHttp, endpointIcmp } = node;
  const inside = { where: 'pods’ network', address: endpointAddress, http: endpointHttp, icmp: endpointIcmp };
  return [
    { where: 'node', address: node.address, http: own, icmp: node.icmp },
    ...(endpointAddress === '' ? [] : [inside]),
    ...node.morePaths.map(({ address, http, icmp }) => ({ where: 'IPv6', address, http, icmp })),
  ];
}

/** What a probe says of one way. */
type Answer = Pick<ProbeAnswer, 'reachable' | 'latencyMilliseconds' | 'error'> | undefined;

const answered = (answer: Answer) =>
  answer === undefined
    ? '-'
    : answer.reachable
      ? `${answer.latencyMilliseconds.toFixed(2)} ms`
      : `no: ${answer.error || 'no answer'}`;

/** B1: every interface, with what pods have. */
function interfaces({ interfaces: links }: PrintedFacts, status: GetStatusResponse | undefined): Outcome {
  const evidence = tableText(
    ['NAME', 'KIND', 'MTU', 'UP', 'ADDRESSES'],
    links.map((link) => [
      link.name,
      link.peer ? 'pod' : link.kind,
      String(link.mtu),
      link.up ? 'yes' : 'no',
      link.addresses.join(' '),
    ]),
  );
  const pods = links.filter((link) => link.peer).length;
  const found = `${links.length - pods} interfaces and ${pods} of pods`;
  const routers = listed(status?.routerAddress ?? '');
  const missing = routers.filter(
    (router) => !links.some((link) => link.addresses.some((address) => address.startsWith(`${router}/`))),
  );
  if (missing.length > 0)
    return {
      status: 'failed',
      found: `${found}; the router address ${missing.join(', ')} is on none`,
      expected: 'the router address on an interface of the agent',
      fix: 'Restart the agent of this node.',
      evidence,
    };
  const down = links.filter((link) => !link.up && link.addresses.length > 0 && link.kind !== 'loopback');
  return {
    status: down.length > 0 ? 'warning' : 'passed',
    found: routers.length === 0 ? found : `${found}; router address ${routers.join(', ')}`,
    expected: 'what carries addresses is up',
    ...(down.length > 0 ? { fix: `Bring ${down.map((link) => link.name).join(', ')} up.` } : {}),
    evidence,
  };
}

/** B3: rules that translate addresses. */
function translations(facts: PrintedFacts, values: Values | undefined): Outcome {
  const chains = facts.serviceChains.nftables + facts.serviceChains.legacy;
  const evidence = rulesText(facts.rules);
  const replaced = values?.kubeProxyReplacement ?? true;
  if (chains > 0 && replaced)
    return {
      status: 'warning',
      found: `${chains} chains of kube-proxy`,
      expected: 'none: services are translated in eBPF',
      fix: 'Plan an upgrade and switch on that kube-proxy is removed: its rules go with it, and it can be brought back. Where it is gone already, run kube-proxy --cleanup on the node, or reboot it.',
      evidence,
    };
  const owners = [...new Set(facts.rules.map((rule) => rule.owner))].sort();
  return {
    status: facts.problems?.some((problem) => problem.includes('tables')) ? 'warning' : 'passed',
    found:
      chains > 0
        ? `${chains} chains of kube-proxy, which does services here`
        : `no KUBE-SVC chain; rules of: ${owners.join(', ') || 'nobody'}`,
    expected: replaced ? 'no chain of kube-proxy' : 'kube-proxy’s chains',
    evidence: [...(facts.problems ?? []), evidence].join('\n'),
  };
}

/** B5: what drives the cards. */
function drivers({ cards }: PrintedFacts): Outcome {
  return {
    status: cards.length > 0 ? 'passed' : 'warning',
    found:
      cards.map((card) => `${card.interface}: ${card.driver} ${card.version}`.trim()).join(', ') ||
      'no card names its driver',
    expected: 'a driver per card',
    evidence: tableText(
      ['INTERFACE', 'DRIVER', 'VERSION', 'FIRMWARE', 'BUS', 'XDP'],
      cards.map((card) => [card.interface, card.driver, card.version, card.firmware, card.bus, card.xdp]),
    ),
  };
}

/** B6: rules that spare connection tracking, when asked for. */
function sparing({ noTrack }: PrintedFacts, values: Values | undefined): Outcome {
  const own = noTrack.filter((rule) => rule.owner === 'fairlead').length;
  const wanted = values?.installNoConntrackIptablesRules ?? false;
  const good = wanted ? own > 0 : own === 0;
  return {
    status: good ? 'passed' : 'failed',
    found: own === 0 ? 'no rule of the agent' : `${own} rules of the agent`,
    expected: wanted ? 'rules for pod traffic (installNoConntrackIptablesRules)' : 'none: not asked for',
    ...(good ? {} : { fix: 'Restart the agent of this node; if it stays, look at its log.' }),
    evidence: rulesText(noTrack),
  };
}

/** B7: the configuration that the agent runs with, against the one that was asked for. */
function configuration(facts: PrintedFacts, status: GetStatusResponse, values: Values | undefined): Outcome {
  /** What the agent says of a part of it: which devices, and why. */
  const component = (name: string) => status.components.find((one) => one.name === name)?.message ?? 'off';
  const lines: readonly (readonly [string, string])[] = [
    ['Routing', `${status.routingMode}${status.routingMode === 'tunnel' ? ` (${status.tunnelProtocol})` : ''}`],
    ['Native routing range', status.nativeRoutingCidr || 'none'],
    ['Direct node routes', String(status.autoDirectNodeRoutes)],
    ['Masquerading', status.masquerade],
    [
      'kube-proxy replacement',
      `${status.kubeProxyReplacement} [${status.devices.join(', ')} ${listed(status.nodeAddress).join(' ')}]`,
    ],
    ['XDP acceleration', component('xdp')],
    ['XDP prefilter', component('prefilter')],
    ['Policy enforcement', status.policyEnforcementMode],
    ['MTU', String(status.mtu)],
    ['Pod CIDR', status.podCidr],
  ];
  const evidence = [
    tableText(['VALUE', 'AS RUNNING'], lines),
    '',
    '# config.yaml',
    facts.configuration ?? '(not readable)',
  ].join('\n');
  const found = `${status.routingMode}, masquerading ${status.masquerade}, kube-proxy replacement ${status.kubeProxyReplacement}`;
  if (!values) return { status: 'passed', found, expected: 'as installed', evidence };
  const wrong = [
    status.routingMode === values.routingMode ? '' : 'routingMode',
    status.policyEnforcementMode === values.policyEnforcementMode ? '' : 'policyEnforcementMode',
    String(values.kubeProxyReplacement) === status.kubeProxyReplacement ? '' : 'kubeProxyReplacement',
    facts.configuration === undefined || facts.configuration === agentConfiguration(values) ? '' : 'config.yaml',
  ].filter(Boolean);
  return wrong.length === 0
    ? { status: 'passed', found, expected: 'as installed', evidence }
    : {
        status: 'failed',
        found: `${found}; not as installed: ${wrong.join(', ')}`,
        expected: 'as installed',
        fix: 'The agent has not taken over the newest values: plan and apply an upgrade.',
        evidence,
      };
}

/** B8: what `fairlead-agent status` says. */
function agentStatus(
  status: GetStatusResponse,
  maps: ListMapsResponse | undefined,
): readonly (readonly [string, string, Outcome])[] {
  const failing = status.components.filter((one) => one.state === 'failing' || one.state === 'degraded');
  const unreachable = status.nodes.filter((node) => !node.reachable);
  const silent = status.nodes.filter((node) =>
    pathsOf(node).some(({ http, icmp }) => !(http?.reachable ?? true) || !(icmp?.reachable ?? true)),
  );
  const ranges = listed(status.podCidr).map((range) => ({
    range,
    used: status.allocations.filter((one) => one.address.includes(':') === range.includes(':')).length,
    of: capacityOf(range),
  }));
  const full = (maps?.maps ?? []).filter((map) => map.entries >= 0 && Number(map.entries) > map.maxEntries * 0.9);
  return [
    [
      'components',
      'Parts of the agent',
      {
        status:
          failing.some((one) => one.state === 'failing') || !status.ready
            ? 'failed'
            : failing.length > 0
              ? 'warning'
              : 'passed',
        found: failing.map((one) => `${one.name}: ${one.message}`).join('; ') || 'all work',
        expected: 'all work',
        ...(failing.length > 0 ? { fix: failing.map((one) => one.fix).join(' ') } : {}),
        evidence: tableText(
          ['PART', 'STATE', 'MESSAGE'],
          status.components.map((one) => [one.name, one.state, one.message]),
        ),
      },
    ],
    [
      'node-health',
      'Other nodes are reached (TCP 4240)',
      {
        status: unreachable.length > 0 ? 'failed' : silent.length > 0 ? 'warning' : 'passed',
        found:
          unreachable.length > 0
            ? `not reached: ${unreachable.map((node) => node.name).join(', ')}`
            : `${status.nodes.length} nodes${silent.length > 0 ? `; not in every way: ${silent.map((node) => node.name).join(', ')}` : ''}`,
        expected: 'every node',
        ...(silent.length > 0
          ? { fix: 'Between the nodes TCP 4240, ICMP and, with a tunnel, its UDP port must be open, in each family.' }
          : {}),
        evidence: tableText(
          ['NODE', 'WHERE', 'ADDRESS', 'HTTP', 'ICMP'],
          status.nodes.flatMap((node) =>
            pathsOf(node).map(({ where, address, http, icmp }) => [
              node.name,
              where,
              address,
              answered(http),
              answered(icmp),
            ]),
          ),
        ),
      },
    ],
    [
      'addresses',
      'Addresses of pods',
      {
        status: ranges.some(({ used, of }) => used / of > 0.9) ? 'warning' : 'passed',
        found: ranges.map(({ range, used, of }) => `${used} of ${of} in ${range}`).join(', '),
        expected: 'some are free',
        evidence: tableText(
          ['ADDRESS', 'OWNER'],
          status.allocations.map((one) => [one.address, one.owner]),
        ),
      },
    ],
    [
      'flows',
      'Flows',
      {
        status: status.flowsLost > 0n ? 'warning' : 'passed',
        found: `${status.flowsSeen} seen, ${status.flowsLost} lost, ${status.flowsPerSecond.toFixed(1)} per second`,
        expected: 'none lost',
        ...(status.flowsLost > 0n ? { fix: 'Raise hubble.eventBufferCapacity, or look at the load of the node.' } : {}),
        evidence: `seen ${status.flowsSeen}\nlost ${status.flowsLost}\nper second ${status.flowsPerSecond}`,
      },
    ],
    [
      'maps',
      'Room in the kernel’s tables',
      maps
        ? {
            status: full.length > 0 ? 'warning' : 'passed',
            found:
              full.length > 0
                ? `nearly full: ${full.map((map) => map.name).join(', ')}`
                : `${maps.maps.length} tables, none above 90 %`,
            expected: 'none above 90 %',
            ...(full.length > 0 ? { fix: 'Raise the size of the table: values under Sizes.' } : {}),
            evidence: tableText(
              ['TABLE', 'TYPE', 'ENTRIES', 'OF', 'BYTES'],
              maps.maps.map((map) => [
                map.name,
                map.type,
                map.entries < 0 ? '-' : String(map.entries),
                String(map.maxEntries),
                String(map.memoryBytes),
              ]),
            ),
          }
        : { status: 'skipped', found: 'the agent did not list them', expected: 'none above 90 %' },
    ],
  ];
}

/** Judges one node by what it and its agent say. Pure. */
export function judgeNode(
  node: string,
  facts: PrintedFacts,
  agent: { readonly status: GetStatusResponse; readonly maps: ListMapsResponse | undefined } | undefined,
  values: Values | undefined,
): readonly CheckResult[] {
  const part = (id: string, title: string, group: string, outcome: Outcome) =>
    partOf({ id, title, node, group }, outcome);
  return [
    part('interfaces', 'Interfaces', 'B1 Interfaces', interfaces(facts, agent?.status)),
    part('nat', 'Address translation', 'B3 NAT', translations(facts, values)),
    part('nic', 'Drivers of network cards', 'B5 Drivers', drivers(facts)),
    part('notrack', 'Connection tracking spared', 'B6 NOTRACK', sparing(facts, values)),
    ...(agent
      ? [
          part(
            'configuration',
            'Configuration as running',
            'B7 Configuration',
            configuration(facts, agent.status, values),
          ),
          ...agentStatus(agent.status, agent.maps).map(([id, title, outcome]) => part(id, title, 'B8 Status', outcome)),
        ]
      : []),
  ];
}
