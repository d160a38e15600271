import { MessageChannel } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import type { ClientOf } from '../client.ts';
import type { Failure } from '../failure.ts';
import { createClient, createTransport } from './client.ts';
import { connect } from './connection.ts';
import { limits, sizeOf, type Wire } from './frames.ts';
import { type PortLike, portWire } from './message-port.ts';
import { serve } from './server.ts';
import { type Observed, testContract, testImplementation } from './testing.ts';

const opened: { close: () => void }[] = [];
afterEach(() => {
  for (const port of opened.splice(0)) port.close();
});

function wires(): { readonly client: Wire; readonly server: Wire } {
  const { port1, port2 } = new MessageChannel();
  opened.push(port1, port2);
  // Types differ (DOM EventTarget), behaviour does not.
  return { client: portWire(port1 as unknown as PortLike), server: portWire(port2 as unknown as PortLike) };
}

function start(window = { items: 64, bytes: 64 << 10 }) {
  const observed: Observed = { produced: 0, cancelled: 0, finished: 0 };
  const { client, server } = wires();
  const logged: string[] = [];
  serve(testContract, testImplementation(observed), server, {
    connection: 'test',
    log: ({ message }) => logged.push(message),
  });
  return {
    client: createClient(testContract, createTransport(client, { window })),
    wire: client,
    server,
    observed,
    logged,
  };
}

function until(condition: () => boolean): Promise<void> {
  return new Promise((resolve) => {
    const look = () => (condition() ? resolve() : setTimeout(look, 1));
    look();
  });
}

/** Reads a whole stream. */
function collect<T>(
  open: (handlers: { batch: (items: readonly T[]) => void; end: (failure?: Failure) => void }) => unknown,
) {
  return new Promise<{ items: readonly T[]; batches: number; failure: Failure | undefined }>((resolve) => {
    const items: T[] = [];
    let batches = 0;
    open({
      batch: (batch) => {
        batches += 1;
        items.push(...batch);
      },
      end: (failure) => resolve({ items, batches, failure }),
    });
  });
}

describe('procedures', () => {
  it('answers', async () => {
    const { client } = start();
    expect(await client.math.double({ value: 21 })).toEqual({ ok: true, value: { value: 42 } });
  });
  it('passes expected failures on', async () => {
    const { client } = start();
    expect(await client.math.refuses({})).toMatchObject({ ok: false, failure: { code: 'x.no', fix: 'Ask nicely.' } });
  });
  it('turns a thrown error into a failure without its stack, and logs the stack', async () => {
    const { client, logged } = start();
    const result = await client.math.throws({});
    expect(result).toMatchObject({ ok: false, failure: { code: 'internal', why: 'a bug' } });
    expect(JSON.stringify(result)).not.toContain('.ts:');
    expect(logged.join()).toContain('testing.ts');
  });
  it('refuses bad input at the server and bad output at the client', async () => {
    const { client } = start();
    expect(await client.math.double({ value: 'x' as unknown as number })).toMatchObject({
      ok: false,
      failure: { code: 'rpc.bad-input' },
    });
    expect(await client.math.wrong({})).toMatchObject({ ok: false, failure: { code: 'rpc.bad-output' } });
  });
  it.each([
    'math.nothing',
    'nothing.double',
    'math.constructor',
    '__proto__.toString',
    'double',
    '',
    '.',
    'math.count',
  ])('refuses the unknown method %j', async (method) => {
    const { wire } = start();
    const answer = new Promise<unknown>((resolve) => wire.onMessage(resolve));
    wire.send({ t: 'call', id: 99, method, input: {} });
    expect(await answer).toMatchObject({ t: 'failure', id: 99, failure: { code: 'rpc.unknown-method' } });
  });
  it('refuses an oversized input', async () => {
    const { client } = start();
    const result = await client.math.length({ text: 'x'.repeat(limits.inputBytes + 1) });
    expect(result).toMatchObject({ ok: false, failure: { code: 'rpc.too-large' } });
    expect(await client.math.length({ text: 'x'.repeat(limits.inputBytes - 1000) })).toMatchObject({ ok: true });
  });
  it('tells the handler of a cancel', async () => {
    const { client, observed } = start();
    const abort = new AbortController();
    const result = client.math.waits({}, { signal: abort.signal });
    abort.abort();
    expect(await result).toMatchObject({ ok: false, failure: { code: 'cancelled' } });
    await until(() => observed.cancelled === 1);
  });
  it('closes a wire that does not speak the protocol', async () => {
    const { wire, logged } = start();
    const closed = new Promise((resolve) => wire.onClose(resolve));
    wire.send({ t: 'credit', id: -1 });
    await closed;
    expect(logged.join()).toContain('not of the protocol');
  });
});

describe('streams', () => {
  it('delivers everything in order, in batches, then ends', async () => {
    const { client } = start({ items: 4096, bytes: 1 << 20 });
    const { items, batches, failure } = await collect<number>((handlers) =>
      client.math.count({ to: 10_000, perPush: 1 }, handlers),
    );
    expect(failure).toBeUndefined();
    expect(items).toEqual(Array.from({ length: 10_000 }, (_, i) => i));
    expect(batches).toBeLessThan(500);
  });
  it('keeps byte arrays', async () => {
    const { client } = start();
    const { items } = await collect<{ bytes: Uint8Array }>((handlers) =>
      client.math.echo({ bytes: new Uint8Array([0, 255, 7]) }, handlers),
    );
    expect([...(items[0]?.bytes ?? [])]).toEqual([0, 255, 7]);
  });
  it('delivers items before the failure that ends it', async () => {
    const { client } = start();
    const { items, failure } = await collect<number>((handlers) => client.math.fails({}, handlers));
    expect(items).toEqual([1, 2]);
    expect(failure?.code).toBe('x.broke');
  });
  it('ends with a failure when an item is not what the contract says', async () => {
    const { client } = start();
    const { failure } = await collect<number>((handlers) => client.math.bad({}, handlers));
    expect(failure?.code).toBe('rpc.bad-output');
  });
  it.each([1, 10, 100])(
    'holds the producer to the window while the consumer is slow (%i per push)',
    async (perPush) => {
      const { client, observed } = start({ items: 64, bytes: 1 << 20 });
      let consumed = 0;
      let release: () => void = () => {};
      const cancel = client.math.count(
        { to: 1_000_000, perPush },
        {
          batch: (items) =>
            new Promise<void>((resolve) => {
              consumed += items.length;
              release = resolve;
            }),
          end: () => {},
        },
      );
      for (let round = 0; round < 20; round++) {
        const before = consumed;
        await until(() => consumed > before);
        // Under way: the window; queued: at most what one more grant covers, and one push.
        expect(observed.produced).toBeLessThanOrEqual(consumed + 2 * 64 + 2 * perPush);
        release();
      }
      cancel();
      await until(() => observed.finished === 1);
      expect(observed.produced).toBeLessThan(10_000);
    },
  );
  it('bounds bytes as well as items, and lets an item larger than the window pass', async () => {
    const { client, observed } = start({ items: 1000, bytes: 100_000 });
    let release: (() => void) | undefined;
    let consumed = 0;
    const cancel = client.math.blocks(
      { count: 1000, bytes: 60_000 },
      {
        batch: (items) =>
          new Promise<void>((resolve) => {
            consumed += items.length;
            release = resolve;
          }),
        end: () => {},
      },
    );
    await until(() => consumed > 0);
    expect(observed.produced).toBeLessThanOrEqual(6);
    release?.();
    cancel();
    const { items } = await collect<string>((handlers) => client.math.blocks({ count: 3, bytes: 500_000 }, handlers));
    expect(items.map((item) => item.length)).toEqual([500_000, 500_000, 500_000]);
  });
  it('runs the producer’s finally on cancel', async () => {
    const { client, observed } = start();
    const cancel = client.math.count(
      { to: Number.MAX_SAFE_INTEGER, perPush: 10 },
      { batch: () => {}, end: () => expect.unreachable() },
    );
    await until(() => observed.produced > 100);
    cancel();
    cancel();
    await until(() => observed.finished === 1);
  });
  it('stops producers and ends streams when the wire closes', async () => {
    const { client, observed, server } = start();
    const ended = collect<number>((handlers) =>
      client.math.count({ to: Number.MAX_SAFE_INTEGER, perPush: 10 }, handlers),
    );
    const call = client.math.waits({});
    await until(() => observed.produced > 100);
    server.close();
    expect((await ended).failure?.code).toBe('connection.lost');
    expect(await call).toMatchObject({ ok: false, failure: { code: 'connection.lost' } });
    await until(() => observed.finished === 1 && observed.cancelled === 1);
  });
  it('cancels and ends when the consumer throws', async () => {
    const { client, observed } = start();
    const failure = await new Promise<Failure | undefined>((resolve) => {
      client.math.count(
        { to: 1e9, perPush: 10 },
        {
          batch: () => {
            throw new Error('cannot draw');
          },
          end: resolve,
        },
      );
    });
    expect(failure).toMatchObject({ code: 'rpc.consumer-failed', why: 'cannot draw' });
    await until(() => observed.finished === 1);
  });
});

describe('a connection that outlives its wires', () => {
  it('waits for the first wire, ends streams on loss, reconnects, and says so', async () => {
    const observed: Observed = { produced: 0, cancelled: 0, finished: 0 };
    const servers: Wire[] = [];
    let refuse = 0;
    const connection = connect(testContract, {
      backoff: [1, 2],
      dial: async () => {
        if (refuse-- > 0) throw new Error('nobody there');
        const { client, server } = wires();
        serve(testContract, testImplementation(observed), server, { connection: `c${servers.length}` });
        servers.push(server);
        return client;
      },
    });
    const states: string[] = [];
    connection.onState((state) => states.push(state));
    const client: ClientOf<typeof testContract> = connection.client;
    expect(await client.math.double({ value: 1 })).toMatchObject({ ok: true });
    const ended = collect<number>((handlers) => client.math.count({ to: 1e9, perPush: 10 }, handlers));
    await until(() => observed.produced > 0);
    refuse = 3;
    servers[0]?.close();
    expect((await ended).failure?.code).toBe('connection.lost');
    expect(await client.math.double({ value: 1 })).toMatchObject({ ok: false, failure: { code: 'connection.lost' } });
    await until(() => connection.state() === 'open');
    expect(await client.math.double({ value: 2 })).toMatchObject({ ok: true, value: { value: 4 } });
    connection.close();
    expect(states).toEqual(['open', 'lost', 'open', 'lost']);
    expect(servers).toHaveLength(2);
  });
});

describe('sizeOf', () => {
  it('counts what is large and stops early', () => {
    expect(sizeOf('x'.repeat(1000))).toBe(1002);
    expect(sizeOf(new Uint8Array(1000))).toBe(1004);
    expect(sizeOf({ a: ['x'.repeat(100), 1] })).toBeGreaterThan(100);
    const endless: unknown[] = [];
    endless.push(endless);
    expect(sizeOf(endless, 1000)).toBeGreaterThanOrEqual(1000);
  });
});
