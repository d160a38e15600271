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
const asked = new Map<string, { readonly at: number }>();
/** Clusters that are being asked anew because somebody wanted it. */
const asking = new Set<string>();
/** How long an answer is taken as it is: rights change rarely, and the API server decides in the end. */
export const freshFor = 60_000;
export const keyOf = (cluster: string, namespace: string) => `${cluster} ${namespace}`;

/**
 * Asks for the rights in a namespace, unless that was done lately. An answer that does not come leaves what was known. `anew`,
 * and the first question of a page (which may have been loaded again for that), want nothing that the engine remembers.
 */
export async function askRights(client: Client, cluster: string, namespace: string, anew = false): Promise<void> {
  const key = keyOf(cluster, namespace);
  const before = asked.get(key);
  if (!anew && before && Date.now() - before.at < freshFor) return;
  const question = { at: Date.now() };
  asked.set(key, question);
  const fresh = anew || (before === undefined && namespace === '');
  const answer = await client.rights.review({ cluster, namespace, ...(fresh ? { anew: true } : {}) });
  // What was asked later is newer, whichever answer comes last; what was forgotten meanwhile stays so.
  if (asked.get(key) !== question) return;
  if (!answer.ok) return void asked.delete(key);
  const denied: Denied = new Map(
    answer.value.rights.filter((right) => !right.allowed).map((right) => [right.action, right.reason]),
  );
  useRightsStore.setState((state) => ({ denied: new Map(state.denied).set(key, denied) }));
}

/**
 * Asks again for all that is known of a cluster: it has just refused something that was taken for allowed, or somebody wants
 * to know whether a right has come.
 */
export async function askAnew(client: Client, cluster: string): Promise<void> {
  const of = `${cluster} `;
  const keys = [...asked.keys()].filter((key) => key.startsWith(of));
  await Promise.all(keys.map((key) => askRights(client, cluster, key.slice(of.length), true)));
}

/** The same, once at a time however often it is wanted. */
export async function lookAgain(client: Client, cluster: string): Promise<void> {
  if (asking.has(cluster)) return;
  asking.add(cluster);
  try {
    await askAnew(client, cluster);
  } finally {
    asking.delete(cluster);
  }
}

/** Forgets what was known of a cluster: it has come back, perhaps with another user behind the same context. */
export function forgetRights(cluster: string): void {
  const of = `${cluster} `;
  for (const key of asked.keys()) if (key.startsWith(of)) asked.delete(key);
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
