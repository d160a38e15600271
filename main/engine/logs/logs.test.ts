import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { failed, ok } from '../../../contract/failure.ts';
import type { LogItem } from '../../../contract/logs.ts';
import { silent } from '../log.ts';
import { FakeCluster, fakeConnections } from '../testing/fake-cluster.ts';
import { createLogs } from './index.ts';
import { Merge, plain, splitLine } from './merge.ts';

describe('lines of several sources', () => {
  const line = (source: number, time: number, arrived: number) => ({
    source,
    time,
    arrived,
    text: `${source}@${time}`,
  });
  it('come in the order of their times, and older ones that are late go with the newer', () => {
    const merge = new Merge(100);
    merge.add(line(0, 30, 0));
    merge.add(line(1, 10, 50));
    merge.add(line(1, 40, 60));
    expect(merge.take(90)).toEqual([]);
    expect(merge.take(110).map(({ text }) => text)).toEqual(['1@10', '0@30']);
    expect(merge.take(110)).toEqual([]);
    expect(merge.take(0, true).map(({ text }) => text)).toEqual(['1@40']);
  });
  it('keep their order where times are equal, whatever the numbers', () => {
    for (let seed = 1; seed < 200; seed++) {
      const merge = new Merge(10);
      const out: { source: number; time: number; text: string }[] = [];
      const next = [0, 0, 0];
      for (let step = 0; step < 60; step++) {
        const source = (step * seed) % 3;
        // Times of one source never fall.
        next[source] = (next[source] ?? 0) + ((step * seed) % 5);
        merge.add({ source, time: next[source] ?? 0, arrived: step, text: String(step) });
        out.push(...merge.take(step));
      }
      out.push(...merge.take(0, true));
      expect(out).toHaveLength(60);
      for (const source of [0, 1, 2]) {
        const own = out.filter((one) => one.source === source).map((one) => Number(one.text));
        expect(own).toEqual([...own].sort((a, b) => a - b));
      }
    }
  });
  it('are read as the kubelet writes them, without what a terminal would obey', () => {
    expect(splitLine('2026-01-02T03:04:05.123456789Z a  b')).toMatchObject({
      time: Date.UTC(2026, 0, 2, 3, 4, 5, 123),
      text: 'a  b',
    });
    expect(splitLine('2026-01-02T03:04:05Z')?.text).toBe('');
    expect(splitLine('unable to retrieve container logs')).toBeUndefined();
    for (const obeyed of ['\u0007', '\u001b'])
      expect(plain('\u001b[31mred\u001b[0m\u0007 \u001b]0;title')).not.toContain(obeyed);
    expect(plain('\u001b[31mred\u001b[0m')).toBe('red');
  });
});

describe('following', () => {
  const stamp = (second: number) => `2026-01-02T03:04:${String(second).padStart(2, '0')}.000000000Z`;
  /** A cluster whose log streams a test writes. */
  function follow(sources: number, options: { readonly follow?: boolean } = {}) {
    const cluster = new FakeCluster();
    const opened: { readonly path: string; readonly stream: PassThrough }[] = [];
    const waiting: ((entry: (typeof opened)[number]) => void)[] = [];
    cluster.stream = async (path) => {
      if (path.includes('gone'))
        return failed({ code: 'kube.not-found', what: 'There is no pod gone.', why: 'not found', fix: 'none' });
      const entry = { path, stream: new PassThrough() };
      opened.push(entry);
      waiting.shift()?.(entry);
      return ok(entry.stream);
    };
    const stop = new AbortController();
    const items: LogItem[] = [];
    let look: () => void = () => {};
    const until = (condition: (items: readonly LogItem[]) => boolean) =>
      new Promise<void>((resolve) => {
        look = () => {
          if (condition(items)) resolve();
        };
        look();
      });
    const logs = createLogs({ connections: fakeConnections(cluster), log: silent });
    const ended = logs.follow(
      {
        cluster: 'fake',
        sources: Array.from({ length: sources }, (_, index) => ({ namespace: 'n', pod: `p${index}`, container: 'c' })),
        tail: 10,
        follow: options.follow ?? true,
      },
      {
        async push(more) {
          items.push(...(more as readonly LogItem[]));
          look();
        },
      },
      { signal: stop.signal, connection: 'test' },
    );
    const nth = (index: number) =>
      new Promise<(typeof opened)[number]>((resolve) => {
        const there = opened[index];
        if (there) resolve(there);
        else waiting.push(resolve);
      });
    return { stop, items, until, ended, nth, opened };
  }
  const texts = (items: readonly LogItem[]) => items.flatMap((item) => (item.kind === 'line' ? [item.text] : []));

  it('merges, and goes on after a container has started anew without a line twice', async () => {
    const { stop, items, until, ended, nth } = follow(2);
    const first = await nth(0);
    const second = await nth(1);
    first.stream.write(`${stamp(2)} two\n`);
    second.stream.write(`${stamp(1)} one\n${stamp(3)} three\n`);
    await until((all) => texts(all).length === 3);
    expect(texts(items)).toEqual(['one', 'two', 'three']);
    first.stream.end();
    const again = await nth(2);
    expect(new URLSearchParams(again.path.split('?')[1]).get('sinceTime')).toBe(stamp(2));
    again.stream.write(`${stamp(2)} two\n${stamp(4)} four\n`);
    await until((all) => texts(all).includes('four'));
    expect(texts(items)).toEqual(['one', 'two', 'three', 'four']);
    expect(items.filter((item) => item.kind === 'state' && item.state === 'waiting')).not.toHaveLength(0);
    stop.abort();
    expect(await ended).toBeUndefined();
    expect(again.stream.destroyed && second.stream.destroyed).toBe(true);
  });

  it('ends by itself when it was asked for what is there only', async () => {
    const { items, ended, nth } = follow(1, { follow: false });
    (await nth(0)).stream.end(`${stamp(1)} one\n`);
    expect(await ended).toBeUndefined();
    expect(texts(items)).toEqual(['one']);
    expect(items.at(-1)).toMatchObject({ kind: 'line' });
  });

  it('tells of a pod that is gone, and refuses more than the API server should hold open', async () => {
    const cluster = new FakeCluster();
    const logs = createLogs({ connections: fakeConnections(cluster), log: silent });
    const items: LogItem[] = [];
    const source = { namespace: 'n', pod: 'gone', container: 'c' };
    const run = (count: number) =>
      logs.follow(
        { cluster: 'fake', sources: Array.from({ length: count }, () => source), tail: 1, follow: true },
        { push: async (more) => void items.push(...(more as readonly LogItem[])) },
        { signal: new AbortController().signal, connection: 'test' },
      );
    expect(await run(1)).toBeUndefined();
    expect(items).toEqual([expect.objectContaining({ kind: 'state', state: 'failed' })]);
    expect(await run(201)).toMatchObject({ code: 'logs.too-many' });
  });
});
