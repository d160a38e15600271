import { randomBytes } from 'node:crypto';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import { agentNamespace } from '../install/names.ts';
import { waitFor } from '../install/wait.ts';
import { type ClusterConnection, type KubeObject, type ResourceType, resources } from '../kube/cluster-connection.ts';

export const jobs: ResourceType = { group: 'batch', version: 'v1', plural: 'jobs', kind: 'Job', namespaced: true };

/** Label of Jobs and their pods that do one thing on one node; its value is the Job's name. */
export const nodeJobLabel = 'fairlead.dev/node-job';
/** The cluster itself removes a Job that has ended, with its pod, after so many seconds. */
const keptSeconds = 60;

/** One command on one node, by a pod. */
export interface NodeJob {
  /** What it is for; the Job's name begins with it. */
  readonly purpose: string;
  readonly node: string;
  /** The pod's specification; where it runs and when it ends is decided here. */
  readonly podSpec: Readonly<Record<string, unknown>>;
  readonly seconds: number;
}

interface Pod extends KubeObject {
  readonly status?: {
    readonly phase?: string;
    readonly reason?: string;
    readonly message?: string;
    readonly containerStatuses?: readonly {
      readonly state?: { readonly waiting?: { readonly reason?: string; readonly message?: string } };
    }[];
  };
}

interface Job extends KubeObject {
  readonly status?: {
    readonly conditions?: readonly { readonly type: string; readonly status: string; readonly message?: string }[];
  };
}

/** The Job as it is created. Pure but for the name. */
export function renderNodeJob({ purpose, node, podSpec, seconds }: NodeJob): KubeObject {
  const suffix = randomBytes(3).toString('hex');
  // A Job's name is a label of its pods: 63 characters at most.
  const name = `${`fairlead-${purpose}-${node}`.replaceAll('.', '-').slice(0, 56).replace(/-+$/, '')}-${suffix}`;
  const labels = { [nodeJobLabel]: name, 'app.kubernetes.io/part-of': 'fairlead' };
  return {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: { name, namespace: agentNamespace, labels },
    spec: {
      // Whoever has made it may be gone: the cluster ends it, and then removes it with its pod.
      activeDeadlineSeconds: seconds,
      ttlSecondsAfterFinished: keptSeconds,
      backoffLimit: 0,
      template: {
        metadata: { labels },
        spec: { ...podSpec, nodeName: node, restartPolicy: 'Never', tolerations: [{ operator: 'Exists' }] },
      },
    },
  } as unknown as KubeObject;
}

/**
 * Runs a pod to its end on a node and reads what it printed. The pod belongs to a Job with a deadline: when the console is
 * killed meanwhile, the cluster ends it and removes both.
 */
export async function runNodeJob(
  connection: Pick<ClusterConnection, 'create' | 'remove' | 'watch' | 'raw'>,
  job: NodeJob,
  signal: AbortSignal,
): Promise<Result<{ readonly succeeded: boolean; readonly output: string }>> {
  const object = renderNodeJob(job);
  const { name } = object.metadata;
  using pods = connection.watch<Pod>(resources.pods, {
    namespace: agentNamespace,
    labelSelector: `${nodeJobLabel}=${name}`,
  });
  using made = connection.watch<Job>(jobs, { namespace: agentNamespace, labelSelector: `${nodeJobLabel}=${name}` });
  const created = await connection.create<KubeObject>(jobs, object);
  if (!created.ok) return created;
  const pod = () => [...pods.items().values()][0];
  const why = () => {
    const status = pod()?.status;
    const waiting = status?.containerStatuses?.[0]?.state?.waiting;
    return (
      [waiting?.reason, waiting?.message].filter(Boolean).join(': ') ||
      status?.message ||
      status?.reason ||
      status?.phase ||
      'no pod was seen; is the kubelet up?'
    );
  };
  const late = (text: string): Failure => ({
    code: 'node.job',
    what: `${job.node} could not be asked by a pod.`,
    why: text,
    fix: `Look at kubectl -n ${agentNamespace} describe job ${name} (it is kept for a minute), and at the node.`,
  });
  try {
    const ended = await waitFor(
      [pods, made],
      signal,
      job.seconds + 15,
      () => {
        const phase = pod()?.status?.phase;
        if (phase === 'Succeeded' || phase === 'Failed') return ok(phase === 'Succeeded');
        const bad = [...made.items().values()][0]?.status?.conditions?.find(
          ({ type, status }) => type === 'Failed' && status === 'True',
        );
        return bad ? failed(late(bad.message ?? why())) : undefined;
      },
      () => late(`It had not ended after ${job.seconds + 15} s: ${why()}`),
    );
    if (!ended.ok) return ended;
    const log = await connection.raw(`/api/v1/namespaces/${agentNamespace}/pods/${pod()?.metadata.name}/log`);
    if (!log.ok) return log;
    // An answer that is JSON has been parsed on the way.
    const output = typeof log.value === 'string' ? log.value : JSON.stringify(log.value);
    return ok({ succeeded: ended.value, output });
  } finally {
    await connection.remove(jobs, name, agentNamespace, { propagation: 'Background' });
  }
}
