import type { Duplex, Readable } from 'node:stream';
import type { Failure, Result } from '../../../contract/failure.ts';

/** A Kubernetes object as JSON; typed by whoever reads it. */
export interface KubeObject {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid?: string;
    readonly resourceVersion?: string;
    readonly generation?: number;
    readonly creationTimestamp?: string;
    readonly deletionTimestamp?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
    readonly ownerReferences?: readonly {
      readonly apiVersion: string;
      readonly kind: string;
      readonly name: string;
      readonly controller?: boolean;
    }[];
  };
}

/** Which collection of the API server. `group` is "" for the core group. */
export interface ResourceType {
  readonly group: string;
  readonly version: string;
  readonly plural: string;
  readonly kind: string;
  readonly namespaced: boolean;
}

/** A live, shared view of a collection (list + watch, one per collection and cluster, closed with its last user). */
export interface LiveCollection<T extends KubeObject> {
  /** Present objects; stable identity between changes. */
  readonly items: () => ReadonlyMap<string, T>;
  /** True once the first list is complete. */
  readonly synced: () => boolean;
  /** The failure of the last attempt while it cannot be read (e.g. forbidden, not installed). */
  readonly failure: () => Failure | undefined;
  readonly onChange: (listener: () => void) => Disposable;
  /** Resolves when synced or failed. */
  readonly ready: () => Promise<Result<void>>;
}

export interface ApplyOptions {
  readonly dryRun?: boolean;
  /** Server-side apply field manager; "fairlead" unless told. */
  readonly fieldManager?: string;
  readonly force?: boolean;
}

/** Everything the engine does with one cluster's API server goes through this. No local TCP port is ever opened. */
export interface ClusterConnection {
  readonly cluster: string;
  readonly contextName: string;
  readonly signal: AbortSignal;
  readonly get: <T extends KubeObject>(type: ResourceType, name: string, namespace?: string) => Promise<Result<T>>;
  readonly list: <T extends KubeObject>(
    type: ResourceType,
    options?: { readonly namespace?: string; readonly labelSelector?: string; readonly fieldSelector?: string },
  ) => Promise<Result<readonly T[]>>;
  /** Server-side apply of one object. */
  readonly apply: <T extends KubeObject>(
    type: ResourceType,
    object: KubeObject,
    options?: ApplyOptions,
  ) => Promise<Result<T>>;
  readonly create: <T extends KubeObject>(
    type: ResourceType,
    object: KubeObject,
    options?: { readonly dryRun?: boolean },
  ) => Promise<Result<T>>;
  readonly replace: <T extends KubeObject>(
    type: ResourceType,
    object: KubeObject,
    options?: { readonly dryRun?: boolean },
  ) => Promise<Result<T>>;
  /** Strategic merge of a part into a subresource of an object, e.g. a pod's ephemeralcontainers. */
  readonly patch: <T extends KubeObject>(
    type: ResourceType,
    name: string,
    namespace: string,
    subresource: string,
    part: object,
  ) => Promise<Result<T>>;
  readonly remove: (
    type: ResourceType,
    name: string,
    namespace?: string,
    options?: { readonly propagation?: 'Foreground' | 'Background' | 'Orphan' },
  ) => Promise<Result<void>>;
  /** A raw GET, e.g. "/version". */
  readonly raw: (path: string) => Promise<Result<unknown>>;
  /** A GET whose answer is read as it comes, e.g. a container's log; ended by the signal. */
  readonly stream: (path: string, signal: AbortSignal) => Promise<Result<Readable>>;
  /** Shared list+watch. Dispose the handle to let go. */
  readonly watch: <T extends KubeObject>(
    type: ResourceType,
    options?: { readonly namespace?: string; readonly labelSelector?: string },
  ) => LiveCollection<T> & Disposable;
  /** A byte stream to a port of a pod, through the API server's port-forward. */
  readonly portForward: (namespace: string, pod: string, port: number) => Promise<Result<Duplex>>;
  /** An interactive command in a container. */
  readonly exec: (target: {
    readonly namespace: string;
    readonly pod: string;
    readonly container: string;
    readonly command: readonly string[];
    readonly tty: boolean;
  }) => Promise<Result<ExecSession>>;
}

export interface ExecSession {
  readonly stdin: NodeJS.WritableStream;
  readonly stdout: NodeJS.ReadableStream;
  readonly stderr: NodeJS.ReadableStream;
  readonly resize: (columns: number, rows: number) => void;
  /** Resolves with the exit code, or a failure when the session broke. */
  readonly exit: Promise<Result<number>>;
  readonly close: () => void;
}

/** Well-known collections. */
export const resources = {
  nodes: { group: '', version: 'v1', plural: 'nodes', kind: 'Node', namespaced: false },
  pods: { group: '', version: 'v1', plural: 'pods', kind: 'Pod', namespaced: true },
  namespaces: { group: '', version: 'v1', plural: 'namespaces', kind: 'Namespace', namespaced: false },
  services: { group: '', version: 'v1', plural: 'services', kind: 'Service', namespaced: true },
  endpoints: { group: '', version: 'v1', plural: 'endpoints', kind: 'Endpoints', namespaced: true },
  endpointSlices: {
    group: 'discovery.k8s.io',
    version: 'v1',
    plural: 'endpointslices',
    kind: 'EndpointSlice',
    namespaced: true,
  },
  secrets: { group: '', version: 'v1', plural: 'secrets', kind: 'Secret', namespaced: true },
  configMaps: { group: '', version: 'v1', plural: 'configmaps', kind: 'ConfigMap', namespaced: true },
  serviceAccounts: { group: '', version: 'v1', plural: 'serviceaccounts', kind: 'ServiceAccount', namespaced: true },
  daemonSets: { group: 'apps', version: 'v1', plural: 'daemonsets', kind: 'DaemonSet', namespaced: true },
  deployments: { group: 'apps', version: 'v1', plural: 'deployments', kind: 'Deployment', namespaced: true },
  replicaSets: { group: 'apps', version: 'v1', plural: 'replicasets', kind: 'ReplicaSet', namespaced: true },
  clusterRoles: {
    group: 'rbac.authorization.k8s.io',
    version: 'v1',
    plural: 'clusterroles',
    kind: 'ClusterRole',
    namespaced: false,
  },
  clusterRoleBindings: {
    group: 'rbac.authorization.k8s.io',
    version: 'v1',
    plural: 'clusterrolebindings',
    kind: 'ClusterRoleBinding',
    namespaced: false,
  },
  roles: { group: 'rbac.authorization.k8s.io', version: 'v1', plural: 'roles', kind: 'Role', namespaced: true },
  roleBindings: {
    group: 'rbac.authorization.k8s.io',
    version: 'v1',
    plural: 'rolebindings',
    kind: 'RoleBinding',
    namespaced: true,
  },
  customResourceDefinitions: {
    group: 'apiextensions.k8s.io',
    version: 'v1',
    plural: 'customresourcedefinitions',
    kind: 'CustomResourceDefinition',
    namespaced: false,
  },
  networkPolicies: {
    group: 'networking.k8s.io',
    version: 'v1',
    plural: 'networkpolicies',
    kind: 'NetworkPolicy',
    namespaced: true,
  },
  ciliumNetworkPolicies: {
    group: 'cilium.io',
    version: 'v2',
    plural: 'ciliumnetworkpolicies',
    kind: 'CiliumNetworkPolicy',
    namespaced: true,
  },
  ciliumClusterwideNetworkPolicies: {
    group: 'cilium.io',
    version: 'v2',
    plural: 'ciliumclusterwidenetworkpolicies',
    kind: 'CiliumClusterwideNetworkPolicy',
    namespaced: false,
  },
  ciliumEndpoints: {
    group: 'cilium.io',
    version: 'v2',
    plural: 'ciliumendpoints',
    kind: 'CiliumEndpoint',
    namespaced: true,
  },
  ciliumIdentities: {
    group: 'cilium.io',
    version: 'v2',
    plural: 'ciliumidentities',
    kind: 'CiliumIdentity',
    namespaced: false,
  },
  ciliumNodes: { group: 'cilium.io', version: 'v2', plural: 'ciliumnodes', kind: 'CiliumNode', namespaced: false },
} as const satisfies Readonly<Record<string, ResourceType>>;
