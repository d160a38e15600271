import type { Inventory } from '../../contract/clusters.ts';
import type { InstallProgress, InstallStep, Plan } from '../../contract/install.ts';
import { type Values, valuesSchema } from '../../contract/values.ts';

/** Values as the contract's defaults have them. */
export const defaultValues: Values = valuesSchema.parse({
  cluster: { name: 'galaxy' },
  k8sServiceHost: '10.20.0.1',
  k8sServicePort: 6443,
});

/** A plan with what an installation is made of. */
export function makePlan(action: Plan['action'], values: Values, inventory: Inventory, withObstacle: boolean): Plan {
  const objects: readonly (readonly [string, string, string])[] = [
    ['Namespace', '', 'fairlead'],
    ['CustomResourceDefinition', '', 'ciliumnetworkpolicies.cilium.io'],
    ['CustomResourceDefinition', '', 'ciliumendpoints.cilium.io'],
    ['ServiceAccount', 'fairlead', 'fairlead-agent'],
    ['ClusterRole', '', 'fairlead-agent'],
    ['ClusterRoleBinding', '', 'fairlead-agent'],
    ['Secret', 'fairlead', 'fairlead-tls'],
    ['ConfigMap', 'fairlead', 'fairlead-config'],
    ['DaemonSet', 'fairlead', 'fairlead-agent'],
  ];
  const before = 'routing-mode: tunnel\ndebug: "false"\n';
  const after = `routing-mode: ${values.routingMode}\ndebug: "${values.debug}"\nmasquerade: "${values.enableIPv4Masquerade}"\n`;
  return {
    digest: 'sha256:5f0c2d',
    action,
    objects: objects.map(([kind, namespace, name]) => ({
      kind,
      namespace,
      name,
      action:
        action === 'install'
          ? 'create'
          : action === 'uninstall'
            ? 'delete'
            : kind === 'ConfigMap' || kind === 'DaemonSet'
              ? 'update'
              : 'unchanged',
      before:
        action === 'install'
          ? ''
          : `apiVersion: v1\nkind: ${kind}\nmetadata:\n  name: ${name}\n${kind === 'ConfigMap' ? `data:\n  ${before.replaceAll('\n', '\n  ').trimEnd()}\n` : ''}`,
      after:
        action === 'uninstall'
          ? ''
          : `apiVersion: v1\nkind: ${kind}\nmetadata:\n  name: ${name}\n${kind === 'ConfigMap' ? `data:\n  ${after.replaceAll('\n', '\n  ').trimEnd()}\n` : ''}`,
    })),
    nodes: inventory.nodes.map((node) => ({
      name: node.name,
      changes:
        action === 'uninstall'
          ? [
              'detach programs from 7 devices',
              'remove /etc/cni/net.d/05-fairlead.conflist',
              'unpin maps in /sys/fs/bpf/fairlead',
              'remove device fairlead_vxlan',
            ]
          : [
              'write /etc/cni/net.d/05-fairlead.conflist',
              'create device fairlead_vxlan',
              'pin maps in /sys/fs/bpf/fairlead',
            ],
      image: action === 'uninstall' ? 'present' : 'side-load',
    })),
    batches: [inventory.nodes.slice(0, 1).map((node) => node.name), inventory.nodes.slice(1).map((node) => node.name)],
    restarts: [],
    kubeProxy: {
      kind: 'daemonset',
      text: 'The DaemonSet kube-system/kube-proxy translates service addresses as well. It can stay, or be taken away once the agents do it.',
      change: 'none',
      unfinished: false,
      silent: withObstacle ? ['node2'] : [],
      leavesOut: [],
    },
    obstacles: withObstacle
      ? [
          {
            code: 'install.node-silent',
            what: 'node2 does not answer, so kube-proxy cannot be removed there.',
            why: 'The kubelet has ceased to report.',
            fix: 'Start node2 again; or go on without it: by the button beside kube-proxy.',
          },
          {
            code: 'install.no-btf',
            what: 'node3 cannot run the agent.',
            why: 'Its kernel 5.4.0 has no type information (BTF).',
            fix: 'Boot a kernel of 5.15 or newer with CONFIG_DEBUG_INFO_BTF=y on node3.',
          },
        ]
      : [],
    warnings: values.kubeProxyReplacement
      ? []
      : ['kube-proxy must stay: services will not be translated by the agent.'],
  };
}

/** Progress of an apply at a moment of its made-up course; `tick` counts from 0. */
export function makeProgress(action: InstallProgress['action'], inventory: Inventory, tick: number): InstallProgress {
  const titles: (readonly [string, string])[] = [
    ['Namespace, rights and definitions', ''],
    ['Certificates', ''],
    ...inventory.nodes.map((node) => [`Image on ${node.name}`, node.name] as const),
    ['DaemonSet', ''],
    ...inventory.nodes.map((node) => [`Agent ready on ${node.name}`, node.name] as const),
  ];
  const steps: InstallStep[] = titles.map(([title, node], index) => {
    const state = index < tick ? 'done' : index === tick ? 'running' : 'waiting';
    return {
      id: `step-${index}`,
      title:
        action === 'uninstall'
          ? title.replace('Agent ready', 'Residue removed').replace('Image', 'Image removed')
          : title,
      node,
      state,
      message: state === 'running' ? 'waiting for the node' : state === 'done' ? '' : '',
      log:
        state === 'waiting'
          ? []
          : [`${title}: started`, ...(state === 'done' ? [`${title}: done in 0.${index + 2} s`] : [])],
      ...(state === 'waiting' ? {} : { startedAt: Date.now() - 900 }),
      ...(state === 'done' ? { endedAt: Date.now() - 200 } : {}),
    };
  });
  return { action, state: tick >= titles.length ? 'done' : 'running', steps };
}

/** Profiles as the engine offers them. */
export function makeProfiles() {
  const kubeadm = {
    id: 'kubeadm',
    title: 'kubeadm',
    text: 'podSubnet has to be set. kube-proxy may stay or be replaced.',
  };
  const lab = { id: 'lab', title: 'Bare lab', text: 'Machines on one link: native routing with a route per node.' };
  return [
    {
      ...lab,
      recognised: false,
      values: { ...defaultValues, routingMode: 'native' as const, autoDirectNodeRoutes: true },
    },
    { ...kubeadm, recognised: true, values: defaultValues },
  ];
}

/** What the engine would refuse, for one rule. */
export function checkFixture(values: Values) {
  const refused = values.installNoConntrackIptablesRules && !values.bpf.masquerade;
  return {
    obstacles: refused
      ? [
          {
            code: 'install.value.installNoConntrackIptablesRules',
            what: 'Pod traffic cannot skip the node’s connection tracking with these values.',
            why: 'It would be needed for masquerading with netfilter (bpf.masquerade is off).',
            fix: 'Set routingMode to native, and bpf.masquerade and kubeProxyReplacement to true; or switch it off.',
          },
        ]
      : [],
    warnings: values.l7Proxy ? [] : ['l7Proxy is off: policies with HTTP rules or names are refused on every node.'],
  };
}
