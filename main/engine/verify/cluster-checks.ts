import type { Values } from '../../../contract/index.ts';
import { askRelay } from '../agents/relay-client.ts';
import { type Check, type Outcome, tableText } from '../checks/runner.ts';
import { customResourceDefinitions } from '../install/definitions.ts';
import { type ClusterConnection, type KubeObject, type ResourceType, resources } from '../kube/cluster-connection.ts';

interface Definition extends KubeObject {
  readonly spec?: {
    readonly versions?: readonly { readonly additionalPrinterColumns?: readonly { readonly name: string }[] }[];
  };
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

const field = (object: unknown, ...path: readonly string[]): unknown =>
  path.reduce<unknown>(
    (at, key) => (typeof at === 'object' && at !== null ? (at as Record<string, unknown>)[key] : undefined),
    object,
  );

const text = (value: unknown) => (value === undefined || value === null ? '' : String(value));

/** A list with one entry per family, or the single field of before there were two. */
const both = (object: unknown, list: readonly string[], single: readonly string[]) =>
  (field(object, ...list) as readonly string[] | undefined)?.join(',') ?? text(field(object, ...single));

/** Columns that `kubectl get` prints of these kinds. */
const columns: Readonly<Record<string, readonly string[]>> = {
  'ciliumnodes.cilium.io': ['CiliumInternalIP', 'InternalIP', 'Age'],
  'ciliumendpoints.cilium.io': ['Security Identity', 'Endpoint State', 'IPv4', 'IPv6'],
};

async function list(connection: ClusterConnection, type: ResourceType): Promise<readonly KubeObject[] | Outcome> {
  const found = await connection.list<KubeObject>(type);
  return found.ok
    ? found.value
    : {
        status: 'failed',
        found: `${found.failure.what} ${found.failure.why}`,
        expected: `${type.plural} can be listed`,
        fix: found.failure.fix,
      };
}

function isOutcome(value: readonly KubeObject[] | Outcome): value is Outcome {
  return !Array.isArray(value);
}

async function inventory(connection: ClusterConnection): Promise<Outcome> {
  const [nodes, pods, services] = await Promise.all(
    [resources.nodes, resources.pods, resources.services].map((type) => list(connection, type)),
  );
  for (const one of [nodes, pods, services]) if (one && isOutcome(one)) return one;
  const objects = (value: typeof nodes) => (value && !isOutcome(value) ? value : []);
  const notReady = objects(nodes).filter(
    (node) =>
      !(field(node, 'status', 'conditions') as readonly { type: string; status: string }[] | undefined)?.some(
        (one) => one.type === 'Ready' && one.status === 'True',
      ),
  );
  const waiting = objects(pods).filter(
    (pod) => !['Running', 'Succeeded'].includes(text(field(pod, 'status', 'phase'))),
  );
  const evidence = [
    tableText(
      ['NODE', 'ADDRESS', 'POD CIDR'],
      objects(nodes).map((node) => [
        node.metadata.name,
        (field(node, 'status', 'addresses') as readonly { type: string; address: string }[] | undefined)
          ?.filter(({ type }) => type === 'InternalIP')
          .map(({ address }) => address)
          .join(',') ?? '',
        both(node, ['spec', 'podCIDRs'], ['spec', 'podCIDR']),
      ]),
    ),
    tableText(
      ['NAMESPACE', 'POD', 'PHASE', 'ADDRESS', 'NODE'],
      objects(pods).map((pod) => [
        pod.metadata.namespace ?? '',
        pod.metadata.name,
        text(field(pod, 'status', 'phase')),
        (field(pod, 'status', 'podIPs') as readonly { ip: string }[] | undefined)?.map(({ ip }) => ip).join(',') ??
          text(field(pod, 'status', 'podIP')),
        text(field(pod, 'spec', 'nodeName')),
      ]),
    ),
    tableText(
      ['NAMESPACE', 'SERVICE', 'TYPE', 'CLUSTER IP'],
      objects(services).map((service) => [
        service.metadata.namespace ?? '',
        service.metadata.name,
        text(field(service, 'spec', 'type')),
        both(service, ['spec', 'clusterIPs'], ['spec', 'clusterIP']),
      ]),
    ),
  ].join('\n\n');
  return {
    status: notReady.length > 0 ? 'failed' : waiting.length > 0 ? 'warning' : 'passed',
    found: `${objects(nodes).length} nodes, ${objects(pods).length} pods, ${objects(services).length} services${
      notReady.length > 0 ? `; not Ready: ${notReady.map((node) => node.metadata.name).join(', ')}` : ''
    }${
      waiting.length > 0
        ? `; not running: ${waiting
            .map((pod) => pod.metadata.name)
            .slice(0, 5)
            .join(', ')}`
        : ''
    }`,
    expected: 'every node Ready, every pod running',
    ...(waiting.length > 0 || notReady.length > 0 ? { fix: 'Look at kubectl describe of what is named.' } : {}),
    evidence,
  };
}

async function definitions(connection: ClusterConnection): Promise<Outcome> {
  const found = await list(connection, resources.customResourceDefinitions);
  if (isOutcome(found)) return found;
  const byName = new Map((found as readonly Definition[]).map((one) => [one.metadata.name, one]));
  const rows = customResourceDefinitions().map(({ metadata: { name } }) => {
    const one = byName.get(name);
    const served = one?.status?.conditions?.some(
      (condition) => condition.type === 'Established' && condition.status === 'True',
    );
    const printed =
      one?.spec?.versions?.flatMap((version) => version.additionalPrinterColumns?.map((column) => column.name) ?? []) ??
      [];
    const missing = (columns[name] ?? []).filter(
      (column) => !printed.some((have) => have.toLowerCase() === column.toLowerCase()),
    );
    return { name, served: served ?? false, printed, missing };
  });
  const wrong = rows.filter((row) => !row.served || row.missing.length > 0);
  return {
    status: wrong.length > 0 ? 'failed' : 'passed',
    found:
      wrong.length > 0
        ? wrong
            .map((row) => `${row.name}: ${row.served ? `no column ${row.missing.join(', ')}` : 'not served'}`)
            .join('; ')
        : `${rows.length} served`,
    expected: 'every definition is served and prints its columns',
    ...(wrong.length > 0 ? { fix: 'Plan and apply an upgrade; it writes the definitions again.' } : {}),
    evidence: tableText(
      ['DEFINITION', 'SERVED', 'COLUMNS'],
      rows.map((row) => [row.name, row.served ? 'yes' : 'no', row.printed.join(', ')]),
    ),
  };
}

async function ciliumNodes(connection: ClusterConnection): Promise<Outcome> {
  const [found, nodes] = await Promise.all([
    list(connection, resources.ciliumNodes),
    list(connection, resources.nodes),
  ]);
  if (isOutcome(found)) return found;
  const expected = isOutcome(nodes) ? found.length : nodes.length;
  const addressOf = (object: KubeObject, type: string) =>
    (field(object, 'spec', 'addresses') as readonly { type: string; ip: string }[] | undefined)
      ?.filter((one) => one.type === type)
      .map((one) => one.ip)
      .join(',') ?? '';
  return {
    status: found.length === expected && expected > 0 ? 'passed' : 'failed',
    found: `${found.length} of ${expected} nodes`,
    expected: 'one per node',
    ...(found.length === expected ? {} : { fix: 'Look at the agents of the nodes that are missing.' }),
    evidence: tableText(
      ['NAME', 'CILIUMINTERNALIP', 'INTERNALIP', 'AGE'],
      found.map((node) => [
        node.metadata.name,
        addressOf(node, 'CiliumInternalIP'),
        addressOf(node, 'InternalIP'),
        node.metadata.creationTimestamp ?? '',
      ]),
    ),
  };
}

async function ciliumEndpoints(connection: ClusterConnection): Promise<Outcome> {
  const [found, pods] = await Promise.all([
    list(connection, resources.ciliumEndpoints),
    list(connection, resources.pods),
  ]);
  if (isOutcome(found)) return found;
  const key = (object: KubeObject) => `${object.metadata.namespace}/${object.metadata.name}`;
  const there = new Set(found.map(key));
  const missing = isOutcome(pods)
    ? []
    : pods.filter(
        (pod) =>
          field(pod, 'status', 'phase') === 'Running' &&
          field(pod, 'spec', 'hostNetwork') !== true &&
          !pod.metadata.deletionTimestamp &&
          !there.has(key(pod)),
      );
  const states = found.filter((one) => text(field(one, 'status', 'state')) !== 'ready');
  return {
    status: missing.length > 0 ? 'failed' : states.length > 0 ? 'warning' : 'passed',
    found:
      missing.length > 0
        ? `without one: ${missing.map(key).slice(0, 5).join(', ')}`
        : `${found.length}, ${found.length - states.length} of them ready`,
    expected: 'one per pod with an address of its own',
    ...(missing.length > 0 ? { fix: 'Pods from before the agent have none: restart them.' } : {}),
    evidence: tableText(
      ['NAMESPACE', 'NAME', 'SECURITY IDENTITY', 'ENDPOINT STATE', 'IPV4', 'IPV6'],
      found.map((one) => {
        const addresses = field(one, 'status', 'networking', 'addressing') as
          | readonly { ipv4?: string; ipv6?: string }[]
          | undefined;
        return [
          one.metadata.namespace ?? '',
          one.metadata.name,
          text(field(one, 'status', 'identity', 'id')),
          text(field(one, 'status', 'state')),
          text(addresses?.[0]?.ipv4),
          text(addresses?.[0]?.ipv6),
        ];
      }),
    ),
  };
}

async function relay(connection: ClusterConnection, signal: AbortSignal): Promise<Outcome> {
  const [answer, nodes] = await Promise.all([askRelay(connection, signal), list(connection, resources.nodes)]);
  const expected = 'it answers, and is connected to every node';
  if (!answer.ok) {
    const { what, why, fix } = answer.failure;
    return { status: 'failed', found: `${what} ${why}`, expected, fix };
  }
  const { version, peers } = answer.value;
  const names = isOutcome(nodes) ? [] : nodes.map(({ metadata }) => metadata.name);
  const away = [
    ...peers.filter((peer) => !peer.connected).map((peer) => peer.name),
    ...names.filter((name) => !peers.some((peer) => peer.name === name || peer.name.endsWith(`/${name}`))),
  ];
  return {
    status: away.length > 0 ? 'failed' : 'passed',
    found:
      away.length > 0
        ? `not connected to ${away.join(', ')}`
        : `${version}, connected to ${peers.length} of ${peers.length} nodes`,
    expected,
    ...(away.length > 0
      ? { fix: 'Look at the agents of these nodes; the relay reaches them on TCP 4244 of their addresses.' }
      : {}),
    evidence: tableText(
      ['NODE', 'ADDRESS', 'STATE', 'FLOWS'],
      peers.map((peer) => [peer.name, peer.address, peer.connected ? 'connected' : 'unavailable', String(peer.flows)]),
    ),
  };
}

/** What concerns the cluster as a whole. */
export function clusterChecks(connection: ClusterConnection, values?: Values): readonly Check[] {
  const check = (id: string, title: string, group: string, run: Check['run']): Check => ({
    id,
    title,
    node: '',
    group,
    run,
  });
  return [
    check('inventory', 'Nodes, pods and services', 'B2 Inventory', () => inventory(connection)),
    check('definitions', 'Custom resource definitions', 'B4 CRDs', () => definitions(connection)),
    check('cilium-nodes', 'kubectl get ciliumnodes', 'B4 CRDs', () => ciliumNodes(connection)),
    check('cilium-endpoints', 'kubectl get ciliumendpoints -A', 'B4 CRDs', () => ciliumEndpoints(connection)),
    ...(values?.hubble.relay.enabled
      ? [check('relay', 'Relay', 'C2 Hubble', (signal: AbortSignal) => relay(connection, signal))]
      : []),
  ];
}
