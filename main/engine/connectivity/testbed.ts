import { randomBytes } from 'node:crypto';
import { ok, type Result } from '../../../contract/failure.ts';
import { waitFor } from '../install/wait.ts';
import { type ClusterConnection, type KubeObject, type ResourceType, resources } from '../kube/cluster-connection.ts';

/** Label of every namespace that tests make; a later console clears away what an earlier one has left. */
export const testbedLabel = 'fairlead.dev/testbed';
const expiresAnnotation = 'fairlead.dev/expires';
/** The container of every pod of a testbed. */
export const container = 'probe';
const port = 8080;

const jobs: ResourceType = { group: 'batch', version: 'v1', plural: 'jobs', kind: 'Job', namespaced: true };

/** A pod of a testbed: it runs the probe's server, and its clients by exec. */
export interface BedPod {
  readonly name: string;
  readonly node: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** In the node's own network, on this port. */
  readonly hostPort?: number;
}

/** Where a pod of a testbed has come up. */
export interface UpPod {
  readonly address: string;
  readonly hostAddress: string;
  readonly node: string;
}

interface Pod extends KubeObject {
  readonly status?: {
    readonly podIP?: string;
    readonly hostIP?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string; readonly message?: string }[];
    readonly containerStatuses?: readonly {
      readonly state?: { readonly waiting?: { readonly reason?: string; readonly message?: string } };
    }[];
  };
}

/** A namespace with everything of one test in it. */
export interface Testbed extends AsyncDisposable {
  readonly namespace: string;
  /** Makes pods and waits until they are ready. */
  readonly pods: (
    pods: readonly BedPod[],
    signal: AbortSignal,
    seconds: number,
  ) => Promise<Result<ReadonlyMap<string, UpPod>>>;
  /** Puts an object into the namespace. */
  readonly create: (type: ResourceType, object: KubeObject) => Promise<Result<KubeObject>>;
  readonly remove: (type: ResourceType, name: string) => Promise<Result<void>>;
}

function podBody(image: string, pod: BedPod, seconds: number): Readonly<Record<string, unknown>> {
  const field = (name: string, fieldPath: string) => ({ name, valueFrom: { fieldRef: { fieldPath } } });
  const listen = pod.hostPort ?? port;
  return {
    nodeName: pod.node,
    hostNetwork: pod.hostPort !== undefined,
    ...(pod.hostPort === undefined ? {} : { dnsPolicy: 'ClusterFirstWithHostNet' }),
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    terminationGracePeriodSeconds: 0,
    activeDeadlineSeconds: seconds,
    restartPolicy: 'Never',
    tolerations: [{ operator: 'Exists' }],
    containers: [
      {
        name: container,
        image,
        imagePullPolicy: 'IfNotPresent',
        args: ['probe', 'serve', '--port', String(listen)],
        env: [field('POD_NAME', 'metadata.name'), field('NODE_NAME', 'spec.nodeName')],
        readinessProbe: { tcpSocket: { port: listen }, periodSeconds: 1, failureThreshold: 60 },
        // Echo requests need raw sockets; nothing else is needed.
        securityContext: {
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'], add: ['NET_RAW'] },
        },
      },
    ],
  };
}

function whyNotReady(pod: Pod | undefined): string {
  const waiting = pod?.status?.containerStatuses?.[0]?.state?.waiting;
  if (waiting?.reason) return [waiting.reason, waiting.message].filter(Boolean).join(': ');
  return pod?.status?.conditions?.find((one) => one.status !== 'True')?.message ?? 'not started';
}

/**
 * A namespace of its own that is cleared away whatever happens. Everything in it belongs to a Job with a deadline: if
 * the console is killed, the cluster itself ends the Job, its garbage collector removes what belongs to it, and the
 * next console removes the empty namespace.
 */
export function makeTestbed(connection: ClusterConnection, image: string, purpose: string, seconds = 900): Testbed {
  const namespace = `fairlead-${purpose}-${randomBytes(3).toString('hex')}`;
  let owner: Promise<Result<string>> | undefined;

  const begin = async (): Promise<Result<string>> => {
    await sweep(connection);
    const expires = new Date(Date.now() + seconds * 1000).toISOString();
    const made = await connection.create<KubeObject>(resources.namespaces, {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: {
        name: namespace,
        labels: {
          [testbedLabel]: purpose,
          // Pods with NET_RAW and, some of them, in the node's network.
          'pod-security.kubernetes.io/enforce': 'privileged',
        },
        annotations: { [expiresAnnotation]: expires },
      },
    });
    if (!made.ok) return made;
    const job = await connection.create<KubeObject>(jobs, {
      apiVersion: 'batch/v1',
      kind: 'Job',
      metadata: { name: 'keeper', namespace },
      spec: {
        activeDeadlineSeconds: seconds,
        ttlSecondsAfterFinished: 5,
        backoffLimit: 0,
        // It never runs anywhere: the Job's own deadline is what counts.
        template: {
          spec: {
            ...podBody(image, { name: 'keeper', node: '' }, seconds),
            nodeName: undefined,
            nodeSelector: { [testbedLabel]: 'nowhere' },
          },
        },
      },
    } as unknown as KubeObject);
    return job.ok ? ok(job.value.metadata.uid ?? '') : job;
  };

  const create = async (type: ResourceType, object: KubeObject): Promise<Result<KubeObject>> => {
    owner ??= begin();
    const uid = await owner;
    if (!uid.ok) return uid;
    return await connection.create<KubeObject>(type, {
      ...object,
      metadata: {
        ...object.metadata,
        namespace,
        ownerReferences: [{ apiVersion: 'batch/v1', kind: 'Job', name: 'keeper', uid: uid.value } as never],
      },
    });
  };

  return {
    namespace,
    create,
    remove: (type, name) => connection.remove(type, name, namespace),
    async pods(pods, signal, limit) {
      using live = connection.watch<Pod>(resources.pods, { namespace });
      for (const pod of pods) {
        const made = await create(resources.pods, {
          apiVersion: 'v1',
          kind: 'Pod',
          metadata: { name: pod.name, labels: { [testbedLabel]: purpose, name: pod.name, ...pod.labels } },
          spec: podBody(image, pod, seconds),
        } as unknown as KubeObject);
        if (!made.ok) return made;
      }
      const find = (name: string) => [...live.items().values()].find((pod) => pod.metadata.name === name);
      const ready = (pod: Pod | undefined) =>
        pod?.status?.conditions?.some((one) => one.type === 'Ready' && one.status === 'True') ?? false;
      return await waitFor(
        [live],
        signal,
        limit,
        () => {
          if (!pods.every(({ name }) => ready(find(name)))) return undefined;
          return ok(
            new Map(
              pods.map(({ name, node }) => {
                const { podIP: address = '', hostIP: hostAddress = '' } = find(name)?.status ?? {};
                return [name, { address, hostAddress, node }] as const;
              }),
            ),
          );
        },
        () => {
          const late = pods.filter(({ name }) => !ready(find(name)));
          return {
            code: 'testbed.pods',
            what: `Pods of the test do not come up: ${late.map(({ name, node }) => `${name} on ${node}`).join(', ')}.`,
            why: late.map(({ name }) => whyNotReady(find(name))).join('; '),
            fix: 'Look at the nodes that are named; the image must be there, or be pullable.',
          };
        },
      );
    },
    async [Symbol.asyncDispose]() {
      if (!owner || connection.signal.aborted) return;
      await connection.remove(resources.namespaces, namespace, undefined, { propagation: 'Background' });
    },
  };
}

/** Removes namespaces that an earlier console has left behind: those whose time is over. */
export async function sweep(connection: ClusterConnection, now = Date.now()): Promise<readonly string[]> {
  const found = await connection.list<KubeObject>(resources.namespaces);
  if (!found.ok) return [];
  const old = found.value.filter(({ metadata }) => {
    if (metadata.labels?.[testbedLabel] === undefined || metadata.deletionTimestamp) return false;
    const expires = Date.parse(metadata.annotations?.[expiresAnnotation] ?? '');
    return !Number.isFinite(expires) || expires < now;
  });
  const removed: string[] = [];
  for (const { metadata } of old) {
    const gone = await connection.remove(resources.namespaces, metadata.name, undefined, { propagation: 'Background' });
    if (gone.ok) removed.push(metadata.name);
  }
  return removed;
}
