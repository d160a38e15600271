import { join } from 'node:path';
import { inLab, kubectl, lab, must, root } from '../lab/client.ts';

/** How a cluster of the lab is networked while it is measured. */
export type Network = 'bridge' | 'kube-proxy-iptables' | 'kube-proxy-nftables' | 'fairlead-tunnel' | 'fairlead-native';

/** Creates objects given as values; faster than apply where there are thousands. */
export async function create(objects: readonly unknown[]): Promise<void> {
  await kubectl(['create', '-f', '-'], { input: JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects }) });
}

/** Brings the lab up with a network; takes down what was there. `values` are of the installation. */
export async function up(network: Network, values: readonly string[] = []): Promise<void> {
  process.stderr.write(`\n== ${network}\n`);
  await lab(['down']);
  if (!network.startsWith('fairlead')) {
    const proxy = network === 'bridge' ? [] : [`--kube-proxy=${network.slice('kube-proxy-'.length)}`];
    await lab(['up', '--nodes', '2', '--cni', 'bridge', ...proxy], { echo: true });
    return;
  }
  await lab(['up', '--nodes', '2', '--cni', 'fairlead'], { echo: true });
  const native = ['routingMode=native', 'autoDirectNodeRoutes=true', 'ipv4NativeRoutingCIDR=10.77.0.0/16'];
  const set = [...(network === 'fairlead-native' ? native : []), ...values].flatMap((value) => ['--set', value]);
  await must(process.execPath, [join(root, 'scripts/install-agent.mjs'), '--lab', ...set], {
    echo: true,
    seconds: 300,
  });
}

/** Several clusters that are up at once, by name, so that measurements of them can take turns. */
export interface Clusters<N extends string> {
  /** Does something in one of them. */
  within<T>(name: N, fn: () => Promise<T>): Promise<T>;
}

/**
 * Brings up one cluster for each name, gets each ready, and takes all of them down at the end. What is compared is
 * measured within seconds of each other in this way, and not minutes later on a machine that does something else by then.
 */
export async function sideBySide<N extends string, T>(
  networks: Readonly<Record<N, Network>>,
  prepare: (network: Network) => Promise<void>,
  fn: (clusters: Clusters<N>) => Promise<T>,
): Promise<T> {
  const base = (await lab(['run-directory'])).trim();
  const within = <R>(name: N, work: () => Promise<R>): Promise<R> => inLab(`${base}-${name}`, work);
  const names = Object.keys(networks) as N[];
  try {
    for (const name of names)
      await within(name, async () => {
        await up(networks[name]);
        await prepare(networks[name]);
      });
    return await fn({ within });
  } finally {
    for (const name of names)
      await within(name, () => lab(['down'])).catch((error: unknown) =>
        process.stderr.write(`the cluster ${name} did not go down: ${String(error)}\n`),
      );
  }
}
