import { join } from 'node:path';
import { kubectl, lab, must, root } from '../lab/client.ts';

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
