import {
  type Attempted,
  answers,
  type Bed,
  type Case,
  carries,
  type Expectation,
  failsBy,
  type Need,
  once,
  type PodName,
  seesClient,
  socket,
  url,
} from './bed.ts';
import { policyCases } from './policy-cases.ts';

export const serverPort = 8080;
/** Ports of the pods in the nodes' own network: out of the way of what usually listens there. */
export const hostPort = 28180;

const at = (bed: Bed, pod: PodName) => bed.pods.get(pod)?.address ?? '';
const portOf = (pod: PodName) => (pod.startsWith('host') ? hostPort : serverPort);
const service = (bed: Bed, name: string) => bed.services.get(name)?.address ?? '';
const nodePort = (bed: Bed, name: string) => bed.services.get(name)?.nodePort ?? 0;
const nodeOf = (bed: Bed, pod: PodName) => bed.nodes.get(bed.pods.get(pod)?.node ?? '') ?? '';

const http =
  (to: (bed: Bed) => string, ...more: readonly string[]) =>
  (bed: Bed) => ['http', to(bed), ...more];
const toPod = (pod: PodName, path = '/') => http((bed) => url(at(bed, pod), portOf(pod), path));
const toService = (name: string, port = 80) => http((bed) => url(service(bed, name), port));
const toNodePort = (name: string, node: PodName) => http((bed) => url(nodeOf(bed, node), nodePort(bed, name)));
const udp =
  (to: (bed: Bed) => string, size = 16) =>
  (bed: Bed) => ['udp', to(bed), '--size', String(size)];
const ping =
  (pod: PodName, size: (bed: Bed) => number = () => 56) =>
  (bed: Bed) => ['ping', at(bed, pod), '--size', String(size(bed))];

/**
 * Port of the service with an external address. The address is the client's node itself: an address that no node has is
 * left to the network by the datapath, so that no service can draw other hosts' traffic to itself (CVE-2020-8554).
 */
export const externalPort = 18_080;

type Row = readonly [id: string, title: string, expected: string, run: Case['run'], needs?: readonly Need[]];
const two: readonly Need[] = ['two nodes'];
const outside: readonly Need[] = ['a server outside'];

function group(name: string, rows: readonly Row[]): readonly Case[] {
  return rows.map(([id, title, expected, run, needs = []]) => ({ id, title, group: name, expected, run, needs }));
}

const megabytes = 4 * 1024 * 1024;
const fullPacket = (bed: Bed) => (bed.mtu > 0 ? bed.mtu : 1400) - 28;

/** Many attempts; `judge` sees which pods answered. */
function many(
  from: PodName,
  count: number,
  args: (bed: Bed) => readonly string[],
  judge: (answered: ReadonlyMap<string, number>) => true | string,
): Case['run'] {
  return async (bed) => {
    const answered = new Map<string, number>();
    for (let i = 0; i < count && !bed.signal.aborted; i++) {
      const attempted = await bed.ask(from, args(bed));
      if (!attempted.ok)
        return { passed: false, message: `attempt ${i + 1} of ${count}: ${attempted.kind}: ${attempted.error ?? ''}` };
      const pod = attempted.peer.pod ?? 'somebody else';
      answered.set(pod, (answered.get(pod) ?? 0) + 1);
    }
    const text = [...answered].map(([pod, times]) => `${pod} ${times}×`).join(', ');
    const judged = judge(answered);
    return judged === true ? { passed: true, message: text } : { passed: false, message: `${judged} (${text})` };
  };
}

const masqueraded: Expectation = (attempted: Attempted, bed) => {
  if (!attempted.ok) return `${attempted.kind}: ${attempted.error ?? ''}`;
  const own = at(bed, 'client');
  const seen = attempted.peer.client ?? /"peer"\s*:\s*"([^"]+)"/.exec(attempted.body ?? '')?.[1];
  if (seen === undefined) return 'the server does not say which address it sees';
  const address = seen.replace(/:\d+$/, '');
  if (address === own) return `the server sees the pod’s own address ${own}`;
  return [...bed.nodes.values()].includes(address) ? true : `the server sees ${address}, which is no node’s address`;
};

const named =
  (count: number): Expectation =>
  ({ ok, addresses = [], kind, error }) =>
    !ok
      ? `${kind}: ${error ?? ''}`
      : addresses.length >= count
        ? true
        : `${addresses.length} addresses instead of ${count}`;

/** Every case, in the order in which they run. Each one is data: a name, what it needs, and what has to come of it. */
export const cases: readonly Case[] = [
  ...group('Pod to pod', [
    ['pod-http-near', 'HTTP, same node', 'near answers', once('client', toPod('near'), answers('near'))],
    ['pod-http-far', 'HTTP, other node', 'far answers', once('client', toPod('far'), answers('far')), two],
    [
      'pod-udp-near',
      'UDP, same node',
      'near answers',
      once(
        'client',
        udp((bed) => socket(at(bed, 'near'), serverPort)),
        answers('near'),
      ),
    ],
    [
      'pod-udp-far',
      'UDP, other node',
      'far answers',
      once(
        'client',
        udp((bed) => socket(at(bed, 'far'), serverPort)),
        answers('far'),
      ),
      two,
    ],
    ['pod-ping-near', 'Ping, same node', 'an echo', once('client', ping('near'), answers())],
    ['pod-ping-far', 'Ping, other node', 'an echo', once('client', ping('far'), answers()), two],
    [
      'pod-source-near',
      'Source address, same node',
      'the pod’s own',
      once('client', toPod('near'), seesClient('client', 'near')),
    ],
    [
      'pod-source-far',
      'Source address, other node',
      'the pod’s own',
      once('client', toPod('far'), seesClient('client', 'far')),
      two,
    ],
    ['pod-back-far', 'The other way round', 'client answers', once('far', toPod('client'), answers('client')), two],
    [
      'pod-refused-near',
      'Closed port, same node',
      'refused at once',
      once(
        'client',
        http((bed) => url(at(bed, 'near'), 81)),
        failsBy('refused'),
      ),
    ],
    [
      'pod-refused-far',
      'Closed port, other node',
      'refused at once',
      once(
        'client',
        http((bed) => url(at(bed, 'far'), 81)),
        failsBy('refused'),
      ),
      two,
    ],
    ['pod-self', 'A pod to itself', 'client answers', once('client', toPod('client'), answers('client'))],
  ]),
  ...group('Large packets', [
    [
      'large-packet-near',
      'A packet as large as the link, not to be broken up, same node',
      'an echo',
      once('client', ping('near', fullPacket), answers()),
    ],
    [
      'large-packet-far',
      'A packet as large as the link, not to be broken up, other node',
      'an echo',
      once('client', ping('far', fullPacket), answers()),
      two,
    ],
    [
      'large-datagram-far',
      'A datagram in fragments, other node',
      'all of it arrives',
      once(
        'client',
        udp((bed) => socket(at(bed, 'far'), serverPort), 6000),
        carries(6000, 'there'),
      ),
      two,
    ],
    [
      'large-download-near',
      '4 MB down, same node',
      'all of it arrives',
      once('client', toPod('near', `/bytes/${megabytes}`), carries(megabytes)),
    ],
    [
      'large-download-far',
      '4 MB down, other node',
      'all of it arrives',
      once('client', toPod('far', `/bytes/${megabytes}`), carries(megabytes)),
      two,
    ],
    [
      'large-upload-far',
      '4 MB up, other node',
      'all of it arrives',
      once(
        'client',
        (bed) => ['http', url(at(bed, 'far'), serverPort), '--method', 'POST', '--upload', String(megabytes)],
        carries(megabytes, 'there'),
      ),
      two,
    ],
  ]),
  ...group('Nodes', [
    ['host-pod-near', 'Node to its own pod', 'near answers', once('host', toPod('near'), answers('near'))],
    ['host-pod-far', 'Node to a pod of another node', 'far answers', once('host', toPod('far'), answers('far')), two],
    ['host-ping-far', 'Ping from a node to a pod of another', 'an echo', once('host', ping('far'), answers()), two],
    ['pod-host-near', 'Pod to its own node', 'host answers', once('client', toPod('host'), answers('host'))],
    [
      'pod-host-far',
      'Pod to another node',
      'host-far answers',
      once('client', toPod('host-far'), answers('host-far')),
      two,
    ],
    ['host-host', 'Node to node', 'host-far answers', once('host', toPod('host-far'), answers('host-far')), two],
    [
      'pod-apiserver',
      'Pod to the API server’s service',
      'a connection',
      once(
        'client',
        http(() => 'http://kubernetes.default.svc.cluster.local:443/'),
        (attempted) =>
          attempted.ok || attempted.kind === 'status' ? true : `${attempted.kind}: ${attempted.error ?? ''}`,
      ),
    ],
  ]),
  ...group('Names', [
    [
      'dns-service',
      'A service’s name',
      'its address',
      once('client', (bed) => ['name', `web.${bed.namespace}.svc.cluster.local`], named(1)),
    ],
    ['dns-short', 'A service’s short name', 'its address', once('client', () => ['name', 'web'], named(1))],
    [
      'dns-headless',
      'A headless service',
      'the addresses of its pods',
      once('client', (bed) => ['name', `web-headless.${bed.namespace}.svc.cluster.local`], named(2)),
    ],
    [
      'dns-nothing',
      'A name that there is not',
      'no such name',
      once('client', (bed) => ['name', `nothing.${bed.namespace}.svc.cluster.local`], failsBy('name')),
    ],
    [
      'dns-host',
      'A service’s name, from a pod in the node’s network',
      'its address',
      once('host', (bed) => ['name', `web.${bed.namespace}.svc.cluster.local`], named(1)),
    ],
  ]),
  ...group('Services', [
    [
      'service-http',
      'ClusterIP, HTTP',
      'one of its pods answers',
      once('client', toService('web'), answers('near', 'far')),
    ],
    [
      'service-udp',
      'ClusterIP, UDP',
      'one of its pods answers',
      once(
        'client',
        udp((bed) => socket(service(bed, 'web'), 80)),
        answers('near', 'far'),
      ),
    ],
    [
      'service-name',
      'ClusterIP by name',
      'one of its pods answers',
      once(
        'client',
        http(() => 'http://web/'),
        answers('near', 'far'),
      ),
    ],
    [
      'service-balanced',
      'ClusterIP is balanced',
      'both pods answer',
      many('client', 24, toService('web'), (answered) => (answered.size === 2 ? true : 'only one pod ever answers')),
    ],
    [
      'service-source',
      'ClusterIP keeps the client’s address',
      'the pod’s own',
      once('client', toService('web'), seesClient('client', 'near', 'far')),
    ],
    [
      'service-host',
      'ClusterIP from a node',
      'one of its pods answers',
      once('host', toService('web'), answers('near', 'far')),
    ],
    [
      'service-no-port',
      'ClusterIP, a port that it does not have',
      'no answer',
      once('client', toService('web', 81), failsBy('refused', 'timeout', 'unreachable')),
    ],
    [
      'service-no-backend',
      'ClusterIP without pods',
      'refused',
      once('client', toService('nobody'), failsBy('refused', 'unreachable', 'timeout')),
    ],
    [
      'service-affinity',
      'Session affinity',
      'always the same pod',
      many('client', 12, toService('web-sticky'), (answered) =>
        answered.size === 1 ? true : 'more than one pod answers',
      ),
    ],
    [
      'service-local',
      'internalTrafficPolicy Local',
      'only the pod of the same node',
      many('client', 12, toService('web-local'), (answered) =>
        answered.size === 1 && answered.has('near') ? true : 'pods of other nodes answer',
      ),
    ],
    [
      'service-hairpin',
      'A pod to itself through its service',
      'client answers',
      once('client', toService('self'), answers('client')),
    ],
    [
      'service-external-ip',
      'External address',
      'one of its pods answers',
      once(
        'client',
        http((bed) => url(nodeOf(bed, 'client'), externalPort)),
        answers('near', 'far'),
      ),
    ],
    [
      'nodeport-own',
      'NodePort on the own node',
      'one of its pods answers',
      once('client', toNodePort('web-nodeport', 'client'), answers('near', 'far')),
    ],
    [
      'nodeport-other',
      'NodePort on another node',
      'one of its pods answers',
      once('client', toNodePort('web-nodeport', 'far'), answers('near', 'far')),
      two,
    ],
    [
      'nodeport-host',
      'NodePort from a node to another',
      'one of its pods answers',
      once('host', toNodePort('web-nodeport', 'far'), answers('near', 'far')),
      two,
    ],
    [
      'nodeport-udp',
      'NodePort, UDP',
      'one of its pods answers',
      once(
        'client',
        udp((bed) => socket(nodeOf(bed, 'client'), nodePort(bed, 'web-nodeport-udp'))),
        answers('near', 'far'),
      ),
    ],
    [
      'nodeport-local',
      'externalTrafficPolicy Local',
      'only the pod of that node',
      many('host', 8, toNodePort('web-nodeport-local', 'far'), (answered) =>
        answered.size === 1 && answered.has('far') ? true : 'pods of other nodes answer',
      ),
      two,
    ],
    [
      'loadbalancer',
      'LoadBalancer address',
      'one of its pods answers',
      once('client', toService('web-loadbalancer'), answers('near', 'far')),
      ['an address for LoadBalancer services'],
    ],
  ]),
  ...group('Outside', [
    [
      'outside-http',
      'HTTP to a server outside',
      'it answers',
      once(
        'client',
        http((bed) => bed.outside ?? ''),
        (attempted) => (attempted.ok ? true : `${attempted.kind}: ${attempted.error ?? ''}`),
      ),
      outside,
    ],
    [
      'outside-masquerade',
      'The server outside sees a node’s address',
      'masqueraded',
      once(
        'client',
        http((bed) => bed.outside ?? ''),
        masqueraded,
      ),
      outside,
    ],
    [
      'outside-host',
      'HTTP from a node to a server outside',
      'it answers',
      once(
        'host',
        http((bed) => bed.outside ?? ''),
        (attempted) => (attempted.ok ? true : `${attempted.kind}: ${attempted.error ?? ''}`),
      ),
      outside,
    ],
  ]),
  ...policyCases(serverPort),
];
