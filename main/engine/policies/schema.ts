import type { PolicyKind } from '../../../contract/policies.ts';
import { customResourceDefinitions } from '../install/definitions.ts';
import { apiVersionOf } from './kinds.ts';

type Schema = Readonly<Record<string, unknown>>;

const cache = new Map<PolicyKind, string>();

/** JSON Schema of a kind as text, for completion and hover in an editor. */
export function policySchema(kind: PolicyKind): string {
  const known = cache.get(kind);
  if (known !== undefined) return known;
  const schema = JSON.stringify(kind === 'NetworkPolicy' ? networkPolicySchema : fromDefinition(kind));
  cache.set(kind, schema);
  return schema;
}

const metadata: Schema = {
  type: 'object',
  description: 'Name, namespace, labels and annotations.',
  required: ['name'],
  properties: {
    name: { type: 'string', description: 'Name of the policy.' },
    namespace: { type: 'string', description: 'Namespace of the policy and of the pods that it governs.' },
    labels: { type: 'object', additionalProperties: { type: 'string' } },
    annotations: { type: 'object', additionalProperties: { type: 'string' } },
  },
};

function fromDefinition(kind: PolicyKind): Schema {
  const definition = customResourceDefinitions().find(
    (object) =>
      (object as unknown as { readonly spec: { readonly names: { readonly kind: string } } }).spec.names.kind === kind,
  ) as
    | { readonly spec: { readonly versions: readonly { readonly schema: { readonly openAPIV3Schema: Schema } }[] } }
    | undefined;
  const schema = definition?.spec.versions[0]?.schema.openAPIV3Schema ?? { type: 'object' };
  const { status: _status, ...properties } = (schema.properties ?? {}) as Readonly<Record<string, Schema>>;
  return {
    $schema: 'http://json-schema.org/draft-07/schema#',
    ...schema,
    required: ['apiVersion', 'kind', 'metadata'],
    properties: { ...properties, ...head(kind) },
  };
}

function head(kind: PolicyKind): Readonly<Record<string, Schema>> {
  return {
    apiVersion: { type: 'string', enum: [apiVersionOf(kind)] },
    kind: { type: 'string', enum: [kind] },
    metadata,
  };
}

const labelSelector: Schema = {
  type: 'object',
  description: 'Pods or namespaces by their labels; {} is all of them.',
  additionalProperties: false,
  properties: {
    matchLabels: { type: 'object', description: 'All of these labels.', additionalProperties: { type: 'string' } },
    matchExpressions: {
      type: 'array',
      items: {
        type: 'object',
        additionalProperties: false,
        required: ['key', 'operator'],
        properties: {
          key: { type: 'string' },
          operator: { type: 'string', enum: ['In', 'NotIn', 'Exists', 'DoesNotExist'] },
          values: { type: 'array', items: { type: 'string' } },
        },
      },
    },
  },
};

const peers: Schema = {
  type: 'array',
  description: 'Any of these; left out or empty: everybody.',
  items: {
    type: 'object',
    additionalProperties: false,
    properties: {
      podSelector: labelSelector,
      namespaceSelector: labelSelector,
      ipBlock: {
        type: 'object',
        description: 'Addresses outside of the cluster.',
        additionalProperties: false,
        required: ['cidr'],
        properties: {
          cidr: { type: 'string', description: 'e.g. 192.0.2.0/24' },
          except: { type: 'array', items: { type: 'string' }, description: 'Parts of cidr that are not meant.' },
        },
      },
    },
  },
};

const ports: Schema = {
  type: 'array',
  description: 'Any of these; left out or empty: every port.',
  items: {
    type: 'object',
    additionalProperties: false,
    properties: {
      protocol: { type: 'string', enum: ['TCP', 'UDP', 'SCTP'], description: 'TCP unless said.' },
      port: { anyOf: [{ type: 'integer', minimum: 1, maximum: 65_535 }, { type: 'string' }] },
      endPort: {
        type: 'integer',
        minimum: 1,
        maximum: 65_535,
        description: 'Last port of a range that begins at port.',
      },
    },
  },
};

function rule(side: 'from' | 'to', description: string): Schema {
  return {
    type: 'array',
    description,
    items: { type: 'object', additionalProperties: false, properties: { [side]: peers, ports } },
  };
}

const networkPolicySchema: Schema = {
  $schema: 'http://json-schema.org/draft-07/schema#',
  type: 'object',
  description: 'Kubernetes’ own network policy: what may come into and go out of the selected pods.',
  required: ['apiVersion', 'kind', 'metadata', 'spec'],
  properties: {
    ...head('NetworkPolicy'),
    spec: {
      type: 'object',
      additionalProperties: false,
      required: ['podSelector'],
      properties: {
        podSelector: labelSelector,
        policyTypes: {
          type: 'array',
          description:
            'Directions that are denied unless allowed here. Unless said: Ingress, and Egress where egress is there.',
          items: { type: 'string', enum: ['Ingress', 'Egress'] },
        },
        ingress: rule('from', 'What may come in; none: nothing may.'),
        egress: rule('to', 'What may go out; none: nothing may.'),
      },
    },
  },
};
