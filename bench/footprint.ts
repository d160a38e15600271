/** Rows of the agent itself: memory, idle processor time, start and binary, in a cluster of some size. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { eventually, kubectl, on, root } from '../lab/client.ts';
import { create, up } from './lab.ts';
import type { Effort } from './measure.ts';
import { fillServices, pod, startPods } from './pods.ts';
import { absolute, median, type Row } from './report.ts';

const nodes = ['node1', 'node2'];

async function agentPid(node: string): Promise<string> {
  return (await on(node, ['pgrep', '-o', '-x', 'fairlead-agent'])).trim();
}

async function memoryOf(node: string): Promise<number> {
  const status = await on(node, ['cat', `/proc/${await agentPid(node)}/status`]);
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? Number.NaN) / 1024;
}

/** Processor time that the agent has taken, in seconds. */
async function processorTime(node: string): Promise<number> {
  const fields = (await on(node, ['cat', `/proc/${await agentPid(node)}/stat`])).split(') ').at(-1)?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

async function startToReady(node: string): Promise<number> {
  const metrics = await on(node, ['curl', '-s', 'http://127.0.0.1:9962/metrics']);
  return Number(/^fairlead_start_to_ready_seconds (\S+)$/m.exec(metrics)?.[1] ?? Number.NaN);
}

/**
 * Ends a node's agent and says how long the next one took from its start until it was ready, in seconds. One at a time: the
 * nodes share this machine's processors, and two agents that start at once take twice as long as each on a machine of its own.
 */
async function restart(node: string): Promise<number> {
  const chosen = [
    '-n',
    'kube-system',
    '-l',
    'app.kubernetes.io/name=fairlead-agent',
    '--field-selector',
    `spec.nodeName=${node}`,
  ];
  // Returns when the pod is gone.
  await kubectl(['delete', 'pod', ...chosen]);
  await eventually(`${node}'s next agent is ready`, 120, async () => {
    // It fails at once as long as nobody has made the next pod.
    await kubectl(['wait', '--for=condition=Ready', 'pod', ...chosen, '--timeout=100s']);
    return true;
  });
  return startToReady(node);
}

async function identityNames(): Promise<string[]> {
  const listed = await kubectl(['get', 'ciliumidentities', '-o', 'name']);
  return listed.split('\n').filter((line) => line !== '');
}

/**
 * Identities that no pod has, under numbers that no agent has taken. They are spread over the whole range as hashes are:
 * an agent tries 256 numbers in a row for a pod, and gives up where all are taken.
 */
async function identities(total: number): Promise<void> {
  const taken = new Set((await identityNames()).map((line) => line.split('/').at(-1)));
  const step = Math.floor(65_000 / (total + taken.size));
  const free = Array.from({ length: total + taken.size }, (_, index) => String(300 + index * step))
    .filter((name) => !taken.has(name))
    .slice(0, total);
  for (let first = 0; first < free.length; first += 500)
    await create(
      free.slice(first, first + 500).map((name) => ({
        apiVersion: 'cilium.io/v2',
        kind: 'CiliumIdentity',
        metadata: { name },
        'security-labels': {
          'k8s:app': `filler-${name}`,
          'k8s:io.kubernetes.pod.namespace': 'elsewhere',
          'k8s:io.cilium.k8s.policy.serviceaccount': 'default',
          'k8s:io.cilium.k8s.policy.cluster': 'default',
        },
      })),
    );
}

/** Fills a cluster and measures. */
export async function footprint(effort: Effort): Promise<Row[]> {
  const size = effort.quick
    ? { pods: 10, services: 100, identities: 500 }
    : { pods: 100, services: 1000, identities: 5000 };
  await up('fairlead-tunnel');
  await startPods();
  await create(
    Array.from({ length: size.pods - 3 }, (_, index) =>
      pod(`filler-${index}`, nodes[index % 2] ?? 'node1', ['serve'], { app: `pod-${index}` }, false, {}),
    ),
  );
  await fillServices(size.services);
  await kubectl(['wait', '--for=condition=Ready', 'pod', '--all', '--timeout=600s']);
  // Last, since the agents delete after 5 minutes what nobody has; a restart begins these anew.
  await identities(size.identities);
  // Starts in the full cluster are those that count, and no memory is left of the filling.
  const ready: number[] = [];
  for (let round = 0; round < (effort.quick ? 1 : 3); round++)
    for (const node of nodes) ready.push(await restart(node));
  const idle = effort.quick ? 10 : 30;
  const before: number[] = [];
  for (const node of nodes) before.push(await processorTime(node));
  const began = performance.now();
  await new Promise((resolve) => setTimeout(resolve, idle * 1000));
  const shares: number[] = [];
  for (const [index, node] of nodes.entries())
    shares.push(((await processorTime(node)) - (before[index] ?? 0)) / ((performance.now() - began) / 1000));
  const memory: number[] = [];
  for (const node of nodes) memory.push(await memoryOf(node));
  const present = (await identityNames()).length;
  if (present < size.identities)
    throw new Error(
      `${present} identities were there at the end, not ${size.identities}: the memory is not that of so many.`,
    );
  const at = `at ${size.pods} pods, ${size.services} services, ${size.identities} identities`;
  return [
    absolute(`agent's resident memory ${at}`, Math.max(...memory), 'MiB', 60, 'most'),
    absolute('agent, start to ready in that cluster', median(ready), 's', 2, 'most'),
    absolute('agent idle there, of one processor', median(shares) * 100, '%', 1, 'most'),
    absolute("the agent's binary", statSync(join(root, 'dist/fairlead-agent')).size / 1e6, 'MB', 45, 'most'),
  ];
}
