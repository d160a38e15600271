import type { Failure, Plan, Values } from '../../../contract/index.ts';
import { type KubeObject, type ResourceType, resources } from '../kube/cluster-connection.ts';
import { difference, digestOf, shown } from './diff.ts';
import { type ClusterFacts, installedImage } from './facts.ts';
import { embeddedWarnings } from './foreign.ts';
import type { ImageArchive } from './image.ts';
import { nodeHasImage } from './image.ts';
import { type ProxyPlan, type ProxyWish, planProxy } from './kube-proxy.ts';
import { type Rendered, renderCleanup } from './manifests.ts';
import { modeChangeWarnings } from './mode-change.ts';
import { agentNamespace, configName } from './names.ts';
import { checkValues } from './values.ts';

export type PlanAction = Plan['action'];

/** Everything a plan is made of. All of it is read before, nothing is asked while planning. */
export interface PlanInput {
  readonly action: PlanAction;
  readonly values: Values;
  readonly facts: ClusterFacts;
  readonly image: ImageArchive | undefined;
  /** Rendered objects without definitions and secrets. */
  readonly objects: readonly Rendered[];
  readonly definitions: readonly KubeObject[];
  /** Placeholders of the secrets that would be made; empty when they stay. */
  readonly secrets: readonly KubeObject[];
  /** Why the secrets are made. */
  readonly secretsReason: string | undefined;
  /** Live objects by `keyOf`. */
  readonly live: ReadonlyMap<string, KubeObject>;
  /** Rights that are missing. */
  readonly rights: readonly Failure[];
  /** Order of the nodes. */
  readonly batches: Plan['batches'];
  /** Objects that do not belong to these values, such as a relay that is switched off: those that are there go. */
  readonly unwanted: readonly Rendered[];
  /** Pods to be restarted, because another plugin gave them their network. */
  readonly restarts: Plan['restarts'];
  /** What stands in the way of just this action, e.g. that there is nothing to go back to. */
  readonly hindrances?: readonly Failure[];
  /** What the operator wants done with kube-proxy. */
  readonly kubeProxy?: ProxyWish | undefined;
  /** Nodes that its removal goes on without where they do not answer. */
  readonly leaveOut?: readonly string[] | undefined;
}

/** Key of an object among all kinds. */
export function keyOf(kind: string, name: string, namespace = ''): string {
  return `${kind} ${namespace}/${name}`;
}

function keyOfObject(type: ResourceType, object: KubeObject): string {
  return keyOf(type.kind, object.metadata.name, type.namespaced ? (object.metadata.namespace ?? '') : '');
}

/** All objects of an installation with their types, in the order of applying. */
export function allObjects(input: Pick<PlanInput, 'objects' | 'definitions' | 'secrets'>): readonly Rendered[] {
  const workloads = input.objects.filter(({ type }) => type.kind === 'DaemonSet');
  const others = input.objects.filter(({ type }) => type.kind !== 'DaemonSet');
  return [
    ...input.definitions.map((object) => ({ type: resources.customResourceDefinitions, object })),
    ...others,
    ...input.secrets.map((object) => ({ type: resources.secrets, object })),
    ...workloads,
  ];
}

/** The DaemonSet that an uninstall makes and removes again; it runs the image that the nodes have. */
export function cleanupOf({ facts, image, values }: Pick<PlanInput, 'facts' | 'image' | 'values'>): Rendered {
  return renderCleanup(values, installedImage(facts) ?? image?.reference ?? '');
}

/** What becomes of kube-proxy with this plan. */
export function proxyPlanOf({
  facts,
  action,
  values,
  kubeProxy,
  leaveOut,
}: Pick<PlanInput, 'facts' | 'action' | 'values' | 'kubeProxy' | 'leaveOut'>): ProxyPlan {
  const silent = facts.machines.filter((machine) => machine.silent && machine.os === 'linux');
  return planProxy(
    facts.proxy,
    action,
    values,
    kubeProxy,
    silent.map(({ name }) => name),
    leaveOut,
  );
}

/** The nodes that a plan is about: all but those that it leaves out. */
export function machinesOf(input: Parameters<typeof proxyPlanOf>[0]): ClusterFacts['machines'] {
  const { leavesOut = [] } = proxyPlanOf(input);
  return input.facts.machines.filter(({ name }) => !leavesOut.includes(name));
}

/** Why nodes cannot be left out as they were named; a misspelt one must not pass for one that is. */
function leaveOutObstacles({ facts, kubeProxy, leaveOut = [] }: PlanInput): readonly Failure[] {
  if (leaveOut.length > 0 && kubeProxy !== 'remove')
    return [
      {
        code: 'install.leave-out-needs-removal',
        what: `${leaveOut.join(', ')} cannot be left out.`,
        why: 'Only the removal of kube-proxy goes on without nodes that do not answer; everything else reaches them when they are back.',
        fix: 'Remove kube-proxy with this plan, or leave nobody out.',
      },
    ];
  const unknown = leaveOut.filter((node) => !facts.machines.some(({ name }) => name === node));
  if (unknown.length === 0) return [];
  return [
    {
      code: 'install.leave-out-unknown',
      what: `There is no node ${unknown.join(', ')} that could be left out.`,
      why: `The cluster’s nodes are ${facts.machines.map(({ name }) => name).join(', ')}.`,
      fix: 'Give the name as `kubectl get nodes` has it.',
    },
  ];
}

const proxyChanges: Readonly<Record<Plan['kubeProxy']['change'], readonly string[]>> = {
  none: [],
  remove: ['At the end kube-proxy’s pod goes, and its chains are removed.'],
  restore: ['kube-proxy’s pod comes back first.'],
};

function nodePlans(input: PlanInput, proxy: ProxyPlan): Plan['nodes'] {
  const { facts, image, action, values } = input;
  return facts.machines.map((machine) => {
    if (proxy.leavesOut?.includes(machine.name))
      return { name: machine.name, changes: ['Left out: it does not answer.'], image: 'unknown' };
    if (action === 'uninstall')
      return {
        name: machine.name,
        changes: [
          ...proxyChanges[proxy.change],
          'Everything that the agent changed is undone from its journal, newest first: programs, pins, links, routes, rules, files.',
          'The node has no pod network afterwards and becomes NotReady; running pods lose theirs.',
        ],
        image: 'present',
      };
    const present = image !== undefined && (action === 'rollback' || nodeHasImage(machine.images, image));
    const order = input.batches.findIndex((batch) => batch.includes(machine.name));
    const pods = input.restarts.filter((pod) => pod.node === machine.name && pod.controlled).length;
    const changes = [
      ...(input.batches.length > 1 && order >= 0
        ? [order === 0 ? 'Goes first, alone (canary).' : `Goes in batch ${order} of ${input.batches.length - 1}.`]
        : []),
      ...(pods > 0 ? [`${pods} pods that another plugin connected are restarted.`] : []),
      ...(present || !image
        ? []
        : [`Image ${image.reference} (${Math.ceil(image.bytes / 1e6)} MB) is copied over SSH into containerd.`]),
      'CNI plugin /opt/cni/bin/fairlead-cni and configuration /etc/cni/net.d/05-fairlead.conflist are written.',
      `BPF programs are attached to pod interfaces${values.kubeProxyReplacement ? ', to the cgroup (services)' : ''} and to the node's devices; maps are pinned in /sys/fs/bpf/fairlead.`,
      values.routingMode === 'tunnel'
        ? `A ${values.tunnelProtocol === 'geneve' ? 'Geneve' : 'VXLAN'} device is made (UDP ${values.tunnelPort || (values.tunnelProtocol === 'geneve' ? 6081 : 8472)}).`
        : values.autoDirectNodeRoutes
          ? "Routes to the other nodes' pod CIDRs are added."
          : 'No routes are added: the network has to have them.',
      ...proxyChanges[proxy.change],
    ];
    return { name: machine.name, changes, image: present ? 'present' : machine.ssh ? 'side-load' : 'unknown' };
  });
}

function nodeObstacles(input: PlanInput): readonly Failure[] {
  const { facts, image } = input;
  const names = (machines: ClusterFacts['machines']) => machines.map((machine) => machine.name).join(', ');
  const obstacles: Failure[] = [];
  if (facts.machines.length === 0)
    obstacles.push({
      code: 'install.no-nodes',
      what: 'The cluster has no nodes.',
      why: 'No kubelet has registered.',
      fix: 'Add nodes to the cluster first.',
    });
  const foreignSystem = facts.machines.filter((machine) => machine.os !== 'linux');
  const linux = facts.machines.filter((machine) => machine.os === 'linux');
  if (foreignSystem.length > 0 && linux.length === 0)
    obstacles.push({
      code: 'install.no-linux',
      what: 'No node runs Linux.',
      why: 'The agent works with eBPF, which only Linux has.',
      fix: 'Add Linux nodes.',
    });
  const withoutCIDR = linux.filter((machine) => machine.podCIDRs.length === 0);
  if (withoutCIDR.length > 0)
    obstacles.push({
      code: 'install.no-pod-cidr',
      what: `No pod CIDR is assigned to ${names(withoutCIDR)}.`,
      why: 'With ipam.mode=kubernetes pods get their addresses out of spec.podCIDR of their node, and nobody has set it.',
      fix: withoutCIDR.every(({ version }) => version.includes('-eks-'))
        ? 'EKS’ control plane assigns none and cannot be told to: run a controller that writes spec.podCIDR of every node, or leave this cluster to the VPC’s own plugin.'
        : 'Start kube-controller-manager with --allocate-node-cidrs=true and --cluster-cidr (kubeadm: podSubnet).',
    });
  if (!image) {
    obstacles.push({
      code: 'install.no-image',
      what: 'This console carries no agent image.',
      why: 'No archive was found beside the program (dist/fairlead-agent.tar).',
      fix: 'Build it with `node scripts/build-agent.mjs`.',
    });
    return obstacles;
  }
  // What ran before is on the nodes.
  if (input.action === 'rollback') return obstacles;
  const unreachable = linux.filter((machine) => !nodeHasImage(machine.images, image) && !machine.ssh);
  if (unreachable.length > 0)
    obstacles.push({
      code: 'install.image-unreachable',
      what: `The agent image cannot be brought to ${names(unreachable)}.`,
      why: 'The node does not have it, the SSH configuration names no way to the node, and there is no registry to pull it from.',
      fix: `Add a Host for the node to your SSH configuration (its name, or a HostName of ${unreachable[0]?.address ?? 'its address'}), or load the image by hand: ctr -n k8s.io images import fairlead-agent.tar.`,
    });
  return obstacles;
}

function foreignObstacles(facts: ClusterFacts): readonly Failure[] {
  return facts.foreign.map(({ product, namespace, name, fix }) => ({
    code: 'install.other-network',
    what: `${product} serves this cluster's pods (${namespace === '' ? name : `DaemonSet ${namespace}/${name}`}).`,
    why: 'Two pod networks on one node break both; Fairlead never starts beside another one.',
    fix: fix ?? `Remove ${product} first. Fairlead can observe and govern a Cilium cluster without its own agent.`,
  }));
}

/** Compares what should be with what is. Pure; nothing is asked and nothing is written. */
export function makePlan(input: PlanInput): Plan {
  const { action, values, facts, live } = input;
  const objects: Plan['objects'][number][] = [];
  const warnings: string[] = [];
  const obstacles: Failure[] = [...input.rights, ...(input.hindrances ?? [])];
  const proxy = proxyPlanOf(input);

  if (action === 'uninstall') {
    for (const { type, object } of allObjects(input).toReversed()) {
      const there = live.get(keyOfObject(type, object));
      if (!there) continue;
      const kept = type.kind === 'CustomResourceDefinition';
      const full = { ...there, apiVersion: object.apiVersion, kind: object.kind } as KubeObject;
      const before = kept ? '' : shown(full);
      objects.push({
        kind: type.kind,
        namespace: object.metadata.namespace ?? '',
        name: object.metadata.name,
        action: kept ? 'unchanged' : 'delete',
        before,
        after: '',
      });
    }
    if (facts.installed || facts.cleanup) {
      const { type, object } = cleanupOf(input);
      // After the agents' own DaemonSet, which goes first.
      objects.splice(facts.installed ? 1 : 0, 0, {
        kind: type.kind,
        namespace: object.metadata.namespace ?? '',
        name: object.metadata.name,
        ...difference(live.get(keyOfObject(type, object)), object),
      });
      warnings.push(
        `The DaemonSet ${object.metadata.name} undoes every change on the nodes; it is removed again at the end.`,
      );
      if (!facts.installed)
        warnings.push('An uninstall has broken off here: this one goes on with it, and does all of it again.');
    } else
      obstacles.push({
        code: 'install.not-installed',
        what: 'Fairlead is not installed in this cluster.',
        why: `There is no DaemonSet fairlead-agent in ${agentNamespace}.`,
        fix: 'Nothing to do.',
      });
    warnings.push(
      'The custom resource definitions stay, and with them every policy: deleting them would delete all objects of their kinds. Remove them by hand with kubectl delete crd if nobody needs them.',
      'Pods keep running but have no network until another one is installed.',
    );
  } else {
    const keys = input.image?.agentKeys;
    // kube-proxy that comes back is there before anything else is changed; one that goes is nobody to rely on.
    const seen = { ...facts, kubeProxy: proxy.change === 'none' ? facts.kubeProxy : proxy.change === 'restore' };
    const checked = checkValues(values, keys ? { ...seen, agentKeys: keys } : seen);
    if (facts.cleanup && !facts.installed)
      obstacles.push({
        code: 'install.uninstall-unfinished',
        what: 'An uninstall has not been finished in this cluster.',
        why: `The DaemonSet ${facts.cleanup.metadata.name} is still there, and would undo on every node what is installed.`,
        fix: 'Uninstall once more, which finishes it; then install.',
      });
    obstacles.push(
      ...checked.obstacles,
      ...nodeObstacles({ ...input, facts: { ...facts, machines: machinesOf(input) } }),
      ...foreignObstacles(facts),
      ...leaveOutObstacles(input),
    );
    warnings.push(...checked.warnings, ...embeddedWarnings(facts.machines));
    for (const { type, object } of allObjects(input)) {
      const change = difference(type.kind === 'Secret' ? undefined : live.get(keyOfObject(type, object)), object);
      const replaces = type.kind === 'Secret' && live.has(keyOfObject(type, object));
      objects.push({
        kind: type.kind,
        namespace: object.metadata.namespace ?? '',
        name: object.metadata.name,
        ...change,
        ...(replaces ? { action: 'update' as const, before: change.after } : {}),
      });
    }
    for (const { type, object } of input.unwanted) {
      const there = live.get(keyOfObject(type, object));
      if (!there) continue;
      const { name, namespace = '' } = object.metadata;
      const before = shown({ ...there, apiVersion: object.apiVersion ?? '', kind: type.kind });
      objects.push({ kind: type.kind, namespace, name, action: 'delete', before, after: '' });
    }
    if (action === 'upgrade' && !facts.installed)
      warnings.push('Fairlead is not installed yet: this upgrade is an installation.');
    if (input.secretsReason && live.has(keyOf('Secret', 'fairlead-tls', agentNamespace)))
      warnings.push(`The certificates are made anew because ${input.secretsReason}.`);
    warnings.push(...modeChangeWarnings(values, live.get(keyOf('ConfigMap', configName, agentNamespace))));
    const notReady = facts.machines.filter((machine) => !machine.ready);
    if (notReady.length > 0 && facts.installed)
      warnings.push(`Not ready at the moment: ${notReady.map((machine) => machine.name).join(', ')}.`);
  }

  if (proxy.change === 'restore') objects.unshift(...proxy.objects);
  else objects.push(...proxy.objects);
  obstacles.push(...proxy.obstacles);
  warnings.push(...proxy.warnings);
  const nodes = nodePlans(input, proxy);
  const { batches, restarts } = input;
  const uncontrolled = restarts.filter((pod) => !pod.controlled);
  if (uncontrolled.length > 0 && action !== 'uninstall')
    warnings.push(
      `Nobody would make these pods again, so they are left to you: ${uncontrolled.map((pod) => `${pod.namespace}/${pod.name}`).join(', ')}.`,
    );
  const image = input.image?.digest ?? input.image?.reference ?? '';
  const { kind, text, unfinished, leftOut } = facts.proxy;
  const { silent = [], leavesOut = [], change } = proxy;
  const kubeProxy = { kind, text, unfinished: unfinished || leftOut.length > 0, change, silent, leavesOut };
  // A node's changes follow from the rest. Whether it holds the image does not make another plan: a kubelet tells of one
  // that was brought only after a while.
  const names = nodes.map((node) => node.name);
  const digest = digestOf({ action, values, objects, names, obstacles, image, batches, restarts, kubeProxy });
  return { digest, action, objects, nodes, batches, restarts, kubeProxy, obstacles, warnings };
}
