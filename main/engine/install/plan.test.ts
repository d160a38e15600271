import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { type Plan, type Values, valuesSchema } from '../../../contract/index.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import { FakeCluster, fakeSsh } from '../testing/fake-cluster.ts';
import { type ImageArchive, readImageArchive } from './image.ts';
import { renderCleanup, renderObjects } from './manifests.ts';
import { allObjects } from './plan.ts';
import { preparePlan, readInstalledValues } from './read.ts';
import { makeSecrets } from './secrets.ts';

const image: ImageArchive = {
  path: '/none',
  name: 'fairlead.dev/fairlead-agent:1',
  digest: `sha256:${'a'.repeat(64)}`,
  reference: 'fairlead.dev/fairlead-agent:sha256-aaaaaaaaaaaaaaaa',
  bytes: 30e6,
};
const values: Values = valuesSchema.parse({ k8sServiceHost: '172.31.77.10', k8sServicePort: 6443 });

function node(name: string, podCIDR = '10.77.1.0/24', images: readonly string[] = []): object {
  return {
    metadata: { name },
    spec: podCIDR ? { podCIDR, podCIDRs: [podCIDR] } : {},
    status: {
      addresses: [{ type: 'InternalIP', address: '172.31.77.11' }],
      conditions: [{ type: 'Ready', status: 'False' }],
      nodeInfo: { operatingSystem: 'linux' },
      images: images.map((one) => ({ names: [one] })),
    },
  };
}

let cluster: FakeCluster;
const prepare = async (
  action: Plan['action'] = 'install',
  given: Partial<Values> = {},
  hosts = ['node1'],
  archive: ImageArchive | undefined = image,
) => {
  const prepared = await preparePlan(cluster, fakeSsh(hosts), archive, action, { ...values, ...given });
  if (!prepared.ok) throw new Error(prepared.failure.what);
  return prepared.value;
};
const codes = (plan: Plan) => plan.obstacles.map((one) => one.code);

beforeEach(() => {
  cluster = new FakeCluster();
  cluster.put(resources.nodes, node('node1'));
  cluster.put(resources.endpoints, {
    metadata: { name: 'kubernetes', namespace: 'default' },
    subsets: [{ addresses: [{ ip: '172.31.77.10' }], ports: [{ name: 'https', port: 6443 }] }],
  });
});

/** Brings the planned objects into the cluster, as applying does. */
async function install(): Promise<void> {
  const { input, secrets } = await prepare();
  for (const { type, object } of allObjects({ ...input, secrets: [] })) await cluster.apply(type, object);
  for (const secret of await makeSecrets('default', secrets.authority)) await cluster.apply(resources.secrets, secret);
}

describe('a plan', () => {
  test('writes nothing', async () => {
    for (const action of ['install', 'upgrade', 'uninstall'] as const) await prepare(action);
    await install();
    const before = cluster.writes().length;
    for (const action of ['install', 'upgrade', 'uninstall'] as const) await prepare(action);
    expect(cluster.writes().length).toBe(before);
  });

  test('says what a change of the routing mode interrupts, and nothing where there is none', async () => {
    await install();
    const routing = async (given: Partial<Values>) =>
      (await prepare('upgrade', given)).plan.warnings.filter((one) => /Routing changes|The tunnel changes/.test(one));
    expect(await routing({ debug: true })).toEqual([]);
    const native = { routingMode: 'native', ipv4NativeRoutingCIDR: '10.77.0.0/16' } as const;
    expect(await routing(native)).toEqual([expect.stringContaining('from tunnel to native')]);
    expect(await routing({ tunnelPort: 4789 })).toEqual([expect.stringContaining('do not reach each other')]);
  });

  test('of a fresh cluster creates everything and has no obstacles', async () => {
    const { plan } = await prepare();
    expect(plan.obstacles).toEqual([]);
    expect(new Set(plan.objects.map((one) => one.action))).toEqual(new Set(['create']));
    expect(plan.objects.map((one) => one.kind)).toEqual(
      expect.arrayContaining([
        'CustomResourceDefinition',
        'ServiceAccount',
        'ClusterRole',
        'ConfigMap',
        'Secret',
        'DaemonSet',
      ]),
    );
    // The DaemonSet is last: everything that its pods need is there before.
    expect(plan.objects.at(-1)?.kind).toBe('DaemonSet');
    expect(plan.nodes).toMatchObject([{ name: 'node1', image: 'side-load' }]);
  });

  test('never shows what is in a secret', async () => {
    const { plan } = await prepare();
    for (const one of plan.objects.filter((object) => object.kind === 'Secret')) {
      expect(one.after).toContain('tls.key: (not shown)');
      expect(one.after).not.toContain('PRIVATE');
    }
  });

  test('of what is installed already changes nothing, and keeps its certificates', async () => {
    await install();
    const { plan } = await prepare('upgrade');
    expect(plan.objects.filter((one) => one.action !== 'unchanged')).toEqual([]);
    expect(plan.objects.some((one) => one.kind === 'Secret')).toBe(false);
    expect(await readInstalledValues(cluster)).toEqual({ ok: true, value: values });
  });

  test('with one value changed updates configuration and DaemonSet, and nothing else', async () => {
    await install();
    const { plan } = await prepare('upgrade', { debug: true });
    const changed = plan.objects.filter((one) => one.action !== 'unchanged');
    expect(changed.map((one) => `${one.kind} ${one.action}`)).toEqual(['ConfigMap update', 'DaemonSet update']);
    expect(changed[0]?.before).not.toContain('debug: true');
    expect(changed[0]?.after).toContain('debug: true');
  });

  test('for a renamed cluster makes new certificates and says why', async () => {
    await install();
    const { plan } = await prepare('upgrade', { cluster: { name: 'prod' } });
    expect(plan.objects.filter((one) => one.kind === 'Secret').map((one) => one.action)).toEqual([
      'update',
      'update',
      'update',
    ]);
    expect(plan.warnings.join()).toContain('does not name');
  });

  test('is named by its digest: the same twice, another when anything changes', async () => {
    const digest = async (...args: Parameters<typeof prepare>) => (await prepare(...args)).plan.digest;
    const first = await digest();
    expect(await digest()).toBe(first);
    expect(await digest('install', { debug: true })).not.toBe(first);
    expect(await digest('install', {}, ['node1'], { ...image, digest: `sha256:${'b'.repeat(64)}` })).not.toBe(first);
    cluster.put(resources.nodes, node('node2'));
    expect(await digest()).not.toBe(first);
  });

  test('fields that the server adds are no difference', async () => {
    await install();
    const stored = cluster.all(resources.daemonSets)[0] as unknown as Record<string, unknown>;
    const spec = stored.spec as Record<string, unknown>;
    cluster.put(resources.daemonSets, {
      ...stored,
      spec: { ...spec, revisionHistoryLimit: 10 },
      status: { numberReady: 1 },
    });
    expect((await prepare('upgrade')).plan.objects.find((one) => one.kind === 'DaemonSet')?.action).toBe('unchanged');
  });
});

describe('obstacles', () => {
  test('another network', async () => {
    cluster.put(resources.daemonSets, { metadata: { name: 'calico-node', namespace: 'kube-system' } });
    const { plan } = await prepare();
    expect(codes(plan)).toEqual(['install.other-network']);
    expect(plan.obstacles[0]?.what).toContain('Calico');
  });

  test('no pod CIDR, no way for the image, no archive', async () => {
    cluster.put(resources.nodes, node('node2', ''));
    expect(codes((await prepare()).plan)).toEqual(['install.no-pod-cidr', 'install.image-unreachable']);
    cluster.put(resources.nodes, node('node2', '10.77.2.0/24', [image.reference]));
    const { plan } = await prepare();
    expect(codes(plan)).toEqual([]);
    expect(plan.nodes.map((one) => one.image)).toEqual(['side-load', 'present']);
    const without = await preparePlan(cluster, fakeSsh(['node1']), undefined, 'install', values);
    expect(without.ok && codes(without.value.plan)).toEqual(['install.no-image']);
  });

  test('missing rights are named together', async () => {
    cluster.allowed = (review) => !JSON.stringify(review).includes('"daemonsets"');
    const { plan } = await prepare();
    expect(codes(plan)).toEqual(['install.rights']);
    expect(plan.obstacles[0]?.why).toContain('create daemonsets.apps in kube-system');
  });

  test('uninstalling what is not there', async () => {
    expect(codes((await prepare('uninstall')).plan)).toEqual(['install.not-installed']);
  });
});

test('an uninstall deletes everything but the definitions, and says that they stay', async () => {
  await install();
  const { plan } = await prepare('uninstall');
  expect(plan.obstacles).toEqual([]);
  expect(plan.objects[0]).toMatchObject({ kind: 'DaemonSet', action: 'delete' });
  expect(plan.objects[1]).toMatchObject({ kind: 'DaemonSet', name: 'fairlead-cleanup', action: 'create', before: '' });
  expect(plan.warnings.join()).toContain('removed again at the end');
  for (const one of plan.objects.toSpliced(1, 1))
    expect(one.action).toBe(one.kind === 'CustomResourceDefinition' ? 'unchanged' : 'delete');
  expect(plan.warnings.join()).toContain('custom resource definitions stay');
  for (const one of plan.objects.filter((object) => object.kind === 'Secret'))
    expect(one.before).not.toMatch(/LS0tLS1CRUdJT/);
});

test('an uninstall that broke off can be gone on with, and nothing is installed before', async () => {
  await install();
  const { type, object } = renderCleanup(values, image.reference);
  await cluster.apply(type, object);
  await cluster.remove(resources.daemonSets, 'fairlead-agent', 'kube-system');
  const { plan } = await prepare('uninstall', {}, ['node1'], undefined);
  expect(plan.obstacles).toEqual([]);
  expect(plan.objects[0]).toMatchObject({ kind: 'DaemonSet', name: 'fairlead-cleanup', action: 'unchanged' });
  expect(plan.objects.some((one) => one.kind === 'ConfigMap' && one.action === 'delete')).toBe(true);
  expect(plan.warnings.join()).toContain('broken off');
  for (const action of ['install', 'upgrade'] as const)
    expect(codes((await prepare(action)).plan)).toEqual(['install.uninstall-unfinished']);
});

test('an uninstall needs the right to make the DaemonSet that cleans up', async () => {
  await install();
  cluster.allowed = (review) => {
    const { verb } = (review as { readonly spec: { readonly resourceAttributes: { readonly verb: string } } }).spec
      .resourceAttributes;
    return verb === 'delete';
  };
  const { plan } = await prepare('uninstall');
  expect(plan.obstacles[0]?.why).toContain('create daemonsets.apps in kube-system, patch daemonsets.apps');
});

test('the cleanup DaemonSet is not taken for the agent', () => {
  const cleanup = renderCleanup(values, 'x').object as unknown as { readonly spec: { readonly template: KubeObject } };
  const agent = renderObjects(values, 'x').at(-1)?.object as unknown as {
    readonly spec: { readonly selector: { readonly matchLabels: Record<string, string> } };
  };
  const [[key, value] = ['', '']] = Object.entries(agent.spec.selector.matchLabels);
  expect(cleanup.spec.template.metadata.labels?.[key]).not.toBe(value);
});

describe('an image archive', () => {
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-image-'));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  function tar(files: Readonly<Record<string, string>>): Buffer {
    const blocks = Object.entries(files).flatMap(([name, text]) => {
      const header = Buffer.alloc(512);
      header.write(name, 0);
      header.write(`${Buffer.byteLength(text).toString(8).padStart(11, '0')}\0`, 124);
      const body = Buffer.alloc(Math.ceil(Buffer.byteLength(text) / 512) * 512);
      body.write(text);
      return [header, body];
    });
    return Buffer.concat([...blocks, Buffer.alloc(1024)]);
  }

  test('is read for its name and digest, and named by the digest', async () => {
    const path = join(directory, 'good.tar');
    const digest = `sha256:${'1234567890abcdef'.repeat(4)}`;
    const index = {
      manifests: [{ digest, annotations: { 'io.containerd.image.name': 'fairlead.dev/fairlead-agent:0.1.0' } }],
    };
    writeFileSync(path, tar({ 'blobs/sha256/x': 'y'.repeat(3000), 'index.json': JSON.stringify(index) }));
    expect(await readImageArchive(path)).toMatchObject({
      ok: true,
      value: {
        name: 'fairlead.dev/fairlead-agent:0.1.0',
        digest,
        reference: 'fairlead.dev/fairlead-agent:sha256-1234567890abcdef',
      },
    });
  });

  test.each([
    ['missing', undefined],
    ['not a tar', Buffer.alloc(2048, 'x')],
    ['without an index', tar({ hello: 'world' })],
    ['with a broken index', tar({ 'index.json': '{' })],
  ])('that is %s is a failure, not an exception', async (_name, content) => {
    const path = join(directory, `bad-${_name.replaceAll(' ', '-')}.tar`);
    if (content) writeFileSync(path, content);
    const read = await readImageArchive(path);
    expect(read.ok).toBe(false);
    if (!read.ok) expect(read.failure.code).toBe('install.image-unreadable');
  });
});
