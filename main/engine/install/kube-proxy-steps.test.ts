import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { InstallProgress } from '../../../contract/index.ts';
import { jobs } from '../checks/node-job.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import { FakeCluster, fakeSsh } from '../testing/fake-cluster.ts';
import type { ClusterFacts } from './facts.ts';
import { proxyBackup, proxyBackupName, proxyFacts, proxySent } from './kube-proxy.ts';
import { removalStages, restoringStages } from './kube-proxy-steps.ts';
import { agentLabel, agentNamespace } from './names.ts';
import { runStages } from './steps.ts';
import type { Workbench } from './workbench.ts';

const set = {
  apiVersion: 'apps/v1',
  kind: 'DaemonSet',
  metadata: { name: 'kube-proxy', namespace: agentNamespace },
  spec: {
    template: {
      spec: { containers: [{ name: 'kube-proxy', image: 'kube-proxy:1', command: ['/usr/local/bin/kube-proxy'] }] },
    },
  },
} as unknown as KubeObject;
const nodes = ['n1', 'n2'] as const;
const machines = nodes.map((name) => ({ name })) as unknown as ClusterFacts['machines'];

/** A cluster whose agents, DaemonSet controller and Jobs do what they would; kernels are counters of chains. */
class Cluster extends FakeCluster {
  readonly chains = new Map<string, number>(nodes.map((name) => [name, 12]));
  replacement = 'true';
  /** What `kube-proxy --cleanup` leaves. */
  leaves = 0;
  conflicts = 2;
  /** The node that does not answer any more: its pods neither end nor come up. */
  silent = '';

  constructor() {
    super();
    for (const name of nodes)
      this.put(resources.pods, {
        metadata: { name: `agent-${name}`, namespace: agentNamespace, labels: { [agentLabel.key]: agentLabel.value } },
        spec: { nodeName: name },
        status: { conditions: [{ type: 'Ready', status: 'True' }] },
      });
    this.put(resources.daemonSets, { ...set, status: { desiredNumberScheduled: 2 } });
    this.exec = async ({ pod, command }) => {
      const node = pod.replace('agent-', '');
      const answers: Readonly<Record<string, unknown>> = {
        status: { ready: true, kube_proxy_replacement: this.replacement },
        version: { version: '1' },
        facts: {
          serviceChains: { nftables: this.chains.get(node), legacy: 0 },
          interfaces: [],
          problems: ['cards: x'],
        },
      };
      const stdout = new PassThrough();
      stdout.end(JSON.stringify(answers[command[1] ?? '']));
      return {
        ok: true,
        value: {
          stdin: new PassThrough(),
          stdout,
          stderr: new PassThrough(),
          resize: () => undefined,
          close: () => undefined,
          exit: new Promise((resolve) => stdout.once('end', () => resolve({ ok: true, value: 0 }))),
        },
      };
    };
  }

  override async replace<T extends KubeObject>(...[type, object, options]: Parameters<FakeCluster['replace']>) {
    if (this.conflicts > 0) {
      // Somebody's controller was faster: what was read is old.
      this.conflicts -= 1;
      this.put(type, { ...(await this.#live()), touched: this.conflicts });
    }
    const done = await super.replace<T>(type, object, options);
    return done.ok ? { ok: true as const, value: this.#controlled(type, done.value) } : done;
  }

  /** What the DaemonSet's controller, and then kube-proxy itself, make of a change. */
  #controlled<T extends KubeObject>(type: Parameters<FakeCluster['replace']>[0], object: T): T {
    const away = JSON.stringify(object).includes('fairlead.dev/kube-proxy');
    const lost = this.silent === '' ? 0 : 1;
    const count = away ? 0 : 2;
    if (away && lost > 0)
      this.put(resources.pods, {
        metadata: {
          name: 'kube-proxy-x',
          namespace: agentNamespace,
          ownerReferences: [{ apiVersion: 'apps/v1', kind: 'DaemonSet', name: 'kube-proxy' }],
        },
        spec: { nodeName: this.silent },
      });
    const changed = { ...object, metadata: { ...object.metadata, generation: 2 } };
    this.put(type, {
      ...changed,
      status: {
        observedGeneration: 2,
        desiredNumberScheduled: count,
        currentNumberScheduled: count,
        numberAvailable: away ? 0 : count - lost,
        numberMisscheduled: away ? lost : 0,
      },
    });
    if (!away) for (const node of nodes) this.chains.set(node, 12);
    return changed;
  }

  /** A node's kubelet ceases to report. */
  kill(node: string): void {
    this.silent = node;
    this.put(resources.nodes, {
      metadata: { name: node },
      status: { conditions: [{ type: 'Ready', status: 'Unknown' }] },
    });
  }

  async #live(): Promise<KubeObject> {
    const live = await this.get<KubeObject>(resources.daemonSets, 'kube-proxy', agentNamespace);
    if (!live.ok) throw new Error('gone');
    return live.value;
  }

  override async create<T extends KubeObject>(...[type, object, options]: Parameters<FakeCluster['create']>) {
    const made = await super.create<T>(type, object, options);
    if (type.kind === 'Job') {
      const { template } = (
        object as unknown as { spec: { template: { metadata: object; spec: { nodeName: string } } } }
      ).spec;
      const name = `${object.metadata.name}-pod`;
      this.chains.set(template.spec.nodeName, this.leaves);
      this.rawAnswers.set(`/api/v1/namespaces/${agentNamespace}/pods/${name}/log`, 'cleaned up\n');
      this.put(resources.pods, {
        metadata: { ...template.metadata, name, namespace: agentNamespace },
        status: { phase: 'Succeeded' },
      });
    }
    return made.ok && type.kind === 'DaemonSet'
      ? { ok: true as const, value: this.#controlled(type, made.value) }
      : made;
  }
}

let cluster: Cluster;
beforeEach(() => {
  cluster = new Cluster();
});
const bench = () => ({ connection: cluster, ssh: fakeSsh(), facts: { machines } }) as unknown as Workbench;
const facts = async () => {
  const [live, backup] = [
    await cluster.get<KubeObject>(resources.daemonSets, 'kube-proxy', agentNamespace),
    await cluster.get<KubeObject>(resources.configMaps, proxyBackupName, agentNamespace),
  ];
  return proxyFacts({
    daemonSets: live.ok ? [live.value] : [],
    backup: backup.ok ? backup.value : undefined,
    staticPods: [],
    machines: [],
  });
};
const run = async (stages: Parameters<typeof runStages>[1]): Promise<InstallProgress> =>
  await runStages('upgrade', stages, new AbortController().signal, () => undefined);
const remove = async () => await run(removalStages(bench(), await facts(), machines, undefined));
const failureOf = (progress: InstallProgress) => progress.steps.find(({ failure }) => failure)?.failure;
const spec = async () => ((await facts()).set as unknown as { readonly spec: unknown }).spec;

describe('kube-proxy is taken away', () => {
  test('saved first, sent away whatever else changes its object, cleaned on every node, and remembered', async () => {
    const progress = await remove();
    expect(failureOf(progress)).toBeUndefined();
    expect(progress.state).toBe('done');
    expect(await facts()).toMatchObject({ kind: 'removed', unfinished: false });
    expect([...cluster.chains.values()]).toEqual([0, 0]);
    expect(cluster.all(jobs)).toEqual([]);
    const writes = cluster.writes().map(({ verb, kind }) => `${verb} ${kind}`);
    expect(writes[0]).toBe('apply ConfigMap');
    expect(writes.at(-1)).toBe('apply ConfigMap');
    expect(writes.filter((one) => one === 'create Job').length).toBe(2);
  });

  test('only when every agent translates services: nothing is written before', async () => {
    cluster.replacement = 'false';
    expect(failureOf(await remove())?.code).toBe('install.not-replaced');
    expect(cluster.writes()).toEqual([]);
    expect(await facts()).toMatchObject({ kind: 'daemonset' });
  });

  test('and what it leaves on a node is a failure, from which it can be gone on or back', async () => {
    cluster.leaves = 3;
    const failure = failureOf(await remove());
    expect(failure).toMatchObject({ code: 'install.kube-proxy-rules', details: 'cleaned up\n' });
    expect(failure?.what).toContain('3 chains');
    expect(await facts()).toMatchObject({ kind: 'removed', unfinished: true });
    cluster.leaves = 0;
    expect((await remove()).state).toBe('done');
    expect(await facts()).toMatchObject({ kind: 'removed', unfinished: false });
  });
});

describe('a node that does not answer', () => {
  afterEach(() => void vi.useRealTimers());

  test('keeps kube-proxy’s pod: the failure names it and says what to do, and without the node it goes on', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    cluster.kill('n2');
    const running = remove();
    while (!cluster.writes().some(({ verb }) => verb === 'replace')) await new Promise(setImmediate);
    await vi.advanceTimersByTimeAsync(61_000);
    const failure = failureOf(await running);
    expect(failure).toMatchObject({ code: 'install.kube-proxy-settle' });
    expect(failure?.what).toContain('n2 does not answer');
    expect(failure?.why).toContain('1 pods are left (n2)');
    expect(failure?.fix).toContain('kubectl delete node n2');
    vi.useRealTimers();
    // The rules stay for now, and so does what is needed to go on or back.
    expect([...cluster.chains.values()]).toEqual([12, 12]);
    expect(await facts()).toMatchObject({ kind: 'removed', unfinished: true });
    // Its Node object has been deleted: the controllers remove its pods, and the new plan is without it.
    cluster.silent = '';
    cluster.drop(resources.nodes, 'n2');
    cluster.drop(resources.pods, 'kube-proxy-x', agentNamespace);
    const rest = machines.filter(({ name }) => name !== 'n2');
    expect((await run(removalStages(bench(), await facts(), rest, undefined))).state).toBe('done');
    expect(cluster.chains.get('n1')).toBe(0);
    expect(await facts()).toMatchObject({ kind: 'removed', unfinished: false });
  });

  test('is left out where the operator wants it: the others are cleaned, and it is remembered', async () => {
    cluster.kill('n2');
    cluster.drop(resources.pods, 'agent-n2', agentNamespace);
    const rest = machines.filter(({ name }) => name !== 'n2');
    const progress = await run(removalStages({ ...bench(), leftOut: ['n2'] }, await facts(), rest, undefined));
    expect(failureOf(progress)).toBeUndefined();
    expect(progress.steps.find(({ id }) => id === 'kube-proxy:away')?.message).toBe(
      'its pods are gone but on n2, which is left out',
    );
    expect([...cluster.chains.values()]).toEqual([0, 12]);
    const backup = await cluster.get<KubeObject>(resources.configMaps, proxyBackupName, agentNamespace);
    expect(backup).toMatchObject({ ok: true, value: { data: { state: 'removed', leftOut: 'n2' } } });
  });

  test('cannot be asked: the failure names it, and nothing is written', async () => {
    cluster.drop(resources.pods, 'agent-n2', agentNamespace);
    const failure = failureOf(await remove());
    expect(failure?.what).toBe('The agent on n2 cannot be asked whether it translates services.');
    expect(failure?.fix).toContain('kubectl delete node n2');
    expect(cluster.writes()).toEqual([]);
  });

  test('gets kube-proxy when it is back: bringing it back does not wait for it', async () => {
    expect((await remove()).state).toBe('done');
    cluster.kill('n2');
    cluster.drop(resources.pods, 'agent-n2', agentNamespace);
    const progress = await run(restoringStages(bench(), await facts(), machines));
    expect(failureOf(progress)).toBeUndefined();
    expect(progress.steps.find(({ id }) => id === 'kube-proxy:back')?.message).toBe(
      'runs on 1 nodes; n2 does not answer, and gets it when it is back',
    );
  });
});

describe('kube-proxy is brought back', () => {
  test('as it was, and its copy goes when its rules are there', async () => {
    const before = await spec();
    expect((await remove()).state).toBe('done');
    const progress = await run(restoringStages(bench(), await facts(), machines));
    expect(failureOf(progress)).toBeUndefined();
    expect(await spec()).toEqual(before);
    expect(await facts()).toMatchObject({ kind: 'daemonset', saved: undefined });
  });

  test('out of the copy where somebody has deleted it', async () => {
    cluster.drop(resources.daemonSets, 'kube-proxy', agentNamespace);
    cluster.put(resources.configMaps, proxyBackup(set, 'removed').object);
    const progress = await run(restoringStages(bench(), await facts(), machines));
    expect(failureOf(progress)).toBeUndefined();
    expect(await facts()).toMatchObject({ kind: 'daemonset', saved: undefined });
    expect(await spec()).toEqual((proxySent(set, false) as unknown as { spec: unknown }).spec);
  });
});
