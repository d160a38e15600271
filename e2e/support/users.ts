import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { apply, kubectl } from '../../lab/client.ts';

export interface User {
  readonly name: string;
  /** Rules for the whole cluster. */
  readonly everywhere: readonly object[];
  /** Rules in one namespace. */
  readonly inNamespace?: { readonly namespace: string; readonly rules: readonly object[] };
}

/** Reading everything but Secrets, and asking what one may do, which everybody may. */
export const readEverything = [
  {
    apiGroups: [''],
    resources: ['nodes', 'namespaces', 'pods', 'services', 'endpoints', 'configmaps', 'events', 'pods/log'],
    verbs: ['get', 'list', 'watch'],
  },
  {
    apiGroups: ['apps', 'discovery.k8s.io', 'networking.k8s.io', 'cilium.io', 'apiextensions.k8s.io', 'batch'],
    resources: ['*'],
    verbs: ['get', 'list', 'watch'],
  },
];

const rbac = 'rbac.authorization.k8s.io';

/** Makes service accounts with these rights, real RBAC, and writes a kubeconfig with a context for each. */
export async function kubeconfigFor(users: readonly User[]): Promise<string> {
  const contexts = await Promise.all(
    users.map(async ({ name, everywhere, inNamespace }) => {
      const subjects = [{ kind: 'ServiceAccount', name, namespace: 'default' }];
      await apply([
        { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace: 'default' } },
        { apiVersion: `${rbac}/v1`, kind: 'ClusterRole', metadata: { name: `e2e-${name}` }, rules: everywhere },
        {
          apiVersion: `${rbac}/v1`,
          kind: 'ClusterRoleBinding',
          metadata: { name: `e2e-${name}` },
          roleRef: { apiGroup: rbac, kind: 'ClusterRole', name: `e2e-${name}` },
          subjects,
        },
        ...(inNamespace
          ? [
              {
                apiVersion: `${rbac}/v1`,
                kind: 'Role',
                metadata: { name: `e2e-${name}`, namespace: inNamespace.namespace },
                rules: inNamespace.rules,
              },
              {
                apiVersion: `${rbac}/v1`,
                kind: 'RoleBinding',
                metadata: { name: `e2e-${name}`, namespace: inNamespace.namespace },
                roleRef: { apiGroup: rbac, kind: 'Role', name: `e2e-${name}` },
                subjects,
              },
            ]
          : []),
      ]);
      return { name, token: (await kubectl(['-n', 'default', 'create', 'token', name, '--duration=2h'])).trim() };
    }),
  );
  const raw = JSON.parse(await kubectl(['config', 'view', '--raw', '-o', 'json'])) as {
    readonly clusters: readonly { readonly cluster: object }[];
  };
  const path = join(mkdtempSync(join(tmpdir(), 'fairlead-users-')), 'kubeconfig');
  const text = JSON.stringify({
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'lab', cluster: raw.clusters[0]?.cluster }],
    users: contexts.map(({ name, token }) => ({ name, user: { token } })),
    contexts: contexts.map(({ name }) => ({ name, context: { cluster: 'lab', user: name } })),
    'current-context': contexts[0]?.name,
  });
  writeFileSync(path, text, { mode: 0o600 });
  return path;
}
