import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { policyKindSchema } from '../../../contract/policies.ts';
import { templates } from './templates.ts';

interface Policy {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace: string };
  readonly spec: Readonly<Record<string, unknown>>;
}

describe('templates of policies', () => {
  test.each(templates.map((template) => [template.id, template] as const))('%s is a named policy', (_id, template) => {
    const policy = parse(template.yaml('shop')) as Policy;
    expect(policyKindSchema.safeParse(policy.kind).success).toBe(true);
    expect(policy.metadata.name).toMatch(/^[a-z0-9-]+$/);
    expect(policy.metadata.namespace).toBe(template.namespaced ? 'shop' : 'galaxy');
    expect(policy.spec.ingress).toBeDefined();
  });

  test('no two have the same name', () => {
    expect(new Set(templates.map((template) => template.id)).size).toBe(templates.length);
  });

  test('the demo is the lab’s demo policy', () => {
    const demo = templates.find((template) => template.id === 'demo');
    const lab = readFileSync(new URL('../../../lab/manifests/demo-policy.yaml', import.meta.url), 'utf8');
    expect(parse(demo?.yaml('') ?? '')).toEqual(parse(lab));
  });
});
