import type { Plan } from '../../../contract/index.ts';
import type { Agents } from '../agents/agent-pool.ts';
import type { ClusterConnection, KubeObject } from '../kube/cluster-connection.ts';
import type { SshConnector } from '../ssh/ssh-connector.ts';
import type { ClusterFacts } from './facts.ts';

/** What applying works with. */
export interface Workbench {
  readonly connection: ClusterConnection;
  readonly ssh: SshConnector;
  readonly agents: Agents;
  readonly facts: ClusterFacts;
  /** Nodes that do not answer and are left out; no agent is expected to reach them. */
  readonly leftOut?: readonly string[];
}

export interface Pod extends KubeObject {
  readonly spec?: { readonly nodeName?: string; readonly containers?: readonly { readonly image?: string }[] };
  readonly status?: {
    readonly phase?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string; readonly message?: string }[];
    readonly containerStatuses?: readonly {
      readonly restartCount?: number;
      readonly state?: {
        readonly waiting?: { readonly reason?: string; readonly message?: string };
        readonly terminated?: { readonly reason?: string; readonly exitCode?: number; readonly message?: string };
      };
      readonly lastState?: { readonly terminated?: { readonly reason?: string; readonly exitCode?: number } };
    }[];
  };
}

export interface NodeObject extends KubeObject {
  readonly status?: {
    readonly conditions?: readonly { readonly type: string; readonly status: string; readonly message?: string }[];
  };
}

/** One of the conditions of an object's status. */
export function condition(
  conditions: readonly { readonly type: string; readonly status: string; readonly message?: string }[] | undefined,
  type: string,
) {
  return conditions?.find((one) => one.type === type);
}

/** Why a pod is not ready, in the kubelet's words. */
export function podState(pod: Pod | undefined): string {
  if (!pod) return 'no pod yet';
  const status = pod.status?.containerStatuses?.[0];
  const waiting = status?.state?.waiting;
  if (waiting?.reason) return [waiting.reason, waiting.message].filter(Boolean).join(': ');
  const ended = status?.state?.terminated ?? status?.lastState?.terminated;
  if (ended && (status?.restartCount ?? 0) > 0)
    return `restarted ${status?.restartCount} times, last ended with ${ended.exitCode} ${ended.reason ?? ''}`.trim();
  return condition(pod.status?.conditions, 'Ready')?.message ?? pod.status?.phase ?? 'starting';
}

/** Is a pod Ready, and not on its way out? */
export function isReady(pod: Pod): boolean {
  return condition(pod.status?.conditions, 'Ready')?.status === 'True' && !pod.metadata.deletionTimestamp;
}

/** A pod that was there before the agent. */
export type PlannedPod = Plan['restarts'][number];
