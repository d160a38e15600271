import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Cluster, Inventory } from '../../../contract/clusters.ts';
import type { Failure } from '../../../contract/failure.ts';
import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import type { AgentStatuses } from '../agents/index.ts';
import { openAuditLog } from '../application/audit.ts';
import type { KubeObject } from '../kube/cluster-connection.ts';
import { type ApiServer, findHyperkube, startApiServer } from '../kube/testing/api-server.ts';
import { makeCertificate } from '../kube/testing/certificates.ts';
import { silent } from '../log.ts';
import { createRights } from '../rights/index.ts';
import type { SshConnector } from '../ssh/ssh-connector.ts';
import { type Clusters, createClusters } from './index.ts';
import { countBackends, nodeRow, podRow, workloadOf } from './inventory-rows.ts';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const noAgents: AgentStatuses = { forCluster: () => new Map(), onChange: () => ({ [Symbol.dispose]() {} }) };
const noSsh = {
  hosts: async () => ({ ok: true, value: [] }),
  aliasFor: async ({ name }: { name: string }) => (name === 'node1' ? 'alias1' : undefined),
} as unknown as SshConnector;
const context = () => ({ signal: new AbortController().signal, connection: 'test' });

function scratch(): string {
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-clusters-'));
  cleanups.push(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

interface Opened {
  readonly clusters: Clusters;
  readonly api: CapabilityImplementation<'clusters'>;
  readonly stateDirectory: string;
  /** Resolves with the list once it satisfies the condition. */
  readonly until: (
    condition: (clusters: readonly Cluster[], problems: readonly Failure[]) => boolean,
  ) => Promise<readonly Cluster[]>;
}

function open(kubeconfigs: readonly string[], stateDirectory = scratch(), name?: string): Opened {
  const clusters = createClusters({
    stateDirectory,
    log: silent,
    audit: openAuditLog(stateDirectory, silent),
    kubeconfigs,
    ssh: () => noSsh,
    ...(name === undefined ? {} : { context: name }),
  });
  cleanups.push(() => clusters[Symbol.dispose]());
  const api = clusters.implementation(noAgents);
  return {
    clusters,
    api,
    stateDirectory,
    until: (condition) =>
      new Promise((resolve) => {
        const stop = new AbortController();
        void api
          .watch(
            {},
            {
              async push(items) {
                for (const item of items) {
                  if (!condition(item.clusters as readonly Cluster[], item.problems as readonly Failure[])) continue;
                  resolve(item.clusters as readonly Cluster[]);
                  stop.abort();
                }
              },
            },
            { signal: stop.signal, connection: 'test' },
          )
          .catch(() => undefined);
      }),
  };
}

function config(server: string, user: object = {}, more: object = {}): string {
  return JSON.stringify({
    clusters: [{ name: 'c', cluster: { server, ...more } }],
    users: [{ name: 'u', user }],
    contexts: [{ name: 'prod', context: { cluster: 'c', user: 'u' } }],
    'current-context': 'prod',
  });
}
function file(text: string): string {
  const path = join(scratch(), 'config');
  writeFileSync(path, text);
  return path;
}
const only = (clusters: readonly Cluster[]): Cluster => {
  const [first] = clusters;
  if (!first) throw new Error('no cluster');
  return first;
};

describe('bad kubeconfigs are told in the list', () => {
  it.each([
    ['missing', '/nowhere/config', undefined, 'kubeconfig.missing'],
    ['malformed', undefined, 'clusters: [', 'kubeconfig.malformed'],
  ])('%s', async (_, path, text, code) => {
    const opened = open([path ?? file(text ?? '')]);
    await opened.until((_clusters, problems) =>
      problems.some((problem) => problem.code === code && problem.fix !== ''),
    );
  });
  it('an unknown context on the command line', async () => {
    await open([file(config('https://127.0.0.1:1'))], scratch(), 'nope').until((_clusters, problems) =>
      problems.some((problem) => problem.code === 'kubeconfig.unknown-context'),
    );
  });
  it('an unreachable server, with the time of the next attempt', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    const port = typeof address === 'object' && address ? address.port : 0;
    await new Promise((resolve) => server.close(resolve));
    const opened = open([file(config(`https://127.0.0.1:${port}`))]);
    const { id } = only(await opened.until((clusters) => clusters.length === 1));
    expect(await opened.api.connect({ cluster: id }, context())).toMatchObject({
      ok: false,
      failure: { code: 'cluster.unreachable' },
    });
    const cluster = only(await opened.until((clusters) => clusters[0]?.state === 'offline'));
    expect(cluster.failure?.code).toBe('cluster.unreachable');
    expect(cluster.retryAt).toBeGreaterThan(Date.now() - 5000);
  });
  it('an expired certificate, before anything is sent', async () => {
    const { certificate, key } = makeCertificate('old', 0);
    await new Promise((resolve) => setTimeout(resolve, 1100)); // it was valid for the second it was made in
    const opened = open([
      file(
        config('https://127.0.0.1:1', {
          'client-certificate-data': certificate.toString('base64'),
          'client-key-data': key.toString('base64'),
        }),
      ),
    ]);
    const { id } = only(await opened.until((clusters) => clusters.length === 1));
    expect(await opened.api.connect({ cluster: id }, context())).toMatchObject({
      ok: false,
      failure: { code: 'cluster.certificate-expired' },
    });
    expect(only(await opened.until((clusters) => clusters[0]?.state === 'needs-login')).failure?.code).toBe(
      'cluster.certificate-expired',
    );
  });
});

describe('the list', () => {
  it('shows no path, follows the file, and forgets without touching it', async () => {
    const path = file(config('https://127.0.0.1:1'));
    const before = readFileSync(path, 'utf8');
    const opened = open([path]);
    const cluster = only(await opened.until((clusters) => clusters.length === 1));
    expect(cluster).toMatchObject({
      name: 'prod',
      server: '127.0.0.1:1',
      state: 'idle',
      origin: 'config',
      route: ['direct'],
    });
    expect(JSON.stringify(cluster)).not.toContain(path);
    writeFileSync(path, before.replaceAll('prod', 'renamed'));
    await opened.until((clusters) => clusters[0]?.name === 'renamed');
    unlinkSync(path);
    await opened.until((clusters, problems) => clusters.length === 0 && problems[0]?.code === 'kubeconfig.missing');
    writeFileSync(path, before);
    const back = only(await opened.until((clusters) => clusters.length === 1));
    expect(back.id).toBe(cluster.id);
    await opened.api.forget({ cluster: back.id }, context());
    await opened.until((clusters) => clusters.length === 0);
    expect(readFileSync(path, 'utf8')).toBe(before);
    expect(await opened.api.addKubeconfigPath({ path }, context())).toEqual({
      ok: true,
      value: { added: [cluster.id] },
    });
    await opened.until((clusters) => clusters.length === 1);
  });
  it('takes text that stands on its own, and none that points at files of this machine', async () => {
    const opened = open([file('clusters: []')]);
    expect(
      await opened.api.addKubeconfig(
        { name: 'pasted', text: config('https://127.0.0.1:1', { token: 't' }) },
        context(),
      ),
    ).toMatchObject({ ok: true });
    expect(only(await opened.until((clusters) => clusters.length === 1)).name).toBe('prod');
    for (const user of [{ tokenFile: '/etc/shadow' }, { 'client-key': '/root/.ssh/id_rsa' }]) {
      expect(
        await opened.api.addKubeconfig({ name: 'evil', text: config('https://127.0.0.1:1', user) }, context()),
      ).toMatchObject({ ok: false, failure: { code: 'kubeconfig.file-reference' } });
    }
    expect(await opened.api.addKubeconfig({ name: 'x', text: 'not: [a' }, context())).toMatchObject({
      ok: false,
      failure: { code: 'kubeconfig.malformed' },
    });
    expect(await opened.api.addKubeconfigPath({ path: 'relative' }, context())).toMatchObject({ ok: false });
  });
  it('keeps protection between launches, and unlocks only by name', async () => {
    const path = file(config('https://127.0.0.1:1'));
    const first = open([path]);
    const { id } = only(await first.until((clusters) => clusters.length === 1));
    expect(first.clusters.connections.writable(id)).toEqual({ ok: true, value: undefined });
    await first.api.setProtected({ cluster: id, protected: true }, context());
    expect(await first.api.deletePod({ cluster: id, namespace: 'a', name: 'b' }, context())).toMatchObject({
      ok: false,
      failure: { code: 'cluster.protected' },
    });
    const second = open([path], first.stateDirectory);
    expect(only(await second.until((clusters) => clusters.length === 1)).protected).toBe(true);
    expect(
      await second.api.setProtected({ cluster: id, protected: false, typedName: 'wrong' }, context()),
    ).toMatchObject({ ok: false });
    expect(
      await second.api.setProtected({ cluster: id, protected: false, typedName: 'prod' }, context()),
    ).toMatchObject({ ok: true });
    expect(second.clusters.connections.writable(id).ok).toBe(true);
  });
  it('runs a login program only after it was allowed by what was shown', async () => {
    const directory = scratch();
    const program = join(directory, 'login');
    const marker = join(directory, 'ran');
    writeFileSync(program, `#!/bin/sh\ntouch ${marker}\nexit 1\n`);
    chmodSync(program, 0o755);
    const opened = open([
      file(
        config('https://127.0.0.1:1', {
          exec: { command: program, args: ['x'], env: [{ name: 'PROFILE', value: 'a b' }] },
        }),
      ),
    ]);
    const { id, execPlugin } = only(await opened.until((clusters) => clusters.length === 1));
    expect(execPlugin).toEqual({ command: program, allowed: false, locked: false });
    expect(await opened.api.connect({ cluster: id }, context())).toMatchObject({
      ok: false,
      failure: { code: 'cluster.login-not-allowed' },
    });
    expect(existsSync(marker)).toBe(false);
    expect(await opened.api.allowExecPlugin({ cluster: id, hash: 'guess' }, context())).toMatchObject({
      ok: false,
      failure: { code: 'cluster.login-program-changed' },
    });
    const shown = await opened.api.describeExecPlugin({ cluster: id }, context());
    if (!shown.ok) throw new Error(shown.failure.why);
    expect(shown.value).toMatchObject({ resolved: program, args: ['x'], env: ['PROFILE=a b'] });
    expect(await opened.api.allowExecPlugin({ cluster: id, hash: shown.value.hash }, context())).toMatchObject({
      ok: true,
    });
    await opened.until((clusters) => clusters[0]?.failure?.code === 'cluster.login-failed');
    expect(existsSync(marker)).toBe(true);
  });
});

describe('rows', () => {
  it('names a Deployment rather than its ReplicaSet', () => {
    const pod = (kind: string, name: string, hash?: string) => ({
      metadata: {
        name: 'p',
        ...(hash ? { labels: { 'pod-template-hash': hash } } : {}),
        ownerReferences: [{ apiVersion: 'v1', kind, name, controller: true }],
      },
    });
    expect(workloadOf(pod('ReplicaSet', 'web-abc', 'abc'))).toEqual({ kind: 'Deployment', name: 'web' });
    expect(workloadOf(pod('ReplicaSet', 'web'))).toEqual({ kind: 'ReplicaSet', name: 'web' });
    expect(workloadOf(pod('DaemonSet', 'agent'))).toEqual({ kind: 'DaemonSet', name: 'agent' });
    expect(workloadOf({ metadata: { name: 'alone' } })).toEqual({ kind: 'Pod', name: 'alone' });
  });
  it('have all addresses of a pod and of a node, the preferred one first', () => {
    const pod = (status: object) => {
      const { address, moreAddresses } = podRow({ metadata: { name: 'p' }, status } as KubeObject, undefined);
      return [address, moreAddresses];
    };
    expect(pod({})).toEqual(['', undefined]);
    expect(pod({ podIP: '10.0.0.1' })).toEqual(['10.0.0.1', undefined]);
    expect(pod({ podIP: '10.0.0.1', podIPs: [{ ip: '10.0.0.1' }, { ip: 'fd00::1' }] })).toEqual([
      '10.0.0.1',
      ['fd00::1'],
    ]);
    const node = (...addresses: readonly (readonly [type: string, address: string])[]) => {
      const status = { addresses: addresses.map(([type, address]) => ({ type, address })) };
      const row = nodeRow({ metadata: { name: 'n' }, status } as KubeObject, { state: 'absent' }, 0, undefined);
      return [row.address, row.moreAddresses];
    };
    const outside = ['ExternalIP', '203.0.113.1'] as const;
    expect(node(['Hostname', 'n'])).toEqual(['', undefined]);
    expect(node(outside)).toEqual(['203.0.113.1', undefined]);
    expect(node(outside, ['InternalIP', 'fd00::1'], ['InternalIP', '10.0.0.1'])).toEqual(['fd00::1', ['10.0.0.1']]);
  });
  it('counts ready addresses once over all slices', () => {
    const slice = (addresses: readonly string[], ready?: boolean) => ({
      metadata: { name: 's', namespace: 'n', labels: { 'kubernetes.io/service-name': 'web' } },
      endpoints: [{ addresses, ...(ready === undefined ? {} : { conditions: { ready } }) }],
    });
    expect(countBackends([slice(['1', '2']), slice(['2', '3'], true), slice(['4'], false)]).get('n/web')).toBe(3);
    const ofFamily = (addressType: string, addresses: string[]) => ({ ...slice(addresses), addressType });
    const dual = [ofFamily('IPv4', ['10.0.0.1', '10.0.0.2']), ofFamily('IPv6', ['fd00::1', 'fd00::2'])];
    expect(countBackends(dual).get('n/web')).toBe(2);
  });
});

const hyperkube = findHyperkube();
describe.skipIf(!hyperkube)(
  `with a real API server${hyperkube ? '' : ' (skipped: the lab’s Kubernetes has not been built)'}`,
  () => {
    let server: ApiServer;
    beforeAll(async () => {
      server = await startApiServer();
    }, 60_000);
    afterAll(() => server?.stop());
    const idOf = (clusters: readonly Cluster[], name: string) =>
      clusters.find((cluster) => cluster.name === name)?.id ?? '';

    it('connects, shows the inventory as it changes, tells rights, deletes a pod and writes that down', async () => {
      const opened = open([server.kubeconfig]);
      const id = idOf(await opened.until((clusters) => clusters.length === 3), 'admin');
      expect(await opened.api.connect({ cluster: id }, context())).toEqual({ ok: true, value: {} });
      const online = (await opened.until((clusters) => clusters.some((cluster) => cluster.state === 'online'))).find(
        (cluster) => cluster.id === id,
      );
      expect(online?.serverVersion).toMatch(/^v1\./);
      expect(online?.latencyMilliseconds).toBeGreaterThan(0);
      const connection = await opened.clusters.connections.get(id);
      if (!connection.ok) throw new Error(connection.failure.why);
      const { resources } = await import('../kube/cluster-connection.ts');

      const stop = new AbortController();
      let look: () => void = () => {};
      let latest: Inventory | undefined;
      const until = (condition: (inventory: Inventory) => boolean) =>
        new Promise<void>((resolve) => {
          look = () => {
            if (latest && condition(latest)) resolve();
          };
          look();
        });
      const streaming = opened.api.inventory(
        { cluster: id },
        {
          async push(items) {
            latest = items.at(-1) as Inventory;
            look();
          },
        },
        { signal: stop.signal, connection: 'test' },
      );
      await until((inventory) => inventory.namespaces.some((namespace) => namespace.name === 'default'));
      const create = async (type: (typeof resources)['nodes' | 'pods'], object: object) => {
        const created = await connection.value.create(type, object as never);
        if (!created.ok) throw new Error(created.failure.why);
      };
      await create(resources.nodes, {
        apiVersion: 'v1',
        kind: 'Node',
        metadata: { name: 'node1' },
        spec: { podCIDR: '10.0.0.0/24' },
      });
      await create(resources.pods, {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: 'p1', namespace: 'default', labels: { a: 'b' } },
        spec: { nodeName: 'node1', containers: [{ name: 'c', image: 'x' }] },
      });
      await until((inventory) => inventory.pods.length === 1 && inventory.nodes[0]?.pods === 1);
      expect(latest?.nodes[0]).toMatchObject({
        name: 'node1',
        ready: false,
        podCIDR: '10.0.0.0/24',
        ssh: 'alias1',
        agent: { state: 'absent' },
      });
      expect(latest?.pods[0]).toMatchObject({
        name: 'p1',
        node: 'node1',
        phase: 'Pending',
        labels: { a: 'b' },
        containers: ['c'],
      });
      expect(latest?.services.some((service) => service.name === 'kubernetes')).toBe(true);

      expect(await opened.api.deletePod({ cluster: id, namespace: 'default', name: 'p1' }, context())).toEqual({
        ok: true,
        value: {},
      });
      expect(readFileSync(join(opened.stateDirectory, 'audit.jsonl'), 'utf8')).toContain(
        '"subject":"default/p1","result":"done"',
      );
      const rights = createRights({ connections: opened.clusters.connections });
      const review = await rights.review({ cluster: id, namespace: '' }, context());
      expect(review.ok && review.value.rights.filter((right) => !right.allowed)).toEqual([]);
      stop.abort();
      expect(await streaming).toBeUndefined();
    });

    it('tells what a user may not do, and that a login is refused', async () => {
      const opened = open([server.kubeconfig]);
      const list = await opened.until((clusters) => clusters.length === 3);
      const viewer = idOf(list, 'viewer');
      const rights = createRights({ connections: opened.clusters.connections });
      for (const namespace of ['', 'default']) {
        const review = await rights.review({ cluster: viewer, namespace }, context());
        if (!review.ok) throw new Error(review.failure.why);
        expect(review.value.user).toBe('viewer');
        expect(review.value.rights.filter((right) => right.allowed)).toEqual([]);
        const place = namespace === '' ? 'every namespace' : 'namespace default';
        expect(review.value.rights.find((right) => right.action === 'clusters.deletePod')?.reason).toContain(
          `Your user “viewer” may not delete pods in ${place}`,
        );
      }
      const ended = await opened.api.inventory({ cluster: viewer }, { push: async () => {} }, context());
      expect(ended?.code).toBe('kube.forbidden');
      const degraded = await opened.until(
        (clusters) => clusters.find((cluster) => cluster.id === viewer)?.state === 'degraded',
      );
      // What may not be read says nothing new of the user's rights; an action that is refused does, at once.
      expect(degraded.find((cluster) => cluster.id === viewer)?.refusals).toBeUndefined();
      const deletion = opened.api.deletePod({ cluster: viewer, namespace: 'default', name: 'p' }, context());
      expect(await deletion).toMatchObject({ ok: false, failure: { code: 'kube.forbidden' } });
      await opened.until((clusters) => clusters.find((cluster) => cluster.id === viewer)?.refusals === 1);
      const nobody = idOf(list, 'nobody');
      expect(await opened.api.connect({ cluster: nobody }, context())).toMatchObject({
        ok: false,
        failure: { code: 'cluster.unauthorized' },
      });
      await opened.until((clusters) => clusters.find((cluster) => cluster.id === nobody)?.state === 'needs-login');
      await opened.api.disconnect({ cluster: nobody }, context());
      await opened.until((clusters) => clusters.find((cluster) => cluster.id === nobody)?.state === 'idle');
    });
  },
);
