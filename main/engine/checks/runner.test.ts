import { PassThrough } from 'node:stream';
import { describe, expect, test } from 'vitest';
import { type CheckResult, checksMarkdown } from '../../../contract/checks.ts';
import { ok } from '../../../contract/failure.ts';
import type { ClusterConnection } from '../kube/cluster-connection.ts';
import { execute } from './execute.ts';
import { type Check, partOf, runChecks, tableText } from './runner.ts';

const check = (id: string, run: Check['run']): Check => ({ id, title: id, node: 'n1', group: 'g', run });
const passed = { status: 'passed', found: 'yes', expected: 'yes' } as const;

async function collect(checks: readonly Check[], parallel = 2, signal = new AbortController().signal) {
  const all: CheckResult[] = [];
  await runChecks(checks, signal, parallel, async (results) => void all.push(...results));
  return all;
}

describe('the runner', () => {
  test('reports each check as it begins and as it ends; one that throws has failed and ends nothing', async () => {
    const results = await collect([
      check('good', async () => passed),
      check('bad', async () => {
        throw new Error('no wire');
      }),
      check('last', async () => passed),
    ]);
    const of = (id: string) => results.filter((result) => result.id === id).map((result) => result.status);
    expect(of('good')).toEqual(['running', 'passed']);
    expect(of('bad')).toEqual(['running', 'failed']);
    expect(of('last')).toEqual(['running', 'passed']);
    expect(results.find((result) => result.status === 'failed')?.found).toBe('no wire');
  });

  test('several answers of one question are reported together', async () => {
    const part = partOf({ id: 'node.kernel', title: 'Kernel', node: 'n1', group: 'g' }, passed);
    const results = await collect([check('node', async () => ({ own: passed, results: [part] }))]);
    expect(results.map((result) => `${result.id} ${result.status}`)).toEqual([
      'node running',
      'node passed',
      'node.kernel passed',
    ]);
  });

  test('runs no more at once than allowed, and nothing after an abort', async () => {
    let now = 0;
    let most = 0;
    const stop = new AbortController();
    const slow = (id: string) =>
      check(id, async () => {
        now += 1;
        most = Math.max(most, now);
        await new Promise(setImmediate);
        now -= 1;
        if (id === '5') stop.abort();
        return passed;
      });
    const results = await collect(['1', '2', '3', '4', '5', '6', '7', '8', '9'].map(slow), 3, stop.signal);
    expect(most).toBe(3);
    expect(results.some((result) => result.id === '9')).toBe(false);
  });
});

test('a report in Markdown has a table per node, and no cell breaks it', () => {
  const result = (node: string, status: CheckResult['status'], found: string): CheckResult => ({
    ...partOf({ id: found, title: 'T', node, group: '' }, { ...passed, found }),
    status,
  });
  const text = checksMarkdown('Preflight', [result('', 'passed', 'all'), result('n1', 'failed', 'a|b\nc')]);
  expect(text).toContain('1 passed, 0 with a warning, 1 failed, 0 skipped.');
  expect(text).toContain('## Cluster');
  expect(text).toContain('| failed | T | a\\|b c | yes |');
});

test('tables are aligned', () => {
  expect(tableText(['A', 'LONGER'], [['xxx', '1']])).toBe('A    LONGER\nxxx  1');
});

describe('a command in a container', () => {
  function session(exit: Promise<ReturnType<typeof ok<number>>>) {
    const stdout = new PassThrough();
    const stderr = new PassThrough();
    const stdin = new PassThrough();
    let closed = false;
    const exec: ClusterConnection['exec'] = async () =>
      ok({
        stdin,
        stdout,
        stderr,
        exit,
        resize: () => undefined,
        close: () => {
          closed = true;
        },
      });
    return { exec, stdout, stderr, stdin, closed: () => closed };
  }
  const target = { namespace: 'n', pod: 'p', container: 'c', command: ['x'] };

  test('gives what it printed and its code, and is closed', async () => {
    const end = Promise.withResolvers<ReturnType<typeof ok<number>>>();
    const fake = session(end.promise);
    const running = execute(fake, target, { signal: new AbortController().signal, seconds: 5 });
    await new Promise(setImmediate);
    fake.stdout.write('out');
    fake.stderr.write('err');
    await new Promise(setImmediate);
    end.resolve(ok(3));
    expect(await running).toEqual({ ok: true, value: { code: 3, stdout: 'out', stderr: 'err' } });
    expect(fake.closed()).toBe(true);
    expect(fake.stdin.writableEnded).toBe(true);
  });

  test('that never ends is late or cancelled, and closed; its input stays open until it may end', async () => {
    const never = new Promise<never>(() => undefined);
    const late = session(never);
    const until = new AbortController();
    const running = execute(late, target, { signal: new AbortController().signal, seconds: 0.05, until: until.signal });
    await new Promise(setImmediate);
    expect(late.stdin.writableEnded).toBe(false);
    until.abort();
    expect(late.stdin.writableEnded).toBe(true);
    expect(await running).toMatchObject({ ok: false, failure: { code: 'exec.late' } });
    expect(late.closed()).toBe(true);
    const stop = new AbortController();
    const stopped = execute(session(never), target, { signal: stop.signal, seconds: 60 });
    stop.abort();
    expect(await stopped).toMatchObject({ ok: false, failure: { code: 'cancelled' } });
  });
});
