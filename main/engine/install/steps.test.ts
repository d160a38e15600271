import { expect, test } from 'vitest';
import { failed, ok } from '../../../contract/failure.ts';
import type { InstallProgress } from '../../../contract/index.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import { FakeCluster } from '../testing/fake-cluster.ts';
import { applyAll } from './apply.ts';
import { runStages, type Step } from './steps.ts';

const failure = { code: 'x', what: 'It broke.', why: 'Because.', fix: 'Mend it.' };

function step(id: string, run: Step['run'] = async () => ok({ message: 'done' })): Step {
  return { id, title: id, node: '', run };
}

const states = (progress: InstallProgress) => progress.steps.map(({ id, state }) => `${id} ${state}`);

test('stages run one after the other, steps of a stage side by side but never too many', async () => {
  let running = 0;
  let most = 0;
  const slow = (id: string) =>
    step(id, async () => {
      running += 1;
      most = Math.max(most, running);
      await new Promise((resolve) => setImmediate(resolve));
      running -= 1;
      return ok({ message: '' });
    });
  const progress = await runStages(
    'install',
    [
      { parallel: 2, steps: ['a', 'b', 'c', 'd'].map(slow) },
      {
        parallel: 1,
        steps: [step('last', async () => ok({ message: String(running), skipped: true }))],
      },
    ],
    new AbortController().signal,
    () => undefined,
  );
  expect(most).toBe(2);
  expect(progress.state).toBe('done');
  expect(progress.steps.at(-1)).toMatchObject({ state: 'skipped', message: '0' });
  for (const one of progress.steps)
    expect(one.endedAt).toBeGreaterThanOrEqual(one.startedAt ?? Number.POSITIVE_INFINITY);
});

test('a failed step ends it: its neighbours finish, nothing after it begins', async () => {
  const seen: InstallProgress[] = [];
  const progress = await runStages(
    'install',
    [
      {
        parallel: 2,
        steps: [
          step('bad', async ({ log }) => {
            log('a line');
            return failed(failure);
          }),
          step('good'),
        ],
      },
      { parallel: 1, steps: [step('never')] },
    ],
    new AbortController().signal,
    (one) => seen.push(one),
  );
  expect(progress.state).toBe('failed');
  expect(states(progress)).toEqual(['bad failed', 'good done', 'never waiting']);
  expect(progress.steps[0]).toMatchObject({ failure, log: ['a line'] });
  expect(seen.at(-1)).toEqual(progress);
});

test('an exception in a step is a failure of that step', async () => {
  const progress = await runStages(
    'install',
    [{ parallel: 1, steps: [step('throws', () => Promise.reject(new Error('boom')))] }],
    new AbortController().signal,
    () => undefined,
  );
  expect(progress.state).toBe('failed');
  expect(progress.steps[0]?.failure?.why).toBe('boom');
});

test('stopping between two objects is a failure of the step, not its end', async () => {
  const cluster = new FakeCluster();
  const stop = new AbortController();
  const objects = ['a', 'b'].map((name) => ({
    type: resources.configMaps,
    object: { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, namespace: 'x' } } as KubeObject,
  }));
  const result = await applyAll({ connection: cluster }, objects, {
    signal: stop.signal,
    log: () => stop.abort(),
    message: () => undefined,
  });
  expect(result).toMatchObject({ ok: false, failure: { code: 'cancelled' } });
  expect(cluster.writes()).toHaveLength(1);
});

test('stopping ends the running step and begins no other', async () => {
  const stop = new AbortController();
  const progress = await runStages(
    'uninstall',
    [
      {
        parallel: 1,
        steps: [
          step('waits', ({ signal }) => {
            const stopped = new Promise<void>((resolve) =>
              signal.addEventListener('abort', () => resolve(), { once: true }),
            );
            stop.abort();
            return stopped.then(() => failed(failure));
          }),
          step('never'),
        ],
      },
    ],
    stop.signal,
    () => undefined,
  );
  expect(progress.state).toBe('stopped');
  expect(states(progress)).toEqual(['waits failed', 'never waiting']);
  expect(progress.steps[0]?.failure?.code).toBe('install.stopped');
});
