import { stringify } from 'yaml';
import { canonical } from '../install/diff.ts';
import type { KubeObject } from '../kube/cluster-connection.ts';

/** What the server keeps for itself and nobody edits. */
const serverFields = [
  'uid',
  'resourceVersion',
  'generation',
  'creationTimestamp',
  'deletionTimestamp',
  'managedFields',
  'selfLink',
] as const;
/** kubectl's own memory of what was applied. */
const lastApplied = 'kubectl.kubernetes.io/last-applied-configuration';

interface Metadata extends Record<string, unknown> {
  readonly annotations?: Readonly<Record<string, string>>;
}

/** A policy without what the server keeps for itself, in the usual order of fields. */
export function withoutNoise(object: KubeObject): KubeObject {
  const { apiVersion, kind, metadata, status: _status, ...rest } = object as KubeObject & { readonly status?: unknown };
  const kept: Record<string, unknown> = { ...metadata };
  for (const field of serverFields) delete kept[field];
  const { annotations } = metadata as unknown as Metadata;
  if (annotations) {
    const { [lastApplied]: _applied, ...others } = annotations;
    if (Object.keys(others).length > 0) kept.annotations = others;
    else delete kept.annotations;
  }
  const { name, namespace, ...more } = kept;
  return {
    ...(apiVersion ? { apiVersion } : {}),
    ...(kind ? { kind } : {}),
    metadata: { name, ...(namespace === undefined ? {} : { namespace }), ...more },
    ...rest,
  } as unknown as KubeObject;
}

/** YAML of a policy as it is shown and edited. */
export function toText(object: KubeObject): string {
  return stringify(withoutNoise(object), { lineWidth: 0, aliasDuplicateObjects: false });
}

/** Do two policies say the same? */
export function sameContent(a: KubeObject, b: KubeObject): boolean {
  return canonical(withoutNoise(a)) === canonical(withoutNoise(b));
}

/**
 * The edited document with what it must carry over from the stored object, so that replacing the object loses nothing
 * that the editor did not show.
 */
export function carryOver(edited: KubeObject, stored: KubeObject, resourceVersion: string | undefined): KubeObject {
  const before = stored.metadata as unknown as Metadata;
  const now = edited.metadata as unknown as Metadata;
  const applied = before.annotations?.[lastApplied];
  const annotations = { ...now.annotations, ...(applied === undefined ? {} : { [lastApplied]: applied }) };
  const { status: _status, ...rest } = edited as KubeObject & { readonly status?: unknown };
  return {
    ...rest,
    metadata: {
      ...(before.finalizers ? { finalizers: before.finalizers } : {}),
      ...(before.ownerReferences ? { ownerReferences: before.ownerReferences } : {}),
      ...now,
      ...(Object.keys(annotations).length > 0 ? { annotations } : {}),
      resourceVersion: resourceVersion ?? stored.metadata.resourceVersion,
    },
  } as unknown as KubeObject;
}

/** Who looks after an object so that edits here would be reverted; "" if nobody does. */
export function managerOf({ metadata: { labels = {}, annotations = {} } }: KubeObject): string {
  if (annotations['argocd.argoproj.io/tracking-id'] || labels['argocd.argoproj.io/instance'])
    return `Argo CD${labels['argocd.argoproj.io/instance'] ? ` (${labels['argocd.argoproj.io/instance']})` : ''}`;
  const kustomization = labels['kustomize.toolkit.fluxcd.io/name'];
  if (kustomization) return `Flux (${kustomization})`;
  const helmRelease = labels['helm.toolkit.fluxcd.io/name'];
  if (helmRelease) return `Flux (${helmRelease})`;
  if (labels['app.kubernetes.io/managed-by'] === 'Helm') {
    const release = annotations['meta.helm.sh/release-name'];
    return `Helm${release ? ` (${release})` : ''}`;
  }
  return '';
}
