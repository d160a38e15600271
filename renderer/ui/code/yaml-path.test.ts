import { describe, expect, it } from 'vitest';
import { type Schema, schemasAt, yamlPlace } from './yaml-path.ts';

/** The place of "|" in a text. */
function place(text: string) {
  const offset = text.indexOf('|');
  return yamlPlace(text.replace('|', ''), offset);
}

describe('yamlPlace', () => {
  it.each([
    ['root', 'ki|', [], 'ki'],
    ['key of a mapping', 'spec:\n  ing|', ['spec'], 'ing'],
    ['first key of an item', 'spec:\n  ingress:\n    - from|', ['spec', 'ingress'], 'from'],
    ['second key of an item', 'spec:\n  ingress:\n    - fromEndpoints: []\n      toP|', ['spec', 'ingress'], 'toP'],
    ['item with its dash at the indent of the key', 'spec:\n  ingress:\n  - from|', ['spec', 'ingress'], 'from'],
    ['second key there', 'spec:\n  ingress:\n  - fromEndpoints: []\n    toP|', ['spec', 'ingress'], 'toP'],
    [
      'deep',
      'spec:\n  ingress:\n    - toPorts:\n        - ports:\n            - port: "80"\n              pro|',
      ['spec', 'ingress', 'toPorts', 'ports'],
      'pro',
    ],
    ['after a deeper part', 'metadata:\n  labels:\n    a: b\nspec:\n  e|', ['spec'], 'e'],
  ])('%s', (_name, text, path, typed) => {
    expect(place(text)).toMatchObject({ path, typed, value: false });
  });

  it('knows that a value belongs after a colon', () => {
    expect(place('spec:\n  ports:\n    - protocol: T|')).toMatchObject({
      path: ['spec', 'ports', 'protocol'],
      value: true,
      typed: 'T',
    });
  });

  it('lists the keys that are there already, above and below', () => {
    expect(place('spec:\n  ingress: []\n  |\n  egress: []\nkind: x').siblings.toSorted()).toEqual([
      'egress',
      'ingress',
    ]);
  });
});

describe('schemasAt', () => {
  const schema: Schema = {
    properties: { spec: { $ref: '#/$defs/Rule' } },
    $defs: {
      Rule: {
        properties: {
          ingress: {
            items: { anyOf: [{ properties: { toPorts: { description: 'ports' } } }, { properties: { icmps: {} } }] },
          },
        },
      },
    },
  };
  it('follows references, alternatives and lists', () => {
    const keys = schemasAt(schema, ['spec', 'ingress']).flatMap((one) => Object.keys(one.properties ?? {}));
    expect(keys).toEqual(['toPorts', 'icmps']);
    expect(schemasAt(schema, ['spec', 'ingress', 'toPorts'])[0]?.description).toBe('ports');
    expect(schemasAt(schema, ['nowhere'])).toEqual([]);
  });
});
