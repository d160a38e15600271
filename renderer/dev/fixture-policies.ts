import type { PolicySummary } from '../../contract/policies.ts';
import type { Preset } from './fixture-data.ts';

export const demoPolicy = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: rule1
  namespace: default
spec:
  description: L3-L4 policy to restrict deathstar access to empire ships only
  endpointSelector:
    matchLabels:
      org: empire
      class: deathstar
  ingress:
    - fromEndpoints:
        - matchLabels:
            org: empire
      toPorts:
        - ports:
            - port: "80"
              protocol: TCP
`;

/** The policies that a preset's cluster has, with their text. */
export function makePolicies(preset: Preset): { summary: PolicySummary; text: string }[] {
  const day = 86_400_000;
  const now = Date.now();
  const base = { problems: [], enforcedOn: 3, expectedOn: 3, managedBy: '', status: 'valid', description: '' } as const;
  const list: { summary: PolicySummary; text: string }[] = [
    {
      summary: {
        ...base,
        id: { kind: 'CiliumNetworkPolicy', namespace: 'default', name: 'rule1' },
        selector: 'org=empire, class=deathstar',
        description: 'L3-L4 policy to restrict deathstar access to empire ships only',
        selects: ['default/deathstar-7f9c5d6b8-4xk2m', 'default/deathstar-7f9c5d6b8-q9wlt'],
        directions: ['ingress'],
        createdAt: now - 12 * 60_000,
      },
      text: demoPolicy,
    },
    {
      summary: {
        ...base,
        id: { kind: 'NetworkPolicy', namespace: 'shop', name: 'database-from-api' },
        selector: 'app=database',
        selects: ['shop/database-0'],
        directions: ['ingress'],
        createdAt: now - 3 * day,
        managedBy: 'Argo CD',
      },
      text: 'apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: database-from-api\n  namespace: shop\nspec:\n  podSelector:\n    matchLabels:\n      app: database\n  policyTypes:\n    - Ingress\n  ingress:\n    - from:\n        - podSelector:\n            matchLabels:\n              tier: api\n      ports:\n        - protocol: TCP\n          port: 5432\n',
    },
    {
      summary: {
        ...base,
        id: { kind: 'CiliumClusterwideNetworkPolicy', namespace: '', name: 'allow-dns' },
        selector: 'all pods',
        selects: ['default/tiefighter', 'default/xwing', 'shop/cart-6b7c9d5f4-x4n6p'],
        directions: ['egress'],
        createdAt: now - 20 * day,
      },
      text: 'apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata:\n  name: allow-dns\nspec:\n  endpointSelector: {}\n  egress:\n    - toEndpoints:\n        - matchLabels:\n            k8s:io.kubernetes.pod.namespace: kube-system\n            k8s-app: kube-dns\n      toPorts:\n        - ports:\n            - port: "53"\n              protocol: UDP\n',
    },
  ];
  if (preset === 'errors') {
    list.push({
      summary: {
        ...base,
        id: { kind: 'CiliumNetworkPolicy', namespace: 'shop', name: 'broken' },
        selector: 'app=frontend',
        selects: [],
        directions: [],
        status: 'invalid',
        enforcedOn: 0,
        createdAt: now - 2 * 3_600_000,
        problems: [
          {
            severity: 'error',
            code: 'policy.unknown-field',
            path: 'spec.ingres',
            line: 7,
            column: 3,
            endLine: 7,
            endColumn: 9,
            what: 'There is no field spec.ingres.',
            why: 'The API server keeps such a policy, and nothing of it is enforced.',
            fix: 'Did you mean spec.ingress?',
          },
        ],
      },
      text: 'apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: broken, namespace: shop}\nspec:\n  endpointSelector:\n    matchLabels: {app: frontend}\n  ingres: []\n',
    });
  }
  if (preset === 'long') {
    list.push({
      summary: {
        ...base,
        id: {
          kind: 'CiliumNetworkPolicy',
          namespace: 'customer-facing-storefront-experience-platform-production',
          name: 'allow-ingress-from-recommendation-engine-personalisation-workers-to-catalogue-read-replicas',
        },
        selector:
          'app.kubernetes.io/name=recommendation-engine-personalisation-worker, app.kubernetes.io/managed-by=argocd-application-controller',
        selects: [
          'customer-facing-storefront-experience-platform-production/recommendation-engine-personalisation-worker-with-a-very-long-name-6f5d8c9b7d-8xk2q',
        ],
        directions: ['ingress', 'egress'],
        createdAt: now - 400 * day,
        managedBy: 'Flux (kustomization platform-policies/production)',
      },
      text: demoPolicy,
    });
  }
  if (preset === 'many') {
    for (let index = 0; index < 5000; index += 1) {
      list.push({
        summary: {
          ...base,
          id: {
            kind: index % 3 === 0 ? 'NetworkPolicy' : 'CiliumNetworkPolicy',
            namespace: `team-${String(index % 40).padStart(2, '0')}`,
            name: `policy-${index}`,
          },
          selector: `app=service-${index % 12}`,
          selects: [`team-${index % 40}/service-${index % 12}`],
          directions: ['ingress'],
          createdAt: now - index * 60_000,
        },
        text: demoPolicy,
      });
    }
  }
  return list;
}
