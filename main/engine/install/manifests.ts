import { isIP } from 'node:net';
import { stringify } from 'yaml';
import {
  changedValues,
  consoleValues,
  defaultValues,
  type Values,
  valueAt,
  withValue,
} from '../../../contract/index.ts';
import { type KubeObject, type ResourceType, resources } from '../kube/cluster-connection.ts';
import { digestOf } from './diff.ts';
import {
  agentLabel,
  agentName,
  agentNamespace,
  cleanupName,
  configDigestAnnotation,
  configName,
  holdLabel,
  labels,
  scrapeAnnotations,
  serverSecret,
  valuesAnnotation,
} from './names.ts';

// What the agent needs is set down in node-agent/DEPLOYMENT.md; this file renders that page.

/** One object of an installation. */
export interface Rendered {
  readonly type: ResourceType;
  readonly object: KubeObject;
}

/** Fields beyond metadata are plain JSON; the API server is the judge of them. */
type Body = Readonly<Record<string, unknown>>;

export function rendered(
  type: ResourceType,
  name: string,
  body: Body,
  annotations?: Readonly<Record<string, string>>,
  own: Readonly<Record<string, string>> = labels,
): Rendered {
  const apiVersion = type.group === '' ? type.version : `${type.group}/${type.version}`;
  const metadata = {
    name,
    ...(type.namespaced ? { namespace: agentNamespace } : {}),
    labels: own,
    ...(annotations ? { annotations } : {}),
  };
  return { type, object: { apiVersion, kind: type.kind, metadata, ...body } as KubeObject };
}

const look = ['get', 'list', 'watch'] as const;

/** Kubernetes rights of the agent: what it watches, and what it keeps in the API server. */
export const agentRules: readonly Body[] = [
  { apiGroups: [''], resources: ['nodes', 'pods', 'namespaces', 'services'], verbs: look },
  { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: look },
  { apiGroups: ['networking.k8s.io'], resources: ['networkpolicies'], verbs: look },
  {
    apiGroups: ['cilium.io'],
    resources: ['ciliumnetworkpolicies', 'ciliumclusterwidenetworkpolicies', 'ciliumcidrgroups'],
    verbs: look,
  },
  {
    apiGroups: ['cilium.io'],
    resources: ['ciliumnetworkpolicies/status', 'ciliumclusterwidenetworkpolicies/status'],
    verbs: ['update', 'patch'],
  },
  {
    apiGroups: ['cilium.io'],
    resources: ['ciliumendpoints', 'ciliumidentities', 'ciliumnodes'],
    verbs: [...look, 'create', 'update', 'patch', 'delete'],
  },
  // Warnings on what it does not understand of others' objects.
  { apiGroups: [''], resources: ['events'], verbs: ['create'] },
  { apiGroups: ['apiextensions.k8s.io'], resources: ['customresourcedefinitions'], verbs: look },
];

/** Role in the agent's own namespace: leases for duties that one agent of the cluster has. */
export const leaseRules: readonly Body[] = [
  { apiGroups: ['coordination.k8s.io'], resources: ['leases'], verbs: ['get', 'create', 'update'] },
];

const mounts: readonly Body[] = [
  { name: 'config', mountPath: '/etc/fairlead', readOnly: true },
  { name: 'tls', mountPath: '/var/lib/fairlead/tls', readOnly: true },
  { name: 'bpffs', mountPath: '/sys/fs/bpf', mountPropagation: 'Bidirectional' },
  { name: 'cgroup', mountPath: '/host/sys/fs/cgroup', mountPropagation: 'HostToContainer' },
  { name: 'cni-bin', mountPath: '/host/opt/cni/bin' },
  { name: 'cni-net', mountPath: '/host/etc/cni/net.d' },
  { name: 'state', mountPath: '/var/lib/fairlead' },
  { name: 'run', mountPath: '/var/run/fairlead' },
  { name: 'hubble', mountPath: '/var/run/cilium' },
  { name: 'netns', mountPath: '/host/var/run/netns', mountPropagation: 'HostToContainer' },
];

function hostPath(name: string, path: string, type = 'DirectoryOrCreate'): Body {
  return { name, hostPath: { path, type } };
}

const volumes = (values: Values): readonly Body[] => [
  { name: 'config', configMap: { name: configName } },
  { name: 'tls', secret: { secretName: serverSecret, optional: true, defaultMode: 0o400 } },
  hostPath('bpffs', '/sys/fs/bpf'),
  hostPath('cgroup', '/sys/fs/cgroup', 'Directory'),
  hostPath('cni-bin', values.cni.binPath),
  hostPath('cni-net', values.cni.confPath),
  hostPath('state', '/var/lib/fairlead'),
  hostPath('run', '/var/run/fairlead'),
  hostPath('hubble', '/var/run/cilium'),
  hostPath('netns', '/var/run/netns'),
];

function probe(path: string, periodSeconds: number, failureThreshold: number): Body {
  return { httpGet: { host: '127.0.0.1', path, port: 9879, scheme: 'HTTP' }, periodSeconds, failureThreshold };
}

function field(name: string, fieldPath: string): Body {
  return { name, valueFrom: { fieldRef: { apiVersion: 'v1', fieldPath } } };
}

function port(name: string, number: number): Body {
  return { name, containerPort: number, hostPort: number, protocol: 'TCP' };
}

function podSpec(values: Values, image: string, args: readonly string[], container: Body): Body {
  return {
    serviceAccountName: agentName,
    hostNetwork: true,
    // A name of the API server has to be found before the cluster's own DNS is reachable: the node's is asked then.
    dnsPolicy:
      values.k8sServiceHost !== '' && isIP(values.k8sServiceHost) === 0 ? 'Default' : 'ClusterFirstWithHostNet',
    priorityClassName: 'system-node-critical',
    terminationGracePeriodSeconds: 5,
    nodeSelector: { 'kubernetes.io/os': 'linux' },
    tolerations: [{ operator: 'Exists' }],
    containers: [
      {
        name: 'agent',
        image,
        imagePullPolicy: 'IfNotPresent',
        args,
        env: [field('K8S_NODE_NAME', 'spec.nodeName'), field('K8S_NAMESPACE', 'metadata.namespace')],
        readinessProbe: probe('/healthz', 1, 3),
        resources: { requests: { cpu: '50m', memory: '64Mi' } },
        // bpffs is mounted from inside where a node has none, which the kubelet allows to privileged containers only.
        securityContext: { privileged: true },
        volumeMounts: mounts,
        ...container,
      },
    ],
    volumes: volumes(values),
  };
}

/** The agent's configuration: what differs from its own defaults, without what only the console uses. */
export function agentConfiguration(values: Values): string {
  const own = consoleValues.reduce<Values>(
    (all, path) => withValue(all, path, valueAt(defaultValues, path) ?? ''),
    values,
  );
  return stringify(changedValues(own), { lineWidth: 0 });
}

/** An installation goes node by node: nodes with this label have to wait. A node that joins later has none. */
function heldBack(spec: Body): Body {
  const matchExpressions = [{ key: holdLabel, operator: 'DoesNotExist' }];
  return {
    ...spec,
    affinity: {
      nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [{ matchExpressions }] } },
    },
  };
}

/** The same DaemonSet, but nothing of it is replaced by itself: the console does that, node by node. */
export function replacedByHand({ type, object }: Rendered): Rendered {
  const { spec } = object as unknown as { readonly spec: Body };
  return { type, object: { ...object, spec: { ...spec, updateStrategy: { type: 'OnDelete' } } } as KubeObject };
}

/**
 * Everything of an installation but its custom resource definitions and secrets, in the order of applying. Pure: the
 * same values and image give the same objects.
 */
export function renderObjects(values: Values, image: string): readonly Rendered[] {
  const config = agentConfiguration(values);
  const subjects = [{ kind: 'ServiceAccount', name: agentName, namespace: agentNamespace }];
  const role = (kind: 'ClusterRole' | 'Role') => ({
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind, name: agentName },
    subjects,
  });
  return [
    rendered(resources.serviceAccounts, agentName, {}),
    rendered(resources.clusterRoles, agentName, { rules: agentRules }),
    rendered(resources.clusterRoleBindings, agentName, role('ClusterRole')),
    rendered(resources.roles, agentName, { rules: leaseRules }),
    rendered(resources.roleBindings, agentName, role('Role')),
    rendered(
      resources.configMaps,
      configName,
      { data: { 'config.yaml': config } },
      { [valuesAnnotation]: JSON.stringify(values) },
    ),
    rendered(resources.daemonSets, agentName, {
      spec: {
        selector: { matchLabels: { [agentLabel.key]: agentLabel.value } },
        updateStrategy: { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: 2 } },
        template: {
          metadata: {
            labels,
            annotations: {
              [configDigestAnnotation]: digestOf(config).slice(0, 16),
              ...scrapeAnnotations(values.prometheus.enabled, values.prometheus.port),
            },
          },
          spec: heldBack(
            podSpec(values, image, ['agent'], {
              ports: [
                port('hubble', 4244),
                ...(values.prometheus.enabled ? [port('metrics', values.prometheus.port)] : []),
                port('health', 4240),
              ],
              startupProbe: probe('/livez', 1, 60),
              livenessProbe: probe('/livez', 10, 6),
            }),
          ),
        },
      },
    }),
  ];
}

/** The DaemonSet that replays every node's journal backwards; Ready on a node means that nothing is left there. */
export function renderCleanup(values: Values, image: string): Rendered {
  const selector = { [agentLabel.key]: cleanupName };
  return rendered(resources.daemonSets, cleanupName, {
    spec: {
      selector: { matchLabels: selector },
      template: {
        metadata: { labels: { ...labels, ...selector } },
        spec: podSpec(values, image, ['cleanup', '--stay'], {}),
      },
    },
  });
}

/** The pod that runs one command of the agent's on one node and ends, as a Job has it. */
export function probePodSpec(values: Values, image: string, args: readonly string[]): Body {
  return {
    ...podSpec(values, image, args, { readinessProbe: undefined }),
    serviceAccountName: 'default',
    automountServiceAccountToken: false,
    // The configuration and the certificates are of no use to a question, and may not be there yet.
    volumes: volumes(values).map((volume) =>
      volume.name === 'config' || volume.name === 'tls' ? { name: volume.name, emptyDir: {} } : volume,
    ),
  };
}
