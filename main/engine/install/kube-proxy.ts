import { parse, stringify } from 'yaml';
import type { Failure, Plan, Values } from '../../../contract/index.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import { difference, shown } from './diff.ts';
import type { Rendered } from './manifests.ts';
import { agentNamespace, labels } from './names.ts';

/** ConfigMap that keeps kube-proxy's DaemonSet while it is away: any console can bring it back. */
export const proxyBackupName = 'fairlead-kube-proxy';
/** A selector that no node matches: a DaemonSet with it runs nowhere. */
const awayLabel = 'fairlead.dev/kube-proxy';

/** Who translates service addresses beside the agent, and what is known of it. */
export interface ProxyFacts {
  /**
   * daemonset: can be taken away and brought back. removed: taken away by Fairlead. static: pods that a file on each node
   * makes. embedded: a part of another program. none: nobody does it.
   */
  readonly kind: Plan['kubeProxy']['kind'];
  readonly namespace: string;
  readonly name: string;
  /** Its DaemonSet as it is. */
  readonly set: KubeObject | undefined;
  /** Its DaemonSet as it was when it was taken away. */
  readonly saved: KubeObject | undefined;
  /** Taking it away was begun and has not ended: rules may still be on nodes. */
  readonly unfinished: boolean;
  /** Nodes of the cluster that its removal has left out, because they did not answer. */
  readonly leftOut: readonly string[];
  /** Services with external addresses, as namespace/name: pods reach these by kube-proxy. */
  readonly external: readonly string[];
  readonly text: string;
}

interface DaemonSet extends KubeObject {
  readonly spec?: {
    readonly template?: {
      readonly metadata?: { readonly labels?: Readonly<Record<string, string>> };
      readonly spec?: ProxyPodSpec;
    };
  };
  readonly status?: { readonly desiredNumberScheduled?: number };
}

/** What of kube-proxy's pod the cleaning one takes over. */
export interface ProxyPodSpec {
  readonly nodeSelector?: Readonly<Record<string, string>>;
  readonly containers?: readonly (Readonly<Record<string, unknown>> & {
    readonly name: string;
    readonly image?: string;
    readonly command?: readonly string[];
  })[];
  readonly [field: string]: unknown;
}

interface ConfigMap extends KubeObject {
  readonly data?: Readonly<Record<string, string>>;
}

/** What of the cluster decides about kube-proxy. */
export interface ProxySources {
  readonly daemonSets: readonly KubeObject[];
  readonly backup: KubeObject | undefined;
  /** Pods of kube-proxy that a kubelet made by itself. */
  readonly staticPods: readonly KubeObject[];
  readonly machines: readonly {
    readonly name?: string;
    readonly version: string;
    readonly arguments: readonly string[];
  }[];
  readonly services?: readonly KubeObject[];
}

const isProxy = (set: DaemonSet) =>
  (set.metadata.name === 'kube-proxy' || set.spec?.template?.metadata?.labels?.['k8s-app'] === 'kube-proxy') &&
  set.spec?.template?.spec?.nodeSelector?.['kubernetes.io/os'] !== 'windows';

const hasExternalAddress = (service: KubeObject) =>
  ((service as { readonly spec?: { readonly externalIPs?: readonly string[] } }).spec?.externalIPs ?? []).length > 0;

function savedSet(backup: ConfigMap | undefined): KubeObject | undefined {
  try {
    return backup ? (parse(backup.data?.['daemonset.yaml'] ?? '') as KubeObject) : undefined;
  } catch {
    return undefined;
  }
}

/** Recognises who translates service addresses. Pure. */
export function proxyFacts({ daemonSets, backup, staticPods, machines, services = [] }: ProxySources): ProxyFacts {
  const set = (daemonSets as readonly DaemonSet[]).find(isProxy);
  const saved = savedSet(backup);
  const external = services.filter(hasExternalAddress).map(({ metadata }) => `${metadata.namespace}/${metadata.name}`);
  const left = ((backup as ConfigMap | undefined)?.data?.leftOut ?? '').split(',').filter(Boolean);
  const leftOut = left.filter((node) => machines.some(({ name }) => name === node));
  const none = { namespace: '', name: '', set, saved, unfinished: false, leftOut: [], external };
  const unfinished = saved !== undefined && (backup as ConfigMap | undefined)?.data?.state !== 'removed';
  const runs = set !== undefined && (set.status?.desiredNumberScheduled ?? 1) > 0;
  if (saved && (unfinished || !runs)) {
    const { name, namespace = agentNamespace } = saved.metadata;
    return {
      ...none,
      kind: 'removed',
      namespace,
      name,
      unfinished,
      leftOut,
      text: unfinished
        ? `Taking the DaemonSet ${namespace}/${name} away was begun and has not ended: its rules may still be on some nodes. Go on, or bring it back.`
        : `Fairlead has taken the DaemonSet ${namespace}/${name} away. ConfigMap ${agentNamespace}/${proxyBackupName} keeps it; it can be brought back.${leftOut.length > 0 ? ` Left out, because no answer came: ${leftOut.join(', ')}. Its rules may still be there: go on removing it when they answer again.` : ''}`,
    };
  }
  if (runs) {
    const { name, namespace = agentNamespace } = set.metadata;
    return {
      ...none,
      kind: 'daemonset',
      namespace,
      name,
      text: `The DaemonSet ${namespace}/${name} translates service addresses as well${saved ? ': somebody else has brought it back after Fairlead had taken it away' : ''}. It can stay, or be taken away once the agents do it.`,
    };
  }
  if (staticPods.length > 0)
    return {
      ...none,
      kind: 'static',
      text: `kube-proxy runs as a static pod (${staticPods[0]?.metadata.name}): the kubelets make it from a file on each node, so it is not Fairlead's to remove. Start the servers with disable-kube-proxy: true (RKE2), or take the file away.`,
    };
  const k3s = machines.length > 0 && machines.every(({ version }) => version.includes('+k3s'));
  if (k3s && !machines.some(({ arguments: all }) => isSet(all, 'disable-kube-proxy')))
    return {
      ...none,
      kind: 'embedded',
      text: 'kube-proxy is a part of the k3s process and cannot be removed from outside. To be rid of it, start the k3s servers with --disable-kube-proxy; left in, both translate services, which works.',
    };
  return { ...none, kind: 'none', text: 'No kube-proxy runs in this cluster.' };
}

/** Is a switch on in a command line of k3s or RKE2, "--switch", "--switch=true" or "--switch true"? */
export function isSet(line: readonly string[], name: string): boolean {
  const at = line.findIndex((word) => word === `--${name}` || word.startsWith(`--${name}=`));
  if (at < 0) return false;
  const word = line[at] ?? '';
  const value = word.includes('=') ? word.split('=')[1] : line[at + 1];
  return value !== 'false';
}

/** What the operator wants done with it. */
export type ProxyWish = 'keep' | 'remove' | 'restore';

/** What a plan does with kube-proxy, and what stands in its way. */
export interface ProxyPlan {
  readonly change: Plan['kubeProxy']['change'];
  readonly objects: Plan['objects'];
  readonly obstacles: readonly Failure[];
  readonly warnings: readonly string[];
  /** Nodes that do not answer, and stand in the way. */
  readonly silent?: readonly string[];
  /** Nodes that do not answer, and are left out as the operator wants it. */
  readonly leavesOut?: readonly string[];
}

/** The DaemonSet without what the API server keeps for itself, as it is put back. */
export function proxyManifest(set: KubeObject): KubeObject {
  const { spec } = set as { readonly spec?: unknown };
  const { name, namespace, labels: own, annotations } = set.metadata;
  const kept = Object.fromEntries(
    Object.entries(annotations ?? {}).filter(([key]) => !key.startsWith('deprecated.daemonset.template.')),
  );
  return {
    apiVersion: 'apps/v1',
    kind: 'DaemonSet',
    metadata: { name, ...(namespace ? { namespace } : {}), ...(own ? { labels: own } : {}), annotations: kept },
    spec,
  } as KubeObject;
}

/** The ConfigMap that keeps it, and which nodes its removal has left out. */
export function proxyBackup(set: KubeObject, state: 'removing' | 'removed', leftOut: readonly string[] = []): Rendered {
  return {
    type: resources.configMaps,
    object: {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: proxyBackupName, namespace: agentNamespace, labels },
      data: {
        state,
        ...(leftOut.length > 0 ? { leftOut: leftOut.join(',') } : {}),
        'daemonset.yaml': stringify(proxyManifest(set), { lineWidth: 0, aliasDuplicateObjects: false }),
      },
    } as KubeObject,
  };
}

/**
 * kube-proxy's DaemonSet with the selector that sends it away, or without it. The object itself stays, with its owner
 * and its history; nobody who looks after it finds it missing. Pure.
 */
export function proxySent<T extends KubeObject>(set: T, away: boolean): T {
  const copy = structuredClone(set) as T & {
    readonly spec: { readonly template: { readonly spec: { nodeSelector?: Readonly<Record<string, string>> } } };
  };
  const { spec } = copy.spec.template;
  const { [awayLabel]: _gone, ...others } = spec.nodeSelector ?? {};
  if (away) spec.nodeSelector = { ...others, [awayLabel]: 'replaced' };
  else if (Object.keys(others).length > 0) spec.nodeSelector = others;
  else delete spec.nodeSelector;
  return copy;
}

function refusal(code: string, what: string, why: string, fix: string): ProxyPlan {
  return { change: 'none', objects: [], obstacles: [{ code: `install.${code}`, what, why, fix }], warnings: [] };
}

const keeps: ProxyPlan = { change: 'none', objects: [], obstacles: [], warnings: [] };

/** What to do about nodes that do not answer while kube-proxy is to go. */
export function aboutSilent(names: readonly string[]): string {
  const deletion = names.map((name) => `kubectl delete node ${name}`).join('; ');
  return `Start ${names.join(', ')} again; or, if that does not come back, take it out of the cluster (${deletion}), and boot it anew before it joins again. Then make the plan again.`;
}

/** What pods lose with kube-proxy, by the values as they are. */
function lostWith({ external }: ProxyFacts, values: Values): readonly string[] {
  if (external.length === 0 || (values.externalIPs.enabled && values.externalIPs.fromPods)) return [];
  const some = external.slice(0, 3).join(', ');
  const named = external.length > 3 ? `${some} and ${external.length - 3} more` : some;
  return [
    `Pods reach the external addresses of ${named} by kube-proxy; agents serve ${values.externalIPs.enabled ? 'only clients outside there. If pods rely on it, set externalIPs.fromPods' : 'nobody there. If anybody relies on it, set externalIPs.enabled, for pods externalIPs.fromPods too'}.`,
  ];
}

/** What it means to go on without nodes that do not answer. */
function leavesOutText(names: readonly string[]): string {
  const one = names.length === 1;
  return `${names.join(', ')} ${one ? 'does' : 'do'} not answer and ${one ? 'is' : 'are'} left out. Nobody can tell whether the agent there translates services, and nothing is done there now. When the kubelet is back, kube-proxy’s pod ends and none comes up any more: the agent translates services there, once it has what this plan gives it (an image that is brought over SSH has to be brought then). Until the node is booted anew, rules that kube-proxy has left stay as they were: go on removing it when the node answers.`;
}

function planRemoval(
  facts: ProxyFacts,
  values: Values,
  dead: readonly string[],
  leaveOut: readonly string[],
): ProxyPlan {
  const leavesOut = dead.filter((node) => leaveOut.includes(node));
  const silent = dead.filter((node) => !leaveOut.includes(node));
  const { kind, namespace, name } = facts;
  const set = facts.set ?? facts.saved;
  if (kind === 'none') return keeps;
  if ((kind !== 'daemonset' && kind !== 'removed') || !set)
    return refusal('kube-proxy', 'kube-proxy cannot be removed from here.', facts.text, 'Plan without removing it.');
  if (kind === 'removed' && !facts.unfinished && facts.leftOut.length === 0) return keeps;
  if (!values.kubeProxyReplacement)
    return refusal(
      'kube-proxy-needed',
      'Without kube-proxy nobody would translate service addresses.',
      'kubeProxyReplacement is off.',
      'Set kubeProxyReplacement to true, or leave kube-proxy.',
    );
  if (values.k8sServiceHost === '')
    return refusal(
      'value.k8sServiceHost',
      'k8sServiceHost is needed before kube-proxy may go.',
      'An agent that starts on a freshly booted node would have to translate the API server’s service address before it can ask the API server for it.',
      'Set k8sServiceHost and k8sServicePort to an address of the API server that every node reaches without services.',
    );
  if (silent.length > 0)
    return {
      ...refusal(
        'node-silent',
        `${silent.join(', ')} ${silent.length === 1 ? 'does' : 'do'} not answer, so kube-proxy cannot be removed there.`,
        'The kubelet has ceased to report: nobody on the node would end kube-proxy’s pod or remove its rules, and nobody can be asked whether the agent translates services.',
        `${aboutSilent(silent)} Or go on without ${silent.length === 1 ? 'it' : 'them'}: by the button beside kube-proxy, or with ${silent.map((node) => `--leave-out ${node}`).join(' ')}.`,
      ),
      silent,
    };
  const backup = proxyBackup(set, 'removing', leavesOut).object;
  const live = facts.set ? proxyManifest(facts.set) : undefined;
  return {
    change: 'remove',
    objects: [
      ...(facts.saved
        ? []
        : [
            {
              kind: 'ConfigMap',
              namespace: agentNamespace,
              name: proxyBackupName,
              ...difference(undefined, backup),
            },
          ]),
      ...(live ? [{ kind: 'DaemonSet', namespace, name, ...difference(live, proxySent(live, true)) } as const] : []),
    ],
    obstacles: [],
    leavesOut,
    warnings: [
      ...(leavesOut.length > 0 ? [leavesOutText(leavesOut)] : []),
      `When every agent translates services, ${namespace}/${name} is sent away by a selector that no node has, and a pod of its own image runs kube-proxy --cleanup on every node: the chains KUBE-* (nftables: its own tables) go, other rules stay. Where ip_vs is loaded it empties the IPVS table as a whole, as it always does.`,
      ...lostWith(facts, values),
      'Connections that kube-proxy has translated end where netfilter has no other address translation left (its nftables mode); those that agents translate go on. What is noticed is measured.',
    ],
  };
}

function planRestore(facts: ProxyFacts, wished: boolean): ProxyPlan {
  const { namespace, name, saved, set } = facts;
  if (!saved)
    return wished
      ? refusal(
          'kube-proxy-there',
          'There is no kube-proxy to bring back.',
          `There is no ConfigMap ${agentNamespace}/${proxyBackupName}: Fairlead has taken none away here.`,
          'Plan without it.',
        )
      : keeps;
  const back = proxySent(proxyManifest(set ?? saved), false);
  return {
    change: 'restore',
    objects: [
      { kind: 'DaemonSet', namespace, name, ...difference(set ? proxyManifest(set) : undefined, back) },
      {
        kind: 'ConfigMap',
        namespace: agentNamespace,
        name: proxyBackupName,
        action: 'delete',
        before: shown(proxyBackup(saved, facts.unfinished ? 'removing' : 'removed', facts.leftOut).object),
        after: '',
      },
    ],
    obstacles: [],
    warnings: [`kube-proxy comes back first: nothing else is changed before its rules are on every node.`],
  };
}

/** What is done with kube-proxy. An uninstall, and values that leave services to it, bring it back by themselves. Pure. */
export function planProxy(
  facts: ProxyFacts,
  action: Plan['action'],
  values: Values,
  wish: ProxyWish | undefined,
  /** Nodes whose kubelet does not report. */
  silent: readonly string[] = [],
  /** Those of them that the operator wants left out. */
  leaveOut: readonly string[] = [],
): ProxyPlan {
  const back = action === 'uninstall' || !values.kubeProxyReplacement || wish === 'restore';
  if (facts.saved && back && wish !== 'remove') return planRestore(facts, false);
  switch (wish) {
    case 'remove':
      return action === 'uninstall' ? planRestore(facts, false) : planRemoval(facts, values, silent, leaveOut);
    case 'restore':
      return planRestore(facts, true);
    case 'keep':
    case undefined:
      return keeps;
  }
}
