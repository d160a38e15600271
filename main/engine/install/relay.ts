import { failed, ok } from '../../../contract/failure.ts';
import type { Values } from '../../../contract/index.ts';
import { pause } from '../agents/agent-pool.ts';
import { askRelay } from '../agents/relay-client.ts';
import { type KubeObject, type ResourceType, resources } from '../kube/cluster-connection.ts';
import { applyAll } from './apply.ts';
import { digestOf } from './diff.ts';
import type { NodeFacts } from './facts.ts';
import { agentConfiguration, type Rendered, rendered } from './manifests.ts';
import {
  agentNamespace,
  configDigestAnnotation,
  configName,
  labels,
  relayAccount,
  relayLabels,
  relayMetricsPort,
  relayName,
  relayPort,
  relaySecret,
  relaySelector,
  scrapeAnnotations,
} from './names.ts';
import { keyOf } from './plan.ts';
import type { Stage } from './steps.ts';
import { removeOne, removeWorkload } from './uninstall.ts';
import { waitFor } from './wait.ts';
import { type Pod, podState, type Workbench } from './workbench.ts';

const user = 65_532;
const rolloutSeconds = 90;

/** The relay's secret, by name only. */
export const relaySecretObject: Rendered = {
  type: resources.secrets,
  object: { apiVersion: 'v1', kind: 'Secret', metadata: { name: relaySecret, namespace: agentNamespace, labels } },
};

/** Objects of the relay: one pod without any privilege that asks every agent, and a service before it. Pure. */
export function renderRelay(values: Values, image: string): readonly Rendered[] {
  const one = (type: ResourceType, name: string, body: Readonly<Record<string, unknown>>) =>
    rendered(type, name, body, undefined, relayLabels);
  const port = (name: string, containerPort: number) => ({ name, containerPort, protocol: 'TCP' });
  const probe = { tcpSocket: { port: 'grpc' } };
  return [
    one(resources.serviceAccounts, relayAccount, {}),
    one(resources.clusterRoles, relayAccount, {
      rules: [{ apiGroups: ['cilium.io'], resources: ['ciliumnodes'], verbs: ['get', 'list', 'watch'] }],
    }),
    one(resources.clusterRoleBindings, relayAccount, {
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: relayAccount },
      subjects: [{ kind: 'ServiceAccount', name: relayAccount, namespace: agentNamespace }],
    }),
    one(resources.services, relayName, {
      spec: {
        type: 'ClusterIP',
        selector: { 'k8s-app': relayName },
        ports: [{ name: 'grpc', port: 443, protocol: 'TCP', targetPort: 'grpc' }],
      },
    }),
    one(resources.deployments, relayName, {
      spec: {
        replicas: 1,
        selector: { matchLabels: { 'k8s-app': relayName } },
        strategy: { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } },
        template: {
          metadata: {
            labels: relayLabels,
            annotations: {
              [configDigestAnnotation]: digestOf(agentConfiguration(values)).slice(0, 16),
              ...scrapeAnnotations(values.prometheus.enabled, relayMetricsPort),
            },
          },
          spec: {
            serviceAccountName: relayAccount,
            terminationGracePeriodSeconds: 5,
            nodeSelector: { 'kubernetes.io/os': 'linux' },
            securityContext: {
              runAsNonRoot: true,
              runAsUser: user,
              runAsGroup: user,
              fsGroup: user,
              seccompProfile: { type: 'RuntimeDefault' },
            },
            containers: [
              {
                name: 'relay',
                image,
                imagePullPolicy: 'IfNotPresent',
                args: ['relay', '--listen', `:${relayPort}`],
                // The image's own default is this port for metrics: an older image, which has none, starts as well.
                ports: [
                  port('grpc', relayPort),
                  ...(values.prometheus.enabled ? [port('metrics', relayMetricsPort)] : []),
                ],
                readinessProbe: { ...probe, periodSeconds: 2, failureThreshold: 3 },
                livenessProbe: { ...probe, periodSeconds: 10, failureThreshold: 6, initialDelaySeconds: 10 },
                resources: { requests: { cpu: '10m', memory: '32Mi' } },
                securityContext: {
                  allowPrivilegeEscalation: false,
                  readOnlyRootFilesystem: true,
                  capabilities: { drop: ['ALL'] },
                },
                volumeMounts: [
                  { name: 'config', mountPath: '/etc/fairlead', readOnly: true },
                  { name: 'tls', mountPath: '/var/lib/fairlead/tls', readOnly: true },
                ],
              },
            ],
            volumes: [
              { name: 'config', configMap: { name: configName } },
              { name: 'tls', secret: { secretName: relaySecret, defaultMode: 0o440 } },
            ],
          },
        },
      },
    }),
  ];
}

/** Does an object belong to the relay? */
export function isRelay({ object }: Rendered): boolean {
  return object.metadata.labels?.['k8s-app'] === relayName;
}

interface Deployment extends KubeObject {
  readonly status?: {
    readonly observedGeneration?: number;
    readonly replicas?: number;
    readonly updatedReplicas?: number;
    readonly availableReplicas?: number;
  };
}

/** Stages that bring the relay up: they end when it answers and is connected to every node. */
export function relayStages(
  bench: Workbench,
  objects: readonly Rendered[],
  machines: readonly NodeFacts[],
): readonly Stage[] {
  const { connection } = bench;
  return [
    {
      parallel: 1,
      steps: [
        {
          id: 'relay',
          title: 'Relay',
          node: '',
          run: async (context) => {
            const applied = await applyAll(bench, objects, context);
            if (!applied.ok) return applied;
            const made = await connection.get<KubeObject>(resources.deployments, relayName, agentNamespace);
            if (!made.ok) return made;
            const { generation = 0 } = made.value.metadata;
            using live = connection.watch<Deployment>(resources.deployments, {
              namespace: agentNamespace,
              labelSelector: relaySelector,
            });
            using pods = connection.watch<Pod>(resources.pods, {
              namespace: agentNamespace,
              labelSelector: relaySelector,
            });
            const newest = () =>
              [...pods.items().values()]
                .toSorted((a, b) =>
                  (a.metadata.creationTimestamp ?? '').localeCompare(b.metadata.creationTimestamp ?? ''),
                )
                .at(-1);
            return await waitFor(
              [live, pods],
              context.signal,
              rolloutSeconds,
              () => {
                const status = [...live.items().values()][0]?.status;
                const {
                  observedGeneration = 0,
                  replicas = 0,
                  updatedReplicas = 0,
                  availableReplicas = 0,
                } = status ?? {};
                if (
                  observedGeneration >= generation &&
                  replicas === 1 &&
                  updatedReplicas === 1 &&
                  availableReplicas === 1
                )
                  return ok({ message: 'its pod is up' });
                context.message(podState(newest()));
                return undefined;
              },
              () => ({
                code: 'install.relay',
                what: 'The relay does not come up.',
                why: `After ${rolloutSeconds} s: ${podState(newest())}.`,
                fix: `Read kubectl -n ${agentNamespace} logs deployment/${relayName}; the agents are not concerned.`,
              }),
            );
          },
        },
        {
          id: 'relay-answers',
          title: 'Relay answers for every node',
          node: '',
          run: async ({ signal, log, message }) => {
            const end = Date.now() + 30_000;
            for (;;) {
              const answer = await askRelay(connection, signal);
              const away = answer.ok ? answer.value.peers.filter((peer) => !peer.connected) : [];
              const known = answer.ok ? answer.value.peers.length : 0;
              if (answer.ok && away.length === 0 && known >= machines.length) {
                for (const peer of answer.value.peers) log(`${peer.name} ${peer.address}: ${peer.flows} flows`);
                return ok({ message: `${answer.value.version}, ${known} nodes` });
              }
              const why = !answer.ok
                ? answer.failure.why
                : away.length > 0
                  ? `It does not reach ${away.map((peer) => peer.name).join(', ')}.`
                  : `It knows ${known} of ${machines.length} nodes.`;
              message(why);
              if (signal.aborted || Date.now() > end)
                return failed({
                  code: 'install.relay',
                  what: 'The relay does not answer for every node.',
                  why,
                  fix: 'Its pod must reach TCP 4244 of every node; look at policies in kube-system. The agents are not concerned.',
                });
              // Nothing tells when a connection of the relay's has come up.
              await pause(1000, signal);
            }
          },
        },
      ],
    },
  ];
}

/** Stages that take the relay away: those of its objects that are there, its pods first. */
export function relayRemoval(
  bench: Workbench,
  objects: readonly Rendered[],
  live: ReadonlyMap<string, KubeObject>,
): readonly Stage[] {
  const there = objects.filter(({ type, object: { metadata } }) =>
    live.has(keyOf(type.kind, metadata.name, type.namespaced ? (metadata.namespace ?? '') : '')),
  );
  if (there.length === 0) return [];
  const workload = there.find(({ type }) => type.kind === 'Deployment');
  return [
    {
      parallel: 1,
      steps: [
        {
          id: 'remove:relay',
          title: 'Relay',
          node: '',
          run: async (context) => {
            if (workload) {
              const gone = await removeWorkload(bench, workload, relaySelector, context);
              if (!gone.ok) return gone;
            }
            for (const one of there) {
              const removed = await removeOne(bench, one);
              if (!removed.ok) return removed;
            }
            return ok({ message: `${there.length} objects deleted` });
          },
        },
      ],
    },
  ];
}
