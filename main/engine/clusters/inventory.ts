import type { Inventory, Pod } from '../../../contract/clusters.ts';
import type { Failure } from '../../../contract/failure.ts';
import type { Sink } from '../../../contract/implementation.ts';
import type { AgentStatuses } from '../agents/index.ts';
import { type ClusterConnection, type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { SshConnector } from '../ssh/ssh-connector.ts';
import { countBackends, nodeRow, podRow, serviceRow } from './inventory-rows.ts';

export interface InventorySource {
  readonly connection: ClusterConnection;
  readonly statuses: AgentStatuses;
  readonly ssh: SshConnector;
  /** Told what of the cluster cannot be read, or can be again. */
  readonly degrade: (what: string, failure: Failure | undefined) => void;
}

/** The contract promises at most two pictures a second. */
const interval = 500;

/** Sends the cluster's picture, whole, whenever it has changed, until `signal` aborts or the connection ends. */
export async function streamInventory(
  source: InventorySource,
  sink: Sink<Inventory>,
  signal: AbortSignal,
): Promise<Failure | undefined> {
  const { connection, statuses, ssh } = source;
  using held = new DisposableStack();
  const nodes = held.use(connection.watch(resources.nodes));
  const pods = held.use(connection.watch(resources.pods));
  const services = held.use(connection.watch(resources.services));
  const namespaces = held.use(connection.watch(resources.namespaces));
  const slices = held.use(connection.watch(resources.endpointSlices));
  // Absent until the network is installed: no failure of the cluster.
  const endpoints = held.use(connection.watch(resources.ciliumEndpoints));
  const needed = { nodes, pods, services, namespaces, slices };

  let dirty = true;
  let wake: () => void = () => {};
  const changed = () => {
    dirty = true;
    wake();
  };
  for (const collection of [...Object.values(needed), endpoints]) held.use(collection.onChange(changed));
  // Agents are asked only while somebody listens.
  held.use(statuses.onChange(connection.cluster, changed));
  const end = () => wake();
  for (const stop of [signal, connection.signal]) {
    stop.addEventListener('abort', end);
    held.defer(() => stop.removeEventListener('abort', end));
  }

  await Promise.all(Object.values(needed).map((collection) => collection.ready()));
  const rows = new WeakMap<KubeObject, { readonly endpoint: KubeObject | undefined; readonly row: Pod }>();
  const aliases = new Map<string, string | undefined>();
  while (!signal.aborted && !connection.signal.aborted) {
    if (!dirty) {
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (dirty || signal.aborted || connection.signal.aborted) resolve();
      });
      continue;
    }
    dirty = false;
    let missing: Failure | undefined;
    for (const collection of Object.values(needed)) missing ??= collection.failure();
    source.degrade('inventory', missing);
    // Nothing at all could be read: that is no picture.
    if (missing && !Object.values(needed).some((collection) => collection.synced())) return missing;

    const perNode = new Map<string, number>();
    const podRows: Pod[] = [];
    const endpointItems = endpoints.items();
    for (const [key, pod] of pods.items()) {
      const endpoint = endpointItems.get(key);
      let known = rows.get(pod);
      if (!known || known.endpoint !== endpoint) {
        known = { endpoint, row: podRow(pod, endpoint) };
        rows.set(pod, known);
      }
      podRows.push(known.row);
      perNode.set(known.row.node, (perNode.get(known.row.node) ?? 0) + 1);
    }
    const agents = statuses.forCluster(connection.cluster);
    const nodeRows = [];
    for (const node of nodes.items().values()) {
      const row = nodeRow(
        node,
        agents.get(node.metadata.name) ?? { state: 'absent' },
        perNode.get(node.metadata.name) ?? 0,
        undefined,
      );
      const key = `${row.name} ${row.address}`;
      if (!aliases.has(key)) aliases.set(key, await ssh.aliasFor({ name: row.name, address: row.address }));
      const alias = aliases.get(key);
      nodeRows.push(alias === undefined ? row : { ...row, ssh: alias });
    }
    const backends = countBackends(slices.items().values());
    const byName = (a: { readonly name: string }, b: { readonly name: string }) =>
      a.name.localeCompare(b.name, 'en', { numeric: true });
    await sink.push([
      {
        at: Date.now(),
        nodes: nodeRows.sort(byName),
        namespaces: [...namespaces.items().values()]
          .map(({ metadata }) => ({ name: metadata.name, labels: metadata.labels ?? {} }))
          .sort(byName),
        pods: podRows,
        services: [...services.items()].map(([key, service]) => serviceRow(service, backends.get(key) ?? 0)),
      },
    ]);
    await new Promise<void>((resolve) => {
      const timer = setTimeout(done, interval);
      function done() {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        connection.signal.removeEventListener('abort', done);
        resolve();
      }
      signal.addEventListener('abort', done, { once: true });
      connection.signal.addEventListener('abort', done, { once: true });
    });
  }
  if (signal.aborted) return undefined;
  return {
    code: 'cluster.disconnected',
    what: `“${connection.contextName}” is not connected any more.`,
    why: 'It was disconnected, or its kubeconfig changed.',
    fix: 'Connect it again in the Clusters view.',
  };
}
