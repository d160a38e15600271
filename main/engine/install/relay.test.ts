import { beforeEach, describe, expect, test } from 'vitest';
import { type Plan, type Values, valuesSchema, withValue } from '../../../contract/index.ts';
import { resources } from '../kube/cluster-connection.ts';
import { FakeCluster, fakeSsh } from '../testing/fake-cluster.ts';
import { agentConfiguration, renderObjects } from './manifests.ts';
import { agentSelector, relayName, relaySecret } from './names.ts';
import { allObjects } from './plan.ts';
import { preparePlan } from './read.ts';
import { isRelay, renderRelay } from './relay.ts';
import { makeSecrets } from './secrets.ts';

const image = {
  path: '',
  name: 'a:1',
  digest: '',
  reference: 'a:1',
  bytes: 1,
  agentKeys: ['k8sServiceHost', 'k8sServicePort'],
};
const without: Values = valuesSchema.parse({ k8sServiceHost: '172.31.77.10', k8sServicePort: 6443 });
const values = withValue(without, 'hubble.relay.enabled', true);

/** What a DaemonSet and a Deployment say of their pods. */
interface Workload {
  readonly metadata: { readonly annotations: Readonly<Record<string, string>> };
  readonly spec: {
    readonly containers: readonly {
      readonly ports: readonly { readonly name: string; readonly containerPort: number }[];
    }[];
  };
}

let cluster: FakeCluster;
beforeEach(() => {
  cluster = new FakeCluster();
  cluster.put(resources.nodes, {
    metadata: { name: 'n1' },
    spec: { podCIDR: '10.77.1.0/24' },
    status: { nodeInfo: { operatingSystem: 'linux' }, images: [{ names: ['a:1'] }] },
  });
});

const prepare = async (action: Plan['action'], given: Values) => {
  const prepared = await preparePlan(cluster, fakeSsh(), image, action, given);
  if (!prepared.ok) throw new Error(prepared.failure.what);
  return prepared.value;
};
const actions = (plan: Plan, name: string) =>
  plan.objects.filter((one) => one.name === name).map((one) => `${one.kind} ${one.action}`);

/** Brings everything of these values into the cluster. */
async function install(given: Values): Promise<void> {
  const { input, secrets } = await prepare('install', given);
  for (const { type, object } of allObjects({ ...input, secrets: [] })) await cluster.apply(type, object);
  for (const secret of await makeSecrets('default', secrets.authority, given.hubble.relay.enabled))
    await cluster.apply(resources.secrets, secret);
}

describe('the relay', () => {
  test('is planned with its value, which the agents are not told and need not know', async () => {
    const { plan } = await prepare('install', values);
    expect(plan.obstacles).toEqual([]);
    expect(actions(plan, relayName)).toEqual(['Service create', 'Deployment create']);
    expect(actions(plan, relaySecret)).toEqual(['Secret create']);
    expect(agentConfiguration(values)).toBe(agentConfiguration(without));
    expect(actions((await prepare('install', without)).plan, relayName)).toEqual([]);
  });

  test('is nothing that is taken for an agent, and has no way to the node', () => {
    const [key = '', value] = agentSelector.split('=');
    for (const one of renderRelay(values, 'a:1')) {
      expect(isRelay(one)).toBe(true);
      expect(one.object.metadata.labels?.[key]).not.toBe(value);
    }
    const text = JSON.stringify(renderRelay(values, 'a:1'));
    for (const word of ['hostPath', 'hostNetwork', 'privileged', `"${key}":"${value}"`])
      expect(text).not.toContain(word);
  });

  test('and the agents tell Prometheus where their metrics are, unless those are off', () => {
    const found = (given: Values) =>
      [...renderObjects(given, 'a:1'), ...renderRelay(given, 'a:1')].flatMap(({ object }) => {
        const { template } = (object as unknown as { spec?: { template?: Workload } }).spec ?? {};
        if (!template) return [];
        const { annotations } = template.metadata;
        const ports = template.spec.containers.flatMap((container) => container.ports);
        return [
          [
            object.metadata.name,
            annotations['prometheus.io/scrape'],
            annotations['prometheus.io/port'],
            ports.find(({ name }) => name === 'metrics')?.containerPort,
          ],
        ];
      });
    expect(found(withValue(values, 'prometheus.port', 9999))).toEqual([
      ['fairlead-agent', 'true', '9999', 9999],
      [relayName, 'true', '9966', 9966],
    ]);
    expect(found(withValue(values, 'prometheus.enabled', false))).toEqual([
      ['fairlead-agent', undefined, undefined, undefined],
      [relayName, undefined, undefined, undefined],
    ]);
  });

  test('that is switched off goes, with everything of it; nothing of the agents is touched', async () => {
    await install(values);
    expect((await prepare('upgrade', values)).plan.objects.filter((one) => one.action !== 'unchanged')).toEqual([]);
    const { plan } = await prepare('upgrade', without);
    const gone = plan.objects.filter((one) => one.action === 'delete');
    expect(gone.map((one) => one.kind).sort()).toEqual([
      'ClusterRole',
      'ClusterRoleBinding',
      'Deployment',
      'Secret',
      'Service',
      'ServiceAccount',
    ]);
    expect(gone.find((one) => one.kind === 'Secret')?.before).not.toContain('BEGIN');
    expect(plan.objects.filter((one) => one.action === 'update').map((one) => one.name)).toEqual(['fairlead-config']);
  });

  test('is taken away by an uninstall, whatever the values say', async () => {
    await install(values);
    const { plan } = await prepare('uninstall', without);
    expect(actions(plan, relayName)).toEqual(['Deployment delete', 'Service delete']);
    expect(actions(plan, relaySecret)).toEqual(['Secret delete']);
  });
});
