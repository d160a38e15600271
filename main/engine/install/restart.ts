import { failed, ok } from '../../../contract/failure.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { ReadOnlyConnection } from './facts.ts';
import { isNotFound } from './secrets.ts';
import type { Step } from './steps.ts';
import { waitFor } from './wait.ts';
import type { PlannedPod, Workbench } from './workbench.ts';

interface Pod extends KubeObject {
  readonly spec?: { readonly nodeName?: string; readonly hostNetwork?: boolean };
  readonly status?: { readonly phase?: string; readonly podIP?: string };
}

/** Pods with an address that no agent gave them: those from before the agent. Read only. */
export async function foreignPods(connection: ReadOnlyConnection): Promise<readonly PlannedPod[]> {
  const [pods, endpoints] = await Promise.all([
    connection.list<Pod>(resources.pods),
    connection.list<KubeObject>(resources.ciliumEndpoints),
  ]);
  if (!pods.ok) return [];
  const key = ({ metadata }: KubeObject) => `${metadata.namespace}/${metadata.name}`;
  // Without the definition there is no endpoint either.
  const known = new Set(endpoints.ok ? endpoints.value.map(key) : []);
  return pods.value
    .filter(
      (pod) => pod.status?.podIP && pod.status.phase === 'Running' && !pod.spec?.hostNetwork && !known.has(key(pod)),
    )
    .map((pod) => ({
      namespace: pod.metadata.namespace ?? '',
      name: pod.metadata.name,
      node: pod.spec?.nodeName ?? '',
      controlled: pod.metadata.ownerReferences?.some((owner) => owner.controller) ?? false,
    }));
}

/** Restarts a pod that a controller makes anew; one that nobody would make again is left, and said so. */
export function restartStep({ connection }: Workbench, pod: PlannedPod): Step {
  return {
    id: `restart:${pod.namespace}/${pod.name}`,
    title: `Restart ${pod.namespace}/${pod.name}`,
    node: pod.node,
    run: async ({ signal }) => {
      if (!pod.controlled) return ok({ message: 'nobody would make it again: restart it by hand', skipped: true });
      using pods = connection.watch<Pod>(resources.pods, { namespace: pod.namespace });
      await pods.ready();
      const removed = await connection.remove(resources.pods, pod.name, pod.namespace);
      if (!removed.ok)
        return isNotFound(removed.failure.code)
          ? ok({ message: 'gone already', skipped: true })
          : failed(removed.failure);
      return await waitFor(
        [pods],
        signal,
        60,
        () =>
          [...pods.items().values()].some((one) => one.metadata.name === pod.name)
            ? undefined
            : ok({ message: 'removed; its controller makes it anew' }),
        () => ({
          code: 'install.pod-stays',
          what: `${pod.namespace}/${pod.name} does not end.`,
          why: 'It was still there after a minute.',
          fix: 'Look at its finalizers and its grace period; restart it by hand.',
        }),
      );
    },
  };
}
