import { useNavigate, useSearch } from '@tanstack/react-router';
import { createContext, type ReactNode, useCallback, useContext, useEffect, useMemo } from 'react';
import type { Cluster, Inventory } from '../../contract/clusters.ts';
import type { Failure } from '../../contract/failure.ts';
import { BlockedPress } from '../ui/pieces.tsx';
import { usePreferences } from './preferences.ts';
import { askAnew, forgetRights, lookAgain } from './rights-store.ts';
import { type Loaded, useClient, useLatest } from './streams.ts';

interface ClusterList {
  readonly clusters: readonly Cluster[];
  /** Kubeconfig files that could not be read. */
  readonly problems: readonly Failure[];
}

interface ClustersValue {
  readonly list: Loaded<ClusterList>;
  /** The cluster that views show, if there is one. */
  readonly current: Cluster | undefined;
  readonly inventory: Loaded<Inventory>;
  readonly choose: (id: string) => void;
}

const ClustersContext = createContext<ClustersValue | undefined>(undefined);

/** Can anything be asked of this cluster? */
export function isConnected(cluster: Cluster | undefined): boolean {
  return cluster?.state === 'online' || cluster?.state === 'degraded';
}

/** Why a change cannot be made on a cluster now; undefined when it can. */
export function writeBlocked(cluster: Cluster | undefined): string | undefined {
  if (!cluster) return 'No cluster is chosen.';
  if (cluster.source === 'recording') return 'This is a recording: nothing can be changed in it.';
  if (!isConnected(cluster)) return 'The cluster is not connected.';
  if (cluster.protected) return 'The cluster is protected. Unlock it in Clusters first.';
  return undefined;
}

/** Provides the list of clusters, the current one and its inventory to all views: one stream each. */
export function ClustersProvider({ children }: { readonly children: ReactNode }) {
  const { cluster: wanted } = useSearch({ strict: false }) as { cluster?: string };
  const navigate = useNavigate();
  const remembered = usePreferences((state) => state.cluster);
  const remember = usePreferences((state) => state.set);
  const list = useLatest<ClusterList>('clusters', (client, handlers) => client.clusters.watch({}, handlers));
  const clusters = list.value?.clusters;
  const current = useMemo(() => {
    const by = (id: string | undefined) => clusters?.find((cluster) => cluster.id === id);
    return by(wanted) ?? by(remembered) ?? clusters?.find(isConnected) ?? clusters?.[0];
  }, [clusters, wanted, remembered]);
  const id = current?.id;
  const connected = isConnected(current);
  const inventory = useLatest<Inventory>(
    `inventory ${id}`,
    id && connected ? (client, handlers) => client.clusters.inventory({ cluster: id }, handlers) : undefined,
  );
  // Whoever comes back is asked anew what may be done.
  useEffect(() => {
    if (id && connected) return () => forgetRights(id);
    return undefined;
  }, [id, connected]);
  const client = useClient();
  const refusals = current?.refusals ?? 0;
  useEffect(() => {
    if (id && refusals > 0) void askAnew(client, id);
  }, [client, id, refusals]);
  useEffect(() => {
    if (id && id !== remembered && id === wanted) remember({ cluster: id });
  }, [id, remembered, wanted, remember]);
  const choose = useCallback(
    (next: string) => {
      remember({ cluster: next });
      void navigate({ to: '.', search: (old: Record<string, unknown>) => ({ ...old, cluster: next }) as never });
    },
    [navigate, remember],
  );
  const value = useMemo(() => ({ list, current, inventory, choose }), [list, current, inventory, choose]);
  const pressed = useCallback(() => {
    if (id && connected) void lookAgain(client, id);
  }, [client, id, connected]);
  return (
    <ClustersContext value={value}>
      <BlockedPress value={pressed}>{children}</BlockedPress>
    </ClustersContext>
  );
}

/** Clusters, the current one, and its inventory. */
export function useClusters(): ClustersValue {
  const value = useContext(ClustersContext);
  if (!value) throw new Error('no clusters were provided');
  return value;
}
