import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { beforeEach, expect, test } from 'vitest';
import { failed, ok, type Result } from '../../../contract/failure.ts';
import type { TerminalEvent, TerminalTarget } from '../../../contract/index.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import { silent } from '../log.ts';
import { FakeCluster, fakeAudit, fakeConnections } from '../testing/fake-cluster.ts';
import { nodePod, ownerAnnotation, securityOf } from './debug.ts';
import { badImage, debugImages } from './images.ts';
import { createTerminals } from './index.ts';
import { endKeeper, keeper } from './keeper.ts';
import { openOwner } from './owner.ts';

interface Shell {
  readonly place: string;
  readonly command: readonly string[];
  readonly end: (result: Result<number>) => void;
}

let cluster: FakeCluster;
let shells: Shell[];
let audit: ReturnType<typeof fakeAudit>;
/** State that the kubelet gives to what is made. */
let state: object;

const broke = failed({ code: 'exec.broke', what: 'It ended.', why: 'closed (1006)', fix: 'again' });
const owner = { name: 'me.1', isGone: (name: string) => name === 'me.0' };
const context = { signal: new AbortController().signal, connection: 'window' };

beforeEach(() => {
  cluster = new FakeCluster();
  shells = [];
  audit = fakeAudit();
  state = { running: {} };
  cluster.put(resources.pods, { metadata: { name: 'web', namespace: 'a' }, spec: { containers: [{ name: 'main' }] } });
  cluster.onPatch = (pod, subresource, part) => {
    expect(subresource).toBe('ephemeralcontainers');
    const [added] = (part as { spec: { ephemeralContainers: { name: string }[] } }).spec.ephemeralContainers;
    return ok({
      ...pod,
      ...part,
      status: { ephemeralContainerStatuses: [{ name: added?.name, state }] },
    } as KubeObject);
  };
  cluster.exec = async ({ namespace, pod, container, command }) => {
    const stdout = new PassThrough();
    const stderr = new PassThrough();
    stderr.end();
    const exit = Promise.withResolvers<Result<number>>();
    const end = (result: Result<number>) => {
      stdout.end();
      exit.resolve(result);
    };
    shells.push({ place: `${namespace}/${pod}/${container}`, command, end });
    // Whoever ends a keeper waits for the command.
    if (command.join(' ').includes('kill -TERM')) end(ok(0));
    return ok({
      stdin: new PassThrough(),
      stdout,
      stderr,
      exit: exit.promise,
      resize: () => undefined,
      close: () => end(ok(137)),
    });
  };
});

function make(grace?: number) {
  return createTerminals({
    connections: fakeConnections(cluster),
    audit,
    log: silent,
    owner,
    ...(grace === undefined ? {} : { grace }),
  });
}

const debug: TerminalTarget = {
  kind: 'debug',
  cluster: 'fake',
  namespace: 'a',
  pod: 'web',
  container: 'main',
  image: 'busybox:1.37',
  profile: 'netadmin',
};
const nodeTarget: TerminalTarget = { kind: 'node-pod', cluster: 'fake', node: 'n1', image: 'busybox:1.37' };

function open(terminals: ReturnType<typeof make>, session: string, target: TerminalTarget, resumes?: string) {
  const stop = new AbortController();
  const events: TerminalEvent[] = [];
  const opened = Promise.withResolvers<void>();
  const ended = terminals.open(
    { session, target, columns: 80, rows: 24, ...(resumes === undefined ? {} : { resumes }) },
    {
      push: async (items) => {
        for (const item of items as TerminalEvent[]) {
          events.push(item);
          if (item.kind === 'opened') opened.resolve();
        }
      },
    },
    { ...context, signal: stop.signal },
  );
  return { stop, events, ended, opened: Promise.race([opened.promise, ended.then(() => undefined)]) };
}

const pods = () => cluster.all(resources.pods).map(({ metadata }) => metadata.name);

/** A kubelet: every pod that is made gets the state. */
function kubelet() {
  const create = cluster.create.bind(cluster);
  cluster.create = ((type, object, options) =>
    create(
      type,
      type.kind === 'Pod'
        ? ({ ...object, status: { containerStatuses: [{ name: 'shell', state }] } } as KubeObject)
        : object,
      options,
    )) as FakeCluster['create'];
}

test('a debug container: made as asked, its shell run beside its keeper, ended with the shell', async () => {
  using terminals = make();
  const one = open(terminals, 's', debug);
  await one.opened;
  const pod = cluster.all(resources.pods).find(({ metadata }) => metadata.name === 'web') as unknown as {
    readonly spec: { readonly ephemeralContainers: readonly Record<string, unknown>[] };
  };
  const [added] = pod.spec.ephemeralContainers;
  const name = String(added?.name);
  expect(added).toMatchObject({
    image: 'busybox:1.37',
    targetContainerName: 'main',
    securityContext: { capabilities: { add: ['NET_ADMIN', 'NET_RAW'] } },
    command: keeper(name),
  });
  expect(one.events.map(({ kind }) => kind)).toEqual(['progress', 'opened']);
  expect(shells[0]?.place).toBe(`a/web/${name}`);
  one.stop.abort();
  expect(await one.ended).toBeUndefined();
  await terminals.close();
  expect(shells.at(-1)).toMatchObject({ place: `a/web/${name}`, command: endKeeper(name) });
  expect(audit.entries.map(({ action }) => action)).toEqual(['make debug container', 'end debug container']);
});

test('a debug container whose image cannot be had: the kubelet’s reason, and what to do', async () => {
  state = { waiting: { reason: 'ErrImagePull', message: 'no such host registry.example' } };
  using terminals = make();
  const failure = await open(terminals, 's', debug).ended;
  expect(failure).toMatchObject({ code: 'terminal.image' });
  expect(failure?.why).toContain('no such host registry.example');
});

test('a debug container that nobody waits for any more is ended once it starts', async () => {
  state = { waiting: { reason: 'ContainerCreating' } };
  using terminals = make();
  const one = open(terminals, 's', debug);
  await Promise.resolve();
  while (one.events.length === 0) await new Promise((resolve) => setImmediate(resolve));
  one.stop.abort();
  expect(await one.ended).toMatchObject({ code: 'cancelled' });
  expect(shells).toEqual([]);
  const pod = cluster.all(resources.pods).find(({ metadata }) => metadata.name === 'web') as unknown as KubeObject & {
    readonly status: { readonly ephemeralContainerStatuses: readonly { readonly name: string }[] };
  };
  const [status] = pod.status.ephemeralContainerStatuses;
  cluster.put(resources.pods, {
    ...pod,
    status: { ephemeralContainerStatuses: [{ name: status?.name, state: { running: {} } }] },
  });
  while (shells.length === 0) await new Promise((resolve) => setImmediate(resolve));
  expect(shells[0]?.command).toEqual(endKeeper(String(status?.name)));
});

test('a window that goes while something is made takes nothing else with it', async () => {
  state = { waiting: { reason: 'ContainerCreating' } };
  kubelet();
  using terminals = make();
  const stop = new AbortController();
  // As the protocol has it: nothing can be pushed to a stream that was cancelled.
  const push = async () => {
    stop.abort();
    throw new Error('cancelled');
  };
  const input = { session: 's', target: nodeTarget, columns: 80, rows: 24 };
  expect(await terminals.open(input, { push }, { ...context, signal: stop.signal })).toMatchObject({
    code: 'cancelled',
  });
  expect(pods()).toEqual(['web']);
});

test('an image that is none never reaches the cluster', async () => {
  using terminals = make();
  for (const image of ['', 'a b', 'UPPER/case', 'x:', '-x', 'a//b', 'x@sha256:12', '../x', 'a;b'])
    expect(await open(terminals, 's', { ...debug, image }).ended).toMatchObject({ code: 'terminal.bad-image' });
  expect(cluster.writes()).toEqual([]);
});

test('a node’s pod: made, used, removed with the shell', async () => {
  kubelet();
  using terminals = make();
  const one = open(terminals, 's', nodeTarget);
  await one.opened;
  const [name] = pods().filter((pod) => pod !== 'web');
  expect(shells[0]?.place).toBe(`kube-system/${name}/shell`);
  shells[0]?.end(ok(0));
  await one.ended;
  await terminals.close();
  expect(pods()).toEqual(['web']);
  expect(audit.entries.map(({ action, result }) => `${action} ${result}`)).toEqual([
    'make node debug pod done',
    'end node debug pod done',
  ]);
});

test('a node’s pod that does not start is removed, and the reason told', async () => {
  state = { terminated: { exitCode: 127, reason: 'StartError', message: 'exec: "sh": not found' } };
  kubelet();
  using terminals = make();
  expect(await open(terminals, 's', nodeTarget).ended).toMatchObject({ code: 'terminal.not-started' });
  expect(pods()).toEqual(['web']);
});

test('a lost connection leaves the pod for the next one, which takes it up', async () => {
  kubelet();
  using terminals = make();
  const one = open(terminals, 's1', nodeTarget);
  await one.opened;
  const before = pods();
  shells[0]?.end(broke);
  expect(await one.ended).toBeUndefined();
  expect(one.events.at(-1)).toEqual({ kind: 'exited', code: null, reason: 'closed (1006)', lost: true });
  expect(pods()).toEqual(before);
  // The cluster is away still: what is left stays for the attempt after this one.
  const exec = cluster.exec;
  const create = cluster.create.bind(cluster);
  cluster.exec = async () => broke;
  cluster.create = async () =>
    failed({ code: 'cluster.unreachable', what: 'It is away.', why: 'no route', fix: 'wait' });
  expect(await open(terminals, 's2', nodeTarget, 's1').ended).toMatchObject({ code: 'cluster.unreachable' });
  cluster.exec = exec;
  cluster.create = create;
  const three = open(terminals, 's3', nodeTarget, 's2');
  await three.opened;
  expect(pods()).toEqual(before);
  expect(shells.at(-1)?.place).toBe(shells[0]?.place);
  three.stop.abort();
  await three.ended;
  await terminals.close();
  expect(pods()).toEqual(['web']);
});

test('what nobody takes up is removed after a while', async () => {
  kubelet();
  using terminals = make(1);
  const one = open(terminals, 's', nodeTarget);
  await one.opened;
  const removed = new Promise<void>((resolve) => {
    const remove = cluster.remove.bind(cluster);
    cluster.remove = async (...args) => {
      const result = await remove(...args);
      resolve();
      return result;
    };
  });
  shells[0]?.end(broke);
  await one.ended;
  await removed;
  expect(pods()).toEqual(['web']);
});

test('the next console removes what one that is gone has left, and nothing of others', async () => {
  const left = (name: string, made: string, phase = 'Running') => {
    const pod = nodePod('n1', 'busybox:1.37', made);
    cluster.put(resources.pods, { ...pod, metadata: { ...pod.metadata, name }, status: { phase } });
  };
  left('killed', 'me.0');
  left('of-somebody', 'other.7');
  left('at-its-deadline', 'other.7', 'Failed');
  // Its removal failed while the cluster was away: no session knows it any more.
  left('mine-forgotten', 'me.1');
  using terminals = make();
  await terminals.connected(cluster);
  expect(pods()).toEqual(['web', 'of-somebody']);
});

test('a pod that is in use is not swept', async () => {
  kubelet();
  using terminals = make();
  const one = open(terminals, 's', nodeTarget);
  await one.opened;
  const before = pods();
  await terminals.connected(cluster);
  expect(pods()).toEqual(before);
  one.stop.abort();
  await one.ended;
});

test('nothing is swept in a protected cluster', async () => {
  const pod = nodePod('n1', 'busybox:1.37', 'me.0');
  cluster.put(resources.pods, pod);
  using terminals = createTerminals({
    connections: fakeConnections(cluster, { protected: true }),
    audit,
    log: silent,
    owner,
  });
  await terminals.connected(cluster);
  expect(pods()).toEqual(['web', pod.metadata.name]);
});

test('a node’s pod ends by itself and carries no token', () => {
  const { spec, metadata } = nodePod('n1', 'x:1', 'me.1') as unknown as {
    readonly spec: Record<string, unknown>;
    readonly metadata: { readonly annotations: Record<string, string> };
  };
  expect(spec).toMatchObject({
    nodeName: 'n1',
    activeDeadlineSeconds: 14_400,
    automountServiceAccountToken: false,
    hostPID: true,
    hostNetwork: true,
  });
  expect(metadata.annotations[ownerAnnotation]).toBe('me.1');
  expect(securityOf('restricted')).toMatchObject({ runAsNonRoot: true, capabilities: { drop: ['ALL'] } });
});

test('images: what the node holds first, the most useful of it first', () => {
  const images = debugImages([
    ['docker.io/library/busybox@sha256:aa', 'docker.io/library/busybox:1.37'],
    ['registry.example/app:2'],
    ['fairlead.lab/netshoot:1'],
  ]);
  expect(images).toEqual([
    { name: 'fairlead.lab/netshoot:1', present: true },
    { name: 'docker.io/library/busybox:1.37', present: true },
    { name: 'nicolaka/netshoot:v0.14', present: false },
    { name: 'alpine:3.22', present: false },
  ]);
});

test.each(['busybox', 'busybox:1.37', 'localhost:5000/a/b:c', 'ghcr.io/a_b/c-d:v1', `a@sha256:${'0'.repeat(64)}`])(
  '%s is an image',
  (image) => expect(badImage(image)).toBeUndefined(),
);

test('a console knows its own, and that a process is gone', () => {
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-owner-'));
  try {
    const first = openOwner(directory);
    const again = openOwner(directory);
    expect(again.name).toBe(first.name);
    const [id, pid, since] = first.name.split('.');
    expect(first.isGone(first.name)).toBe(false);
    // Its number is used again by another process: that is not it.
    if (since) expect(first.isGone(`${id}.${pid}.${Number(since) - 1}`)).toBe(true);
    // Process 1 always runs; no process has the number 2^22 + 1.
    expect(first.isGone(`${id}.1`)).toBe(false);
    expect(first.isGone(`${id}.4194305`)).toBe(true);
    expect(first.isGone('another.4194305')).toBe(false);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
