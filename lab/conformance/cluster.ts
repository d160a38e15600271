/** The cluster that the tests run against. */
import { join } from 'node:path';
import { kubectl, lab, must, on, root } from '../client.ts';

/** What `lab conformance` prints. */
export interface Built {
  readonly suite: string;
  readonly images: string;
  readonly kubectl: string;
  readonly kubernetes: string;
}

const nodes = ['node1', 'node2', 'node3'];
const archives = ['agnhost', 'dnsutils', 'busybox', 'nginx', 'regression', 'pause'];

/**
 * The lab with the agent, the suite's images on every node, and a zone for every node. With `dualStack` nodes, pods and
 * services have both families; the values then say `ipv6.enabled=true`. With `use` it is the lab that is up.
 */
export async function start(
  built: Built,
  values: readonly string[],
  { use, dualStack }: { readonly use: boolean; readonly dualStack: boolean },
): Promise<void> {
  if (!use) {
    await must(process.execPath, [join(root, 'scripts/build-agent.mjs')], { echo: true, seconds: 1200 });
    await lab(['down']);
    await lab(['up', '--nodes', String(nodes.length), '--cni', 'fairlead', ...(dualStack ? ['--dual-stack'] : [])], {
      echo: true,
    });
    const installer = join(root, 'scripts/install-agent.mjs');
    const set = values.flatMap((value) => ['--set', value]);
    await must(process.execPath, [installer, '--lab', ...set], { echo: true, seconds: 300 });
  }
  await lab(['load', ...archives.map((name) => join(built.images, `${name}.tar`))]);
  for (const [index, node] of nodes.entries()) {
    // An API server proxies to pods. As with any control plane beside the cluster's nodes, somebody has to route them.
    const path = '{.spec.podCIDRs[*]}{"\\n"}{.status.addresses[?(@.type=="InternalIP")].address}';
    const lines = await kubectl(['get', 'node', node, '-o', `jsonpath=${path}`]);
    for (const [range, via] of routesOf(lines)) await on('cp', ['ip', 'route', 'replace', range, 'via', via]);
    await kubectl(['label', '--overwrite', 'node', node, `topology.kubernetes.io/zone=zone-${index + 1}`]);
  }
  await kubectl(['-n', 'kube-system', 'rollout', 'status', 'deployment/coredns', '--timeout=120s']);
}

/** The pod ranges of a node (first line) with its address of the same family (second line); none where it has no such address. */
export function routesOf(lines: string): (readonly [range: string, via: string])[] {
  const [ranges = [], addresses = []] = lines.split('\n').map((line) => line.trim().split(/\s+/));
  return ranges.flatMap((range) => {
    const via = addresses.find((address) => address.includes(':') === range.includes(':'));
    return via === undefined ? [] : [[range, via] as const];
  });
}

/** What was tested, as the table's heading. */
export async function subject(built: Built, values: readonly string[], dualStack: boolean): Promise<string[]> {
  const image = await kubectl([
    ...['-n', 'kube-system', 'get', 'daemonset', 'fairlead-agent'],
    ...['-o', 'jsonpath={.spec.template.spec.containers[0].image}'],
  ]);
  const kernel = (await on('node1', ['uname', '-r'])).trim();
  const set = values.length === 0 ? 'default values' : values.join(', ');
  return [
    '# Conformance',
    '',
    `Kubernetes ${built.kubernetes}’s own end-to-end tests of sig-network, built from the Kubernetes module, against the lab`,
    `(${nodes.length} nodes${dualStack ? ' of both families' : ''}, no kube-proxy) with \`${image.split('/').at(-1) ?? ''}\`, ${set}, Linux ${kernel.replace(/-.*/, '')}.`,
    'Made by `npm run conformance`.',
  ];
}
