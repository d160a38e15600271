import { beforeEach, expect, test } from 'vitest';
import type { Client } from '../../contract/client.ts';
import { askAnew, askRights, forgetRights, reasonOf, useRightsStore } from './rights-store.ts';

let allowed = true;
let asked: string[] = [];
const client = {
  rights: {
    review: async ({ cluster, namespace }: { readonly cluster: string; readonly namespace: string }) => {
      asked.push(`${cluster} ${namespace}`);
      const rights = [{ action: 'clusters.deletePod', allowed, reason: allowed ? '' : 'You may not.' }];
      return { ok: true, value: { user: 'ann', rights } };
    },
  },
} as unknown as Client;
const reason = (namespace = '') =>
  reasonOf(useRightsStore.getState().denied, 'galaxy', 'clusters.deletePod', namespace);

beforeEach(() => {
  for (const cluster of ['galaxy', 'other']) forgetRights(cluster);
  allowed = true;
  asked = [];
});

test('an answer is kept for a while, and asked for anew when the cluster has refused something', async () => {
  await askRights(client, 'galaxy', '');
  await askRights(client, 'galaxy', 'default');
  await askRights(client, 'other', '');
  allowed = false;
  asked = [];
  await askRights(client, 'galaxy', '');
  expect(asked).toEqual([]);
  expect(reason()).toBeUndefined();
  await askAnew(client, 'galaxy');
  // All that was known of this cluster, and of no other.
  expect(asked).toEqual(['galaxy ', 'galaxy default']);
  expect(reason()).toBe('You may not.');
  expect(reason('default')).toBe('You may not.');
});

test('of a cluster whose rights nobody has looked at nothing is asked', async () => {
  await askAnew(client, 'galaxy');
  expect(asked).toEqual([]);
});
