import type { IncomingMessage } from 'node:http';
import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import type { KubeObject } from './cluster-connection.ts';
import { failureOf, StatusError } from './failures.ts';
import { Collection } from './live-collection.ts';

const object = (name: string, resourceVersion: string, extra: object = {}): KubeObject => ({
  metadata: { name, namespace: 'n', resourceVersion, ...extra },
});

/** A server whose every answer the test gives by hand. */
function scripted() {
  const lists: ((answer: { items: readonly KubeObject[]; resourceVersion: string } | Error) => void)[] = [];
  const watches: { readonly from: string; readonly body: PassThrough }[] = [];
  let arrived: () => void = () => {};
  const abort = new AbortController();
  const collection = new Collection(
    {
      list: () =>
        new Promise((resolve, reject) => {
          lists.push((answer) => (answer instanceof Error ? reject(answer) : resolve(answer)));
          arrived();
        }),
      watch: async (from, signal) => {
        const body = new PassThrough();
        signal.addEventListener('abort', () => body.destroy(new Error('aborted')));
        watches.push({ from, body });
        arrived();
        return body as unknown as IncomingMessage;
      },
      failure: (error) => failureOf(error, { context: 'test', server: 'https://x' }),
      log: () => {},
    },
    abort.signal,
    { backoff: [1, 5], missing: 5, silence: 200 },
  );
  const until = (condition: () => boolean) =>
    new Promise<void>((resolve) => {
      const look = () => {
        if (condition()) resolve();
      };
      arrived = look;
      collection.onChange(look);
      look();
    });
  const send = (event: object) => watches.at(-1)?.body.write(`${JSON.stringify(event)}\n`);
  return { collection, lists, watches, until, send, abort };
}

describe('a live collection', () => {
  it('lists, watches from there, and takes up an ended watch where it was', async () => {
    const { collection, lists, watches, until, send, abort } = scripted();
    lists[0]?.({ items: [object('a', '1')], resourceVersion: '5' });
    await until(() => watches.length === 1);
    expect(watches[0]?.from).toBe('5');
    send({ type: 'ADDED', object: object('b', '6', { managedFields: [{}] }) });
    await until(() => collection.items().size === 2);
    expect(JSON.stringify([...collection.items().values()])).not.toContain('managedFields');
    send({ type: 'BOOKMARK', object: { metadata: { resourceVersion: '9' } } });
    watches[0]?.body.end();
    await until(() => watches.length === 2);
    expect(watches[1]?.from).toBe('9');
    expect(lists).toHaveLength(1);
    abort.abort();
  });

  it('lists again when its version has expired, and keeps the identity of what did not change', async () => {
    const { collection, lists, watches, until, send, abort } = scripted();
    lists[0]?.({ items: [object('a', '1'), object('b', '2')], resourceVersion: '5' });
    await until(() => watches.length === 1);
    const before = collection.items().get('n/a');
    send({ type: 'ERROR', object: { kind: 'Status', code: 410, message: 'too old resource version', metadata: {} } });
    await until(() => lists.length === 2);
    expect(collection.synced()).toBe(true);
    lists[1]?.({ items: [object('a', '1'), object('c', '7')], resourceVersion: '8' });
    await until(() => collection.items().has('n/c'));
    expect(collection.items().get('n/a')).toBe(before);
    expect(collection.items().has('n/b')).toBe(false);
    await until(() => watches.at(-1)?.from === '8');
    abort.abort();
  });

  it('gives the same picture until something changes', async () => {
    const { collection, lists, watches, until, send, abort } = scripted();
    lists[0]?.({ items: [object('a', '1')], resourceVersion: '5' });
    await until(() => watches.length === 1);
    const picture = collection.items();
    expect(collection.items()).toBe(picture);
    send({ type: 'DELETED', object: object('a', '6') });
    await until(() => collection.items() !== picture);
    expect(collection.items().size).toBe(0);
    abort.abort();
  });

  it('says why it cannot be read, tries again, and forgets the failure', async () => {
    const { collection, lists, until, abort } = scripted();
    lists[0]?.(new StatusError(403, 'Forbidden', 'no'));
    expect(await collection.ready()).toMatchObject({ ok: false, failure: { code: 'kube.forbidden' } });
    await until(() => lists.length === 2);
    lists[1]?.({ items: [], resourceVersion: '1' });
    await until(() => collection.synced());
    expect(collection.failure()).toBeUndefined();
    expect(await collection.ready()).toEqual({ ok: true, value: undefined });
    abort.abort();
  });

  it('opens a watch anew that has gone silent', async () => {
    const { lists, watches, until, collection, abort } = scripted();
    lists[0]?.({ items: [], resourceVersion: '3' });
    await until(() => watches.length === 2);
    expect(watches[1]?.from).toBe('3');
    expect(collection.failure()).toBeUndefined();
    abort.abort();
  });

  it('ends whoever waits when it is closed', async () => {
    const { collection, abort } = scripted();
    const ready = collection.ready();
    abort.abort();
    expect(await ready).toMatchObject({ ok: false, failure: { code: 'cancelled' } });
  });
});
