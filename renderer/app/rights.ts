import { useEffect } from 'react';
import type { Cluster } from '../../contract/clusters.ts';
import type { Action } from '../../contract/rights.ts';
import { isConnected, useClusters, writeBlocked } from './clusters.tsx';
import { askRights, freshFor, keyOf, reasonOf, useRightsStore } from './rights-store.ts';
import { useClient } from './streams.ts';

/**
 * Why the user's own rights do not reach for `action` in a namespace ("" for the whole cluster); undefined when they do, or
 * when that is not known (the API server decides then).
 */
export function useDenied(action: Action, namespace = ''): string | undefined {
  const { current } = useClusters();
  const client = useClient();
  const id = current && isConnected(current) && current.source !== 'recording' ? current.id : undefined;
  const reason = useRightsStore((state) =>
    id === undefined ? undefined : reasonOf(state.denied, id, action, namespace),
  );
  const everywhere = useRightsStore(
    (state) => id !== undefined && state.denied.get(keyOf(id, ''))?.has(action) === true,
  );
  useEffect(() => {
    if (id === undefined) return;
    const look = () => {
      void askRights(client, id, '');
      if (everywhere && namespace !== '') void askRights(client, id, namespace);
    };
    look();
    const timer = setInterval(look, freshFor);
    return () => clearInterval(timer);
  }, [client, id, namespace, everywhere]);
  return reason === undefined ? undefined : `${reason} If you have got it meanwhile, press to have it looked up.`;
}

/** Why `action` cannot be done now: no connection, a protected cluster, or a right that is missing. */
export function useBlocked(action: Action, namespace = ''): string | undefined {
  const { current } = useClusters();
  const denied = useDenied(action, namespace);
  return writeBlocked(current) ?? denied;
}

/** The same outside of drawing, by what is known already. */
export function blockedNow(cluster: Cluster | undefined, action: Action, namespace: string): string | undefined {
  return (
    writeBlocked(cluster) ??
    (cluster ? reasonOf(useRightsStore.getState().denied, cluster.id, action, namespace) : undefined)
  );
}
