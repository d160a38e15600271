import { beforeEach, expect, test } from 'vitest';
import type { Client } from '../../contract/client.ts';
import { askAnew, askRights, forgetRights, lookAgain, reasonOf, useRightsStore } from './rights-store.ts';

let allowed = true;
let asked: string[] = [];
let held: Promise<void> | undefined;
interface Question {
  readonly cluster: string;
  readonly namespace: string;
  readonly anew?: boolean;
}
/** As the engine answers: what it remembers of before, unless it is asked anew. */
let remembered: boolean | undefined;
const client = {
  rights: {
    review: async ({ cluster, namespace, anew }: Question) => {
      asked.push(`${cluster} ${namespace}${anew ? ' anew' : ''}`);
      const granted = (anew ? undefined : remembered) ?? allowed;
      remembered = granted;
      await held;
      return answer(granted);
    },
  },
} as unknown as Client;
function answer(granted: boolean) {
  return {
    ok: true,
    value: {
      user: 'ann',
      rights: [{ action: 'clusters.deletePod', allowed: granted, reason: granted ? '' : 'You may not.' }],
    },
  };
}
const reason = (namespace = '') =>
  reasonOf(useRightsStore.getState().denied, 'galaxy', 'clusters.deletePod', namespace);

beforeEach(() => {
  for (const cluster of ['galaxy', 'other']) forgetRights(cluster);
  allowed = true;
  remembered = undefined;
  held = undefined;
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
  expect(asked).toEqual(['galaxy  anew', 'galaxy default anew']);
  expect(reason()).toBe('You may not.');
  expect(reason('default')).toBe('You may not.');
});

test('of a cluster whose rights nobody has looked at nothing is asked', async () => {
  await askAnew(client, 'galaxy');
  expect(asked).toEqual([]);
});

test('a right that has come is there at once for who looks again, or loads the page anew', async () => {
  allowed = false;
  await askRights(client, 'galaxy', '');
  await askRights(client, 'galaxy', 'default');
  // The first question of a page counts for its namespaces as well.
  expect(asked).toEqual(['galaxy  anew', 'galaxy default']);
  expect(reason('default')).toBe('You may not.');
  allowed = true;
  await askRights(client, 'galaxy', '');
  expect(reason()).toBe('You may not.');
  await lookAgain(client, 'galaxy');
  expect(reason()).toBeUndefined();
  expect(reason('default')).toBeUndefined();
});

test('who presses often asks once at a time', async () => {
  await askRights(client, 'galaxy', '');
  asked = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  held = promise;
  const all = [lookAgain(client, 'galaxy'), lookAgain(client, 'galaxy'), lookAgain(client, 'galaxy')];
  expect(asked).toEqual(['galaxy  anew']);
  resolve();
  await Promise.all(all);
  await lookAgain(client, 'galaxy');
  expect(asked).toEqual(['galaxy  anew', 'galaxy  anew']);
});

test('an older answer that comes later does not count', async () => {
  allowed = false;
  const { promise, resolve } = Promise.withResolvers<void>();
  held = promise;
  const slow = askRights(client, 'galaxy', '');
  allowed = true;
  held = undefined;
  await lookAgain(client, 'galaxy');
  resolve();
  await slow;
  expect(reason()).toBeUndefined();
});
