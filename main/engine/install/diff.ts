import { createHash } from 'node:crypto';
import { stringify } from 'yaml';
import type { KubeObject } from '../kube/cluster-connection.ts';

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** Maps that belong to us as a whole: a key that is only in the cluster is a difference. */
const owned = new Set(['data', 'stringData', 'matchLabels', 'nodeSelector']);

function isMap(value: unknown): value is { readonly [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * The part of a live object that we have an opinion on: keys that the desired object has. What the server fills in by
 * itself (status, defaults, managedFields) is left out, so that comparing is free of noise.
 */
export function project(live: Json, desired: Json): Json {
  if (isMap(live) && isMap(desired)) {
    const out: Record<string, Json> = {};
    for (const [key, value] of Object.entries(desired)) {
      const there = live[key];
      if (there === undefined) continue;
      out[key] = owned.has(key) ? there : project(there, value);
    }
    return out;
  }
  if (Array.isArray(live) && Array.isArray(desired) && live.length === desired.length)
    return live.map((item: Json, index) => project(item, (desired as readonly Json[])[index] ?? null));
  return live;
}

/** JSON with sorted keys: equal values give equal texts. */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) =>
    isMap(item) ? Object.fromEntries(Object.entries(item).sort(([a], [b]) => (a < b ? -1 : 1))) : item,
  );
}

/** SHA-256 of a value's canonical JSON, hexadecimal. */
export function digestOf(value: unknown): string {
  return createHash('sha256').update(canonical(value)).digest('hex');
}

/** Removes nulls, which generators write for "not set". */
export function withoutNulls<T>(value: T): T {
  return JSON.parse(JSON.stringify(value, (_key, item: unknown) => (item === null ? undefined : item))) as T;
}

/** Secrets are shown by their keys only. */
function masked(object: KubeObject): KubeObject {
  if (object.kind !== 'Secret') return object;
  const data = (object as { readonly data?: Readonly<Record<string, string>> }).data ?? {};
  return { ...object, data: Object.fromEntries(Object.keys(data).map((key) => [key, '(not shown)'])) } as KubeObject;
}

function toYAML(object: KubeObject): string {
  return stringify(masked(object), { lineWidth: 0, aliasDuplicateObjects: false });
}

export interface ObjectDifference {
  readonly action: 'create' | 'update' | 'unchanged';
  readonly before: string;
  readonly after: string;
}

/** What applying `desired` would do to `live`. */
export function difference(live: KubeObject | undefined, desired: KubeObject): ObjectDifference {
  const after = toYAML(desired);
  if (!live) return { action: 'create', before: '', after };
  // The API server leaves kind and apiVersion out of list items.
  const full = { ...live, apiVersion: desired.apiVersion, kind: desired.kind } as KubeObject;
  const projected = project(full as unknown as Json, desired as unknown as Json);
  const same = canonical(projected) === canonical(desired);
  return {
    action: same ? 'unchanged' : 'update',
    before: same ? after : toYAML(projected as unknown as KubeObject),
    after,
  };
}

/** YAML of a live object without what the server keeps for itself. */
export function shown(live: KubeObject): string {
  const { status: _status, metadata, ...rest } = live as KubeObject & { readonly status?: unknown };
  const { managedFields: _fields, ...kept } = metadata as KubeObject['metadata'] & { readonly managedFields?: unknown };
  return toYAML({ ...rest, metadata: kept } as KubeObject);
}
