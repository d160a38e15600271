import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ok } from '../../../contract/failure.ts';
import type { CallContext, Implementation, Sink } from '../../../contract/implementation.ts';
import type { Flow, FlowItem, Inventory, Topology } from '../../../contract/index.ts';
import { silent } from '../log.ts';
import { type Case, CaseWriter, describeCase, readCase } from './case-file.ts';
import { createRecordings } from './index.ts';
import { Replay } from './replay.ts';

const startedAt = 1_790_000_000_000;
const side = {
  label: 'a/x',
  namespace: 'a',
  pod: 'x',
  workload: '',
  service: '',
  entity: '',
  address: '10.0.0.1',
  port: 80,
  identity: 1,
  labels: [],
  mac: '',
  names: [],
};

function flow(time: number, more: Partial<Flow> = {}): Flow {
  return {
    sequence: 1,
    uuid: `u${time}`,
    time,
    node: 'n',
    verdict: 'FORWARDED',
    dropReason: '',
    dropText: '',
    dropHelp: '',
    direction: 'INGRESS',
    reply: false,
    source: side,
    destination: side,
    protocol: 'TCP',
    tcpFlags: [],
    event: 'trace',
    observationPoint: '',
    policyMatch: '',
    allowedBy: [],
    deniedBy: [],
    interface: '',
    summary: '',
    socketCookie: '',
    ...more,
  };
}

const inventory: Inventory = {
  at: startedAt,
  nodes: [],
  namespaces: [{ name: 'a', labels: {} }],
  pods: [],
  services: [],
};
const picture: Topology = {
  at: startedAt,
  scope: 'pod',
  lost: 0,
  missing: [],
  edges: [],
  nodes: ['a', 'b'].map((namespace) => ({
    id: `pod:${namespace}/x`,
    kind: 'pod' as const,
    label: 'x',
    namespace,
    pods: 1,
    hosts: [],
    identities: [],
    labels: [],
    addresses: [],
    ready: true,
    isolatedIngress: false,
    isolatedEgress: false,
  })),
};

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'fairlead-recordings-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const context = (signal: AbortSignal): CallContext => ({ signal, connection: 'test' });

/** A sink that keeps what it gets, and can be waited on. */
function keeping<T>(): Sink<T> & { readonly items: T[]; readonly until: (count: number) => Promise<void> } {
  const items: T[] = [];
  let wake: () => void = () => undefined;
  return {
    items,
    async push(pushed) {
      items.push(...pushed);
      wake();
    },
    async until(count) {
      while (items.length < count)
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
    },
  };
}

function writeCase(name: string): void {
  using writer = new CaseWriter(join(directory, `${name}.fairlead`), {
    title: 'A case',
    startedAt,
    serverVersion: 'v1',
  });
  writer.add({ stream: 'inventory', at: 0, body: inventory });
  writer.add({ stream: 'topology:pod', at: 10, body: picture });
  writer.add({ stream: 'flows', at: 20, body: [flow(startedAt - 5000), flow(startedAt + 20, { verdict: 'DROPPED' })] });
  writer.add({ stream: 'policies', at: 30, body: { policies: [] } });
  writer.add({
    stream: 'policy',
    at: 30,
    body: {
      id: { kind: 'NetworkPolicy', namespace: 'a', name: 'p' },
      text: 'kind: NetworkPolicy\n',
      resourceVersion: '1',
    },
  });
}

describe('case files', () => {
  test('give back what was put in, in order of time', () => {
    writeCase('one');
    const path = join(directory, 'one.fairlead');
    expect(describeCase(path, 'one')).toEqual({
      ok: true,
      value: { title: 'A case', startedAt, length: 30, serverVersion: 'v1' },
    });
    const read = readCase(path, 'one');
    expect(read.ok && read.value.items.map((item) => [item.stream, item.at])).toEqual([
      ['inventory', 0],
      ['topology:pod', 10],
      ['flows', 20],
      ['policies', 30],
      ['policy', 30],
    ]);
    expect(read.ok && read.value.items[0]?.body).toEqual(inventory);
  });

  test.each([
    ['nothing there', undefined],
    ['not a database', 'hello'],
    ['empty', ''],
  ])('%s is a failure', (_name, content) => {
    const path = join(directory, 'bad.fairlead');
    if (content !== undefined) writeFileSync(path, content);
    expect(readCase(path, 'bad')).toMatchObject({ ok: false, failure: { code: 'recording.unreadable' } });
  });

  test('of a newer console are refused by their version', () => {
    writeCase('new');
    const path = join(directory, 'new.fairlead');
    const { DatabaseSync } = process.getBuiltinModule('node:sqlite');
    const database = new DatabaseSync(path);
    database.exec("UPDATE meta SET value = '99' WHERE key = 'version'");
    database.close();
    const read = readCase(path, 'new');
    expect(read).toMatchObject({ ok: false });
    if (!read.ok) expect(read.failure.why).toContain('newer console');
  });
});

describe('replay', () => {
  const recorded: Case = {
    title: 't',
    startedAt,
    length: 60,
    serverVersion: '',
    items: [
      { stream: 'inventory', at: 0, body: inventory },
      { stream: 'flows', at: 20, body: [flow(startedAt + 20)] },
      { stream: 'flows', at: 40, body: [flow(startedAt + 40, { verdict: 'DROPPED' })] },
    ],
  };

  test('moves times to now, round after round', () => {
    const replay = new Replay(recorded, 2_000_000_000_000);
    expect(replay.moment(2_000_000_000_010)).toMatchObject({ round: 0, at: 10, shift: 2_000_000_000_000 - startedAt });
    const later = replay.moment(2_000_000_005_010);
    expect(later).toMatchObject({ round: 1, at: 10, shift: 2_000_000_005_000 - startedAt });
  });

  test('flows come when they are due, filtered, numbered, and never in the future', async () => {
    const replay = new Replay(recorded);
    const stop = new AbortController();
    const sink = keeping<FlowItem>();
    const running = replay.flows(
      { allow: [{ verdict: ['DROPPED'] }], deny: [], last: 10, follow: true },
      sink,
      stop.signal,
    );
    await sink.until(1);
    stop.abort();
    await running;
    expect(sink.items).toHaveLength(1);
    const [item] = sink.items;
    if (item?.kind !== 'flow') throw new Error('no flow');
    expect(item.flow).toMatchObject({ verdict: 'DROPPED', sequence: 1 });
    expect(item.flow.time).toBeLessThanOrEqual(Date.now() + 1);
    expect(item.flow.time).toBeGreaterThan(Date.now() - 5000);
  });

  test('without follow it ends with the past', async () => {
    const replay = new Replay(recorded, Date.now() - 1000);
    const sink = keeping<FlowItem>();
    await replay.flows({ allow: [], deny: [], last: 1, follow: false }, sink, new AbortController().signal);
    expect(sink.items.map((item) => item.kind === 'flow' && item.flow.verdict)).toEqual(['DROPPED']);
  });
});

/** Streams that give one item and then wait for their end. */
function liveImplementation(): Implementation {
  const once =
    (item: unknown) =>
    async (_input: unknown, sink: { push: (items: never[]) => Promise<void> }, { signal }: CallContext) => {
      await sink.push([item as never]);
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
      return undefined;
    };
  return {
    application: {},
    clusters: { watch: once({ clusters: [], problems: [] }), inventory: once(inventory) },
    flows: { watch: once({ kind: 'flow', flow: flow(Date.now()) }) },
    install: {},
    policies: {
      watch: once({ policies: [{ id: { kind: 'NetworkPolicy', namespace: 'a', name: 'p' } }] }),
      read: async () => ok({ text: 'the text', resourceVersion: '1' }),
    },
    terminals: {},
    topology: { watch: once(picture) },
  } as unknown as Implementation;
}

describe('in the engine', () => {
  const cluster = 'recording:one';

  test('an opened recording is a cluster, labelled as what it is, that can only be looked at', async () => {
    writeCase('one');
    using recordings = createRecordings({ directories: [directory], log: silent });
    expect(recordings.list()).toEqual([{ name: 'one', title: 'A case' }]);
    const engine = recordings.wrap(liveImplementation());
    const stop = new AbortController();
    const own = context(stop.signal);
    const list = keeping<{ readonly clusters: readonly { readonly id: string }[] }>();
    const watching = engine.clusters.watch({}, list, own);
    expect(await engine.application.openRecording({ name: 'one' }, own)).toEqual({ ok: true, value: { cluster } });
    while (!list.items.at(-1)?.clusters.length) await list.until(list.items.length + 1);
    expect(list.items.at(-1)?.clusters).toMatchObject([
      { id: cluster, name: 'A case', source: 'recording', protected: true, route: ['recording'] },
    ]);

    const shown = keeping<Inventory>();
    const streaming = engine.clusters.inventory({ cluster }, shown as never, own);
    await shown.until(1);
    expect(shown.items[0]?.namespaces).toEqual(inventory.namespaces);
    expect(Math.abs((shown.items[0]?.at ?? 0) - Date.now())).toBeLessThan(5000);
    const drawn = keeping<Topology>();
    const drawing = engine.topology.watch(
      { cluster, scope: 'pod', namespaces: ['a'], windowSeconds: 30 },
      drawn as never,
      own,
    );
    await drawn.until(1);
    expect(drawn.items[0]?.nodes.map((node) => node.id)).toEqual(['pod:a/x']);

    const id = { kind: 'NetworkPolicy', namespace: 'a', name: 'p' } as const;
    expect(await engine.policies.read({ cluster, id }, own)).toMatchObject({
      ok: true,
      value: { text: 'kind: NetworkPolicy\n' },
    });
    for (const refused of [
      engine.policies.apply({ cluster, text: '' }, own),
      engine.policies.remove({ cluster, id }, own),
      engine.policies.dryRun({ cluster, text: '' }, own),
      engine.clusters.deletePod({ cluster, namespace: 'a', name: 'b' }, own),
      engine.clusters.setProtected({ cluster, protected: false }, own),
      engine.install.apply({ cluster, digest: '' }, own),
    ])
      expect(await refused).toMatchObject({ ok: false, failure: { code: 'recording.read-only' } });
    const terminal = await engine.terminals.open(
      { session: 's', target: { kind: 'node', cluster, node: 'n' }, columns: 80, rows: 24 },
      { push: async () => undefined },
      own,
    );
    expect(terminal).toMatchObject({ code: 'recording.no-terminal' });

    // Closing the recording ends its streams, as disconnecting does.
    await engine.clusters.forget({ cluster }, own);
    expect(await streaming).toBeUndefined();
    expect(await drawing).toBeUndefined();
    expect(await engine.clusters.inventory({ cluster }, shown as never, own)).toMatchObject({
      code: 'recording.not-open',
    });
    stop.abort();
    await watching;
  });

  test('a name cannot lead out of the folder', async () => {
    using recordings = createRecordings({ directories: [directory], log: silent });
    for (const name of ['../../etc/passwd', '/etc/passwd', 'none'])
      expect(await recordings.open(name)).toMatchObject({ ok: false, failure: { code: 'recording.unknown' } });
  });

  test('recording keeps what the streams gave, and what was recorded can be replayed', async () => {
    using recordings = createRecordings({ directories: [directory], log: silent });
    const engine = recordings.wrap(liveImplementation());
    const path = join(directory, 'made.fairlead');
    const stop = new AbortController();
    const progress = keeping<{ readonly flows: number; readonly bytes: number }>();
    const running = engine.application.record({ cluster: 'live', title: 'Made', path }, progress, context(stop.signal));
    await progress.until(1);
    stop.abort();
    expect(await running).toBeUndefined();
    expect(progress.items[0]?.flows).toBe(1);
    const read = readCase(path, 'made');
    if (!read.ok) throw new Error(read.failure.why);
    expect(new Set(read.value.items.map((item) => item.stream))).toEqual(
      new Set(['inventory', 'flows', 'policies', 'policy', 'topology:pod', 'topology:workload', 'topology:namespace']),
    );
    expect(await recordings.open('made')).toEqual({ ok: true, value: 'recording:made' });
    // Nothing else was left beside the file.
    expect(readdirSync(directory)).toEqual(['made.fairlead']);
  });

  test('a recording overwrites nothing, and needs a full path', async () => {
    writeCase('one');
    using recordings = createRecordings({ directories: [directory], log: silent });
    const engine = recordings.wrap(liveImplementation());
    const begin = (path: string, cluster = 'live') =>
      engine.application.record(
        { cluster, title: 't', path },
        { push: async () => undefined },
        context(AbortSignal.timeout(5000)),
      );
    expect(await begin(join(directory, 'one.fairlead'))).toMatchObject({ code: 'recording.exists' });
    expect(await begin('one.fairlead')).toMatchObject({ code: 'recording.path' });
    expect(await begin(join(directory, 'one.txt'))).toMatchObject({ code: 'recording.path' });
    expect(await begin(join(directory, 'two.fairlead'), 'recording:one')).toMatchObject({
      code: 'recording.read-only',
    });
  });
});
