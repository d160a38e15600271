import {
  type ConnectivityProgress,
  type ConnectivityResult,
  type Failure,
  ok,
  type Result,
} from '../../../contract/index.ts';
import { type Agents, type ClusterAgents, unaryTimeout } from '../agents/index.ts';
import { execute } from '../checks/execute.ts';
import { convertFlow } from '../flows/convert.ts';
import { waitFor } from '../install/wait.ts';
import { type ClusterConnection, type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { Log } from '../log.ts';
import type { Attempted, Bed, Case, PodName } from './bed.ts';
import { hostPort } from './cases.ts';
import { testServices } from './services.ts';
import { type BedPod, container, makeTestbed, type Testbed } from './testbed.ts';

export interface TestOptions {
  readonly connection: ClusterConnection;
  readonly agents: Agents;
  readonly log: Log;
  readonly image: string;
  /** Two nodes, or one of them twice. */
  readonly nodes: readonly { readonly name: string; readonly address: string }[];
  readonly cases: readonly Case[];
  readonly outside: string | undefined;
  readonly signal: AbortSignal;
}

interface Service extends KubeObject {
  readonly spec?: { readonly clusterIP?: string; readonly ports?: readonly { readonly nodePort?: number }[] };
  readonly status?: { readonly loadBalancer?: { readonly ingress?: readonly { readonly ip?: string }[] } };
}

interface Slice extends KubeObject {
  readonly endpoints?: readonly { readonly conditions?: { readonly ready?: boolean } }[];
}

const mostAttempts = 40;
const mostFlows = 30;

function podsFor([near, far]: TestOptions['nodes']): readonly BedPod[] {
  const [first, second] = [near?.name ?? '', far?.name ?? near?.name ?? ''];
  return [
    { name: 'client', node: first },
    { name: 'other', node: first },
    { name: 'near', node: first, labels: { role: 'web' } },
    { name: 'far', node: second, labels: { role: 'web' } },
    { name: 'host', node: first, hostPort },
    ...(second === first ? [] : [{ name: 'host-far', node: second, hostPort }]),
  ];
}

/** Makes the services and waits until they have their addresses and both pods behind them. */
async function makeServices(
  testbed: Testbed,
  { connection, nodes, signal }: TestOptions,
): Promise<Result<Bed['services']>> {
  const wanted = testServices(nodes[0]?.address ?? '');
  using live = connection.watch<Service>(resources.services, { namespace: testbed.namespace });
  using slices = connection.watch<Slice>(resources.endpointSlices, { namespace: testbed.namespace });
  for (const object of wanted) {
    const made = await testbed.create(resources.services, object);
    if (!made.ok) return made;
  }
  const behind = () =>
    [...slices.items().values()]
      .filter((slice) => slice.metadata.labels?.['kubernetes.io/service-name'] === 'web')
      .flatMap((slice) => slice.endpoints ?? [])
      .filter((endpoint) => endpoint.conditions?.ready).length;
  return await waitFor(
    [live, slices],
    signal,
    30,
    () => {
      const services = [...live.items().values()];
      if (services.length < wanted.length || behind() < 2) return undefined;
      return ok(
        new Map(
          services.map(({ metadata, spec, status }) => {
            const given = status?.loadBalancer?.ingress?.[0]?.ip ?? '';
            const address = metadata.name === 'web-loadbalancer' ? given : (spec?.clusterIP ?? '');
            return [metadata.name, { address, nodePort: spec?.ports?.[0]?.nodePort ?? 0 }] as const;
          }),
        ),
      );
    },
    (): Failure => ({
      code: 'connectivity.services',
      what: 'The test’s services do not come up.',
      why: `${behind()} of 2 pods are behind the service web after 30 s.`,
      fix: 'Look at the controller manager and its EndpointSlices.',
    }),
  );
}

async function mtuOf(agents: ClusterAgents | undefined, node: string): Promise<number> {
  const client = await agents
    ?.links()
    .find((link) => link.node === node)
    ?.client();
  const status = client?.ok ? await client.value.status() : undefined;
  return status?.ok ? status.value.mtu : 0;
}

/** What the agents of the test's nodes have seen in its namespace since a moment, newest last. */
async function flowsSince(
  agents: ClusterAgents | undefined,
  nodes: readonly string[],
  namespace: string,
  since: number,
): Promise<readonly string[]> {
  const lines: { readonly time: number; readonly text: string }[] = [];
  for (const node of new Set(nodes)) {
    const client = await agents
      ?.links()
      .find((link) => link.node === node)
      ?.client();
    if (!client?.ok) continue;
    const request = {
      number: 200n,
      since: { seconds: BigInt(Math.floor(since / 1000)), nanos: 0 },
      whitelist: [{ sourcePod: [`${namespace}/`] }, { destinationPod: [`${namespace}/`] }],
    };
    try {
      for await (const response of client.value.observer.getFlows(request, { timeoutMs: unaryTimeout })) {
        if (response.responseTypes.case !== 'flow') continue;
        const flow = convertFlow(response.responseTypes.value, lines.length, node);
        const side = (one: typeof flow.source) =>
          `${one.pod || one.entity || one.address}${one.port ? `:${one.port}` : ''}`;
        lines.push({
          time: flow.time,
          text: `${new Date(flow.time).toISOString().slice(11, 23)} ${node} ${side(flow.source)} → ${side(flow.destination)} ${flow.protocol} ${flow.verdict}${flow.dropText ? ` (${flow.dropText})` : ''} ${flow.summary}`.trim(),
        });
      }
    } catch {
      // Flows are an extra: the case has failed whether they can be read or not.
    }
  }
  return lines
    .sort((a, b) => a.time - b.time)
    .slice(-mostFlows)
    .map((line) => line.text);
}

/** Why a case cannot be run here; undefined when it can. */
function missing(one: Case, bed: Bed): string | undefined {
  for (const need of one.needs) {
    if (need === 'two nodes' && !bed.pods.has('host-far')) return 'the cluster has one node that can be used';
    if (need === 'a server outside' && !bed.outside) return 'no server outside of the cluster was named';
    if (need === 'an address for LoadBalancer services' && !bed.services.get('web-loadbalancer')?.address)
      return 'nobody gives addresses to LoadBalancer services here';
  }
  return undefined;
}

/**
 * Runs a test from its namespace to its removal and reports on the way. It never throws; whatever happens, what was
 * made is removed.
 */
export async function runTest(
  options: TestOptions,
  first: ConnectivityProgress,
  report: (progress: ConnectivityProgress) => void,
): Promise<ConnectivityProgress> {
  let progress = first;
  const tell = (to: Partial<ConnectivityProgress>) => {
    progress = { ...progress, ...to };
    report(progress);
  };
  const change = (id: string, to: Partial<ConnectivityResult>) =>
    tell({ results: progress.results.map((one) => (one.id === id ? { ...one, ...to } : one)) });
  let end: Pick<ConnectivityProgress, 'state' | 'message'>;
  try {
    const testbed = makeTestbed(options.connection, options.image, 'test');
    tell({ namespace: testbed.namespace });
    try {
      end = await runCases(options, testbed, tell, change);
    } finally {
      tell({ state: 'cleaning', message: 'removing the namespace and everything in it' });
      await testbed[Symbol.asyncDispose]();
    }
  } catch (error) {
    end = { state: 'failed', message: error instanceof Error ? error.message : String(error) };
  }
  if (options.signal.aborted) end = { state: 'stopped', message: 'stopped; everything was removed' };
  tell(end);
  return progress;
}

async function runCases(
  options: TestOptions,
  testbed: Testbed,
  tell: (to: Partial<ConnectivityProgress>) => void,
  change: (id: string, to: Partial<ConnectivityResult>) => void,
): Promise<Pick<ConnectivityProgress, 'state' | 'message'>> {
  const { connection, nodes, signal, cases } = options;
  const opened = await options.agents.open(connection.cluster);
  using agents = opened.ok ? opened.value : undefined;
  const refused = ({ what, why }: Failure) => ({ state: 'failed' as const, message: `${what} ${why}` });
  const pods = await testbed.pods(podsFor(nodes), signal, 60);
  if (!pods.ok) return refused(pods.failure);
  tell({ message: 'making services' });
  const services = await makeServices(testbed, options);
  if (!services.ok) return refused(services.failure);

  let attempts: string[] = [];
  const bed: Bed = {
    namespace: testbed.namespace,
    pods: pods.value as ReadonlyMap<PodName, never>,
    mtu: await mtuOf(agents, nodes[0]?.name ?? ''),
    outside: options.outside,
    services: services.value,
    nodes: new Map(nodes.map(({ name, address }) => [name, address])),
    create: testbed.create,
    remove: testbed.remove,
    signal,
    async ask(from, args) {
      const target = {
        namespace: testbed.namespace,
        pod: from,
        container,
        command: ['/fairlead-agent', 'probe', ...args],
      };
      const ran = await execute(connection, target, { signal, seconds: 15 });
      const attempted = readAttempt(ran);
      const came = attempted.ok
        ? `ok ${attempted.peer.pod ?? attempted.addresses?.join(',') ?? ''}`
        : `${attempted.kind} ${attempted.error ?? ''}`;
      attempts = [...attempts, `${from}: ${args.join(' ')}: ${came.trim()}`].slice(-mostAttempts);
      return attempted;
    },
  };
  await settleServices(bed);
  tell({ state: 'running', message: `${cases.length} cases` });
  for (const one of cases) {
    if (signal.aborted) break;
    const lacks = missing(one, bed);
    if (lacks) {
      change(one.id, { state: 'skipped', message: lacks });
      continue;
    }
    change(one.id, { state: 'running' });
    const began = Date.now();
    attempts = [];
    const verdict = await one.run(bed).catch((error: unknown) => ({ passed: false, message: String(error) }));
    if (signal.aborted) break;
    const milliseconds = Date.now() - began;
    const names = nodes.map((node) => node.name);
    const flows = verdict.passed ? [] : await flowsSince(agents, names, testbed.namespace, began);
    change(one.id, {
      state: verdict.passed ? 'passed' : 'failed',
      message: verdict.message,
      milliseconds,
      attempts,
      flows,
    });
  }
  return { state: 'done', message: 'everything was removed' };
}

/** Reads what the probe printed; a command that did not run is an attempt that failed. */
export function readAttempt(ran: Result<{ readonly stdout: string; readonly stderr: string }>): Attempted {
  const failed = (error: string): Attempted => ({ ok: false, kind: 'not run', error, peer: {}, milliseconds: 0 });
  if (!ran.ok) return failed(`${ran.failure.what} ${ran.failure.why}`);
  try {
    return JSON.parse(ran.value.stdout) as Attempted;
  } catch {
    return failed(ran.value.stderr.trim() || 'it printed nothing');
  }
}

/** Services reach the nodes a moment after their EndpointSlices: the first attempts wait for that, and count for nothing. */
async function settleServices(bed: Bed): Promise<void> {
  const address = bed.services.get('web')?.address ?? '';
  for (const from of ['client', 'host'] as const)
    for (let attempt = 0; attempt < 10 && !bed.signal.aborted; attempt++) {
      const { ok: worked } = await bed.ask(from, [
        'http',
        `http://${address.includes(':') ? `[${address}]` : address}/`,
        '--timeout',
        '500ms',
      ]);
      if (worked) break;
    }
}
