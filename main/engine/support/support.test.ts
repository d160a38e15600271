import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { failed } from '../../../contract/failure.ts';
import type { SupportProgress } from '../../../contract/support.ts';
import type { Agents } from '../agents/agent-pool.ts';
import { resources } from '../kube/cluster-connection.ts';
import { silent } from '../log.ts';
import { FakeCluster, fakeConnections } from '../testing/fake-cluster.ts';
import { tarEntry } from './archive.ts';
import { createSupport } from './index.ts';

const noAgents = {
  open: async () => failed({ code: 'agent.none', what: 'No agents.', why: 'not installed', fix: 'install' }),
} as unknown as Agents;

describe('support bundles', () => {
  let directory: string;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'fairlead-support-'));
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  const context = () => ({ signal: new AbortController().signal, connection: 'test' });

  async function open() {
    const cluster = new FakeCluster();
    await cluster.create(resources.nodes, { apiVersion: 'v1', kind: 'Node', metadata: { name: 'n' } } as never);
    await cluster.create(resources.pods, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'web', namespace: 'shop', annotations: { last: 'hunter2' } },
      spec: {
        nodeName: 'n',
        containers: [{ name: 'c', image: 'web:1', env: [{ name: 'PASSWORD', value: 'hunter2' }] }],
      },
    } as never);
    await cluster.create(resources.secrets, {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { name: 'database', namespace: 'shop' },
      data: { password: 'aHVudGVyMg==' },
    } as never);
    writeFileSync(join(directory, 'fairlead.log'), 'started\n');
    const support = createSupport({
      connections: fakeConnections(cluster),
      agents: noAgents,
      log: silent,
      stateDirectory: directory,
    });
    return { cluster, support };
  }

  it('open with plain tar, say what is missing, and hold no secret because none was read', async () => {
    const { cluster, support } = await open();
    const listed = await support.items({ cluster: 'fake' }, context());
    if (!listed.ok) throw new Error(listed.failure.why);
    const all = listed.value.items.map(({ id }) => id);
    expect(listed.value.items.every(({ estimate }) => estimate > 0)).toBe(true);
    const before = cluster.requests.length;
    const progress: SupportProgress[] = [];
    const ended = await support.collect(
      { cluster: 'fake', items: all },
      { push: async (items) => void progress.push(...(items as readonly SupportProgress[])) },
      context(),
    );
    expect(ended).toBeUndefined();
    const archive = join(directory, 'bundle.tar.gz');
    writeFileSync(archive, Buffer.concat(progress.flatMap((item) => (item.kind === 'piece' ? [item.data] : []))));
    const names = execFileSync('tar', ['tzf', archive]).toString().trim().split('\n');
    expect(names.some((name) => name.endsWith('/cluster/pods.json'))).toBe(true);
    expect(names.some((name) => name.endsWith('/console/fairlead.log'))).toBe(true);
    execFileSync('tar', ['xzf', archive, '-C', directory]);
    const root = names[0]?.split('/')[0] ?? '';
    const bundle = JSON.parse(readFileSync(join(directory, root, 'bundle.json'), 'utf8')) as {
      readonly items: readonly { readonly id: string; readonly failures: readonly { readonly code: string }[] }[];
    };
    expect(bundle.items.map(({ id }) => id)).toEqual(all);
    expect(bundle.items.find(({ id }) => id === 'agents')?.failures[0]?.code).toBe('agent.none');
    const text = execFileSync('tar', ['xzOf', archive]).toString();
    for (const secret of ['hunter2', 'aHVudGVyMg', 'PASSWORD']) expect(text).not.toContain(secret);
    expect(text).toContain('web:1');
    expect(cluster.requests.slice(before).some((request) => request.kind === 'Secret')).toBe(false);
    expect(cluster.writes().filter((request) => cluster.requests.indexOf(request) >= before)).toEqual([]);
    expect(progress).toContainEqual(expect.objectContaining({ kind: 'item', id: 'agents', state: 'failed' }));
  });

  it('show every item before, and refuse what is not in the list', async () => {
    const { support } = await open();
    const preview = await support.preview({ cluster: 'fake', item: 'endpoints' }, context());
    expect(preview).toMatchObject({ ok: true });
    expect(preview.ok && preview.value.files.find(({ name }) => name === 'cluster/pods.json')?.text).toContain('web:1');
    expect(await support.preview({ cluster: 'fake', item: 'secrets' }, context())).toMatchObject({ ok: false });
    expect(
      await support.collect({ cluster: 'fake', items: ['secrets'] }, { push: async () => {} }, context()),
    ).toMatchObject({ code: 'support.unknown-item' });
  });

  it('have long names where tar wants them', () => {
    const long = `${'d'.repeat(90)}/${'e'.repeat(60)}/${'f'.repeat(90)}.json`;
    const archive = join(directory, 'long.tar');
    writeFileSync(archive, Buffer.concat([tarEntry({ name: long, content: Buffer.from('x') }, 0), Buffer.alloc(1024)]));
    expect(execFileSync('tar', ['tf', archive]).toString().trim()).toBe(long);
    expect(() => tarEntry({ name: 'x'.repeat(101), content: Buffer.alloc(0) }, 0)).toThrow(/too long/);
  });
});
