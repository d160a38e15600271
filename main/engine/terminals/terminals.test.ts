import { PassThrough } from 'node:stream';
import { beforeEach, expect, test } from 'vitest';
import { failed, ok } from '../../../contract/failure.ts';
import type { TerminalEvent } from '../../../contract/index.ts';
import { resources } from '../kube/cluster-connection.ts';
import { silent } from '../log.ts';
import { FakeCluster, fakeAudit, fakeConnections, fakeSsh } from '../testing/fake-cluster.ts';
import { createTerminals } from './index.ts';
import type { Owner } from './owner.ts';

let cluster: FakeCluster;
let stdin: PassThrough;
let stdout: PassThrough;
let sizes: string[];
let finish: (code: number) => void;
let closed: number;
let command: readonly string[];

beforeEach(() => {
  cluster = new FakeCluster();
  cluster.put(resources.pods, { metadata: { name: 'web', namespace: 'a' }, spec: { containers: [{ name: 'main' }] } });
  stdin = new PassThrough();
  stdout = new PassThrough();
  sizes = [];
  closed = 0;
  const stderr = new PassThrough();
  stderr.end();
  cluster.exec = async (target) => {
    command = [target.container, ...target.command];
    let settle: (result: ReturnType<typeof ok<number>>) => void = () => undefined;
    const exit = new Promise<ReturnType<typeof ok<number>>>((resolve) => {
      settle = resolve;
    });
    finish = (code) => {
      stdout.end();
      settle(ok(code));
    };
    return ok({
      stdin,
      stdout,
      stderr,
      exit,
      resize: (columns, rows) => void sizes.push(`${columns}x${rows}`),
      close: () => {
        closed += 1;
        stdout.end();
        settle(ok(137));
      },
    });
  };
});

const target = { kind: 'pod', cluster: 'fake', namespace: 'a', pod: 'web', container: '', command: [] } as const;

const owner: Owner = { name: 'me.1', isGone: (name) => name === 'me.0' };

function make(options: Parameters<typeof fakeConnections>[1] = {}, audit = fakeAudit()) {
  return createTerminals({ connections: fakeConnections(cluster, options), audit, log: silent, owner });
}

function open(
  terminals: ReturnType<typeof createTerminals>,
  options: { connection?: string; wait?: () => Promise<void> } = {},
) {
  const stop = new AbortController();
  const events: TerminalEvent[] = [];
  let wake: () => void = () => undefined;
  const ended = terminals.open(
    { session: 's', target, columns: 80, rows: 24 },
    {
      async push(items) {
        await options.wait?.();
        events.push(...(items as TerminalEvent[]));
        wake();
      },
    },
    { signal: stop.signal, connection: options.connection ?? 'window' },
  );
  const until = async (count: number) => {
    while (events.length < count)
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
  };
  return { stop, events, ended, until };
}

const window = { signal: new AbortController().signal, connection: 'window' };

test('a shell in the first container: output, input, size, end', async () => {
  using terminals = make();
  const { events, ended, until } = open(terminals);
  await until(1);
  expect(command).toEqual(['main', 'sh']);
  expect(events[0]).toEqual({ kind: 'opened', title: 'a/web · main' });
  stdout.write('hello');
  await until(2);
  expect(events[1]).toMatchObject({ kind: 'data' });
  expect(await terminals.input({ session: 's', data: 'ls\r' }, window)).toMatchObject({ ok: true });
  expect(stdin.read()?.toString()).toBe('ls\r');
  await terminals.resize({ session: 's', columns: 100, rows: 30 }, window);
  expect(sizes.at(-1)).toBe('100x30');
  finish(3);
  expect(await ended).toBeUndefined();
  expect(events.at(-1)).toEqual({ kind: 'exited', code: 3, reason: 'ended with 3', lost: false });
  expect(await terminals.input({ session: 's', data: 'x' }, window)).toMatchObject({
    ok: false,
    failure: { code: 'terminal.unknown' },
  });
});

test('a protected cluster gives no shells', async () => {
  using terminals = make({ protected: true });
  const { ended, events } = open(terminals);
  expect(await ended).toMatchObject({ code: 'cluster.protected' });
  expect(events).toEqual([]);
});

test('a terminal belongs to its window', async () => {
  using terminals = make();
  const { stop, ended, until } = open(terminals);
  await until(1);
  const other = { ...window, connection: 'other' };
  expect(await terminals.input({ session: 's', data: 'x' }, other)).toMatchObject({ ok: false });
  stop.abort();
  await ended;
  expect(closed).toBeGreaterThan(0);
});

test('output waits for a slow view', async () => {
  using terminals = make();
  let release: () => void = () => undefined;
  let blocked = false;
  const { ended, events, until } = open(terminals, {
    wait: () =>
      blocked
        ? new Promise<void>((resolve) => {
            release = resolve;
          })
        : Promise.resolve(),
  });
  await until(1);
  blocked = true;
  let written = 0;
  while (stdout.write(Buffer.alloc(16 << 10)) && written < 100) written += 1;
  expect(written).toBeLessThan(100);
  blocked = false;
  release();
  finish(0);
  await ended;
  const bytes = events.reduce((sum, event) => sum + (event.kind === 'data' ? event.data.length : 0), 0);
  expect(bytes).toBe((written + 1) * (16 << 10));
});

test('an image without a shell is told in plain words', async () => {
  cluster.exec = async () =>
    failed({
      code: 'kube.exec',
      what: 'It failed.',
      why: 'exec: "sh": executable file not found in $PATH: unknown',
      fix: '',
    });
  using terminals = make();
  expect(await open(terminals).ended).toMatchObject({ code: 'terminal.no-shell', what: 'a/web has no “sh”.' });
});

test('a node without a way by SSH is told what to add', async () => {
  cluster.put(resources.nodes, {
    metadata: { name: 'node1' },
    status: { addresses: [{ type: 'InternalIP', address: '10.0.0.9' }] },
  });
  using terminals = make({ ssh: fakeSsh([]) });
  const ended = await terminals.open(
    { session: 'n', target: { kind: 'node', cluster: 'fake', node: 'node1' }, columns: 80, rows: 24 },
    { push: async () => undefined },
    window,
  );
  expect(ended).toMatchObject({ code: 'terminal.no-ssh' });
  expect(ended?.why).toContain('10.0.0.9');
});
