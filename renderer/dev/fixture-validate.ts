import { LineCounter, parseDocument } from 'yaml';
import type { Inventory } from '../../contract/clusters.ts';
import { type PolicyId, type PolicyProblem, type PolicyValidation, policyKindSchema } from '../../contract/policies.ts';

/** A rough validation for the fixture; the product asks the policy engine. */
export function validateText(text: string, inventory: Inventory): PolicyValidation {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const problems: PolicyProblem[] = document.errors.map((error) => {
    const start = lines.linePos(error.pos[0]);
    const end = lines.linePos(error.pos[1]);
    return {
      severity: 'error',
      code: 'policy.yaml',
      path: '',
      line: start.line,
      column: start.col,
      endLine: end.line,
      endColumn: end.col,
      what: 'The text is not YAML.',
      why: error.message.split('\n')[0] ?? '',
      fix: 'Mend the text at the marked place.',
    };
  });
  if (problems.length > 0) return { problems, selects: [], meaning: [] };
  const value = (document.toJS() ?? {}) as {
    kind?: unknown;
    metadata?: { name?: unknown; namespace?: unknown };
    spec?: Record<string, unknown> & {
      endpointSelector?: { matchLabels?: Record<string, string> };
      podSelector?: { matchLabels?: Record<string, string> };
    };
  };
  const known = [
    'description',
    'endpointSelector',
    'podSelector',
    'ingress',
    'egress',
    'ingressDeny',
    'egressDeny',
    'policyTypes',
    'enableDefaultDeny',
    'nodeSelector',
  ];
  for (const key of Object.keys(value.spec ?? {})) {
    if (known.includes(key)) continue;
    const row = text.split('\n').findIndex((line) => line.trimStart().startsWith(`${key}:`));
    problems.push({
      severity: 'error',
      code: 'policy.unknown-field',
      path: `spec.${key}`,
      line: row + 1,
      column: 3,
      endLine: row + 1,
      endColumn: 3 + key.length,
      what: `There is no field spec.${key}.`,
      why: 'The API server would keep such a policy, and nothing of it would be enforced.',
      fix: 'Remove it, or correct its name.',
    });
  }
  const kind = policyKindSchema.safeParse(value.kind);
  if (!kind.success) {
    problems.push({
      severity: 'error',
      code: 'policy.kind',
      path: 'kind',
      line: 1,
      column: 1,
      endLine: 1,
      endColumn: 5,
      what: 'This is not a policy.',
      why: `Its kind is ${String(value.kind)}.`,
      fix: 'Use CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy or NetworkPolicy.',
    });
    return { problems, selects: [], meaning: [] };
  }
  const namespace =
    kind.data === 'CiliumClusterwideNetworkPolicy' ? '' : String(value.metadata?.namespace ?? 'default');
  const wanted = Object.entries(
    value.spec?.endpointSelector?.matchLabels ?? value.spec?.podSelector?.matchLabels ?? {},
  );
  const selects = inventory.pods
    .filter(
      (pod) =>
        (namespace === '' || pod.namespace === namespace) && wanted.every(([key, label]) => pod.labels[key] === label),
    )
    .map((pod) => `${pod.namespace}/${pod.name}`);
  if (selects.length === 0) {
    problems.push({
      severity: 'warning',
      code: 'policy.selects-nothing',
      path: 'spec.endpointSelector',
      line: 7,
      column: 3,
      endLine: 7,
      endColumn: 19,
      what: 'No pod is selected.',
      why: `In ${namespace || 'the cluster'} no pod has all of these labels.`,
      fix: 'Compare the labels with those in Topology; a selector is exact.',
    });
  }
  const id: PolicyId = { kind: kind.data, namespace, name: String(value.metadata?.name ?? '') };
  const side = value.spec && 'egress' in value.spec ? 'send' : 'receive';
  return {
    id,
    problems,
    selects,
    meaning: [
      `${selects.length === 1 ? 'One pod' : `${selects.length} pods`} with ${wanted.map(([key, label]) => `${key}=${label}`).join(' and ') || 'any labels'} ${namespace ? `in namespace ${namespace}` : 'in the whole cluster'} ${side} only what a rule admits; everything else is dropped.`,
      ...(side === 'receive'
        ? ['Pods with org=empire may reach them on TCP port 80.']
        : ['They may send to DNS in kube-system on UDP port 53.']),
      'Answers to admitted connections always pass.',
    ],
  };
}

/** A small schema with what the demo needs, in the form that policies.schema gives. */
export const fixtureSchema = JSON.stringify({
  type: 'object',
  properties: {
    apiVersion: { type: 'string', description: 'cilium.io/v2', enum: ['cilium.io/v2'] },
    kind: { type: 'string', enum: ['CiliumNetworkPolicy'] },
    metadata: {
      type: 'object',
      properties: { name: { type: 'string' }, namespace: { type: 'string' }, labels: { type: 'object' } },
    },
    spec: {
      type: 'object',
      properties: {
        description: { type: 'string', description: 'What the policy is for.' },
        endpointSelector: {
          type: 'object',
          description: 'The pods it is for.',
          properties: { matchLabels: { type: 'object' }, matchExpressions: { type: 'array' } },
        },
        ingress: {
          type: 'array',
          description: 'What the pods may receive. Present, even empty: everything else is dropped.',
          items: {
            type: 'object',
            properties: {
              fromEndpoints: {
                type: 'array',
                items: { type: 'object', properties: { matchLabels: { type: 'object' } } },
              },
              fromEntities: {
                type: 'array',
                items: { type: 'string', enum: ['world', 'host', 'cluster', 'all', 'remote-node', 'kube-apiserver'] },
              },
              fromCIDR: { type: 'array', items: { type: 'string' } },
              toPorts: {
                type: 'array',
                items: {
                  type: 'object',
                  properties: {
                    ports: {
                      type: 'array',
                      items: {
                        type: 'object',
                        properties: {
                          port: { type: 'string', description: 'Number or name, as text.' },
                          protocol: { type: 'string', enum: ['TCP', 'UDP', 'SCTP', 'ICMP', 'ANY'] },
                          endPort: { type: 'integer' },
                        },
                      },
                    },
                  },
                },
              },
            },
          },
        },
        egress: {
          type: 'array',
          description: 'What the pods may send.',
          items: {
            type: 'object',
            properties: { toEndpoints: { type: 'array' }, toEntities: { type: 'array' }, toPorts: { type: 'array' } },
          },
        },
      },
    },
  },
});
