import { create } from 'zustand';
import type { Client } from '../../contract/client.ts';
import type { Action } from '../../contract/rights.ts';

/** What is not allowed, with the reason. */
type Denied = ReadonlyMap<Action, string>;

interface RightsStore {
  /** By cluster and namespace ("" for the whole cluster). */
  readonly denied: ReadonlyMap<string, Denied>;
}

/** What is known of the user's rights. */
export const useRightsStore = create<RightsStore>()(() => ({ denied: new Map() }));

/** When each was asked for last, answered or not. */
const askedAt = new Map<string, number>();
/** How long an answer is taken as it is: rights change rarely, and the API server decides in the end. */
export const freshFor = 60_000;
export const keyOf = (cluster: string, namespace: string) => `${cluster} ${namespace}`;

/** Asks for the rights in a namespace, unless that was done lately. An answer that does not come leaves what was known. */
export async function askRights(client: Client, cluster: string, namespace: string): Promise<void> {
  const key = keyOf(cluster, namespace);
  if (Date.now() - (askedAt.get(key) ?? 0) < freshFor) return;
  askedAt.set(key, Date.now());
  const answer = await client.rights.review({ cluster, namespace });
  if (!answer.ok) return void askedAt.delete(key);
  const denied: Denied = new Map(
    answer.value.rights.filter((right) => !right.allowed).map((right) => [right.action, right.reason]),
  );
  useRightsStore.setState((state) => ({ denied: new Map(state.denied).set(key, denied) }));
}

/** Asks again for all that is known of a cluster: it has just refused something that was taken for allowed. */
export async function askAnew(client: Client, cluster: string): Promise<void> {
  const of = `${cluster} `;
  const keys = [...askedAt.keys()].filter((key) => key.startsWith(of));
  for (const key of keys) askedAt.delete(key);
  await Promise.all(keys.map((key) => askRights(client, cluster, key.slice(of.length))));
}

/** Forgets what was known of a cluster: it has come back, perhaps with another user behind the same context. */
export function forgetRights(cluster: string): void {
  const of = `${cluster} `;
  for (const key of askedAt.keys()) if (key.startsWith(of)) askedAt.delete(key);
  useRightsStore.setState((state) => ({
    denied: new Map([...state.denied].filter(([key]) => !key.startsWith(of))),
  }));
}

/** What may be done everywhere may be done in each namespace: only where it may not is the namespace's answer needed. */
export function reasonOf(known: RightsStore['denied'], cluster: string, action: Action, namespace: string) {
  const everywhere = known.get(keyOf(cluster, ''));
  if (!everywhere?.has(action)) return undefined;
  return namespace === '' ? everywhere.get(action) : known.get(keyOf(cluster, namespace))?.get(action);
}
