import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { DebugProfile, TerminalTarget } from '../../../contract/terminals.ts';
import { execute } from '../checks/execute.ts';
import { agentNamespace } from '../install/names.ts';
import { waitFor } from '../install/wait.ts';
import { type ClusterConnection, type KubeObject, resources } from '../kube/cluster-connection.ts';
import { badImage } from './images.ts';
import { endKeeper, freshName, keeper, keptSeconds, nodeShellCommand, shellCommand } from './keeper.ts';

/** What was made in a cluster so that a shell can run, and how it is taken away. */
export interface Support {
  /** What it is, for the audit log. */
  readonly subject: string;
  readonly action: 'debug container' | 'node debug pod';
  readonly place: {
    readonly namespace: string;
    readonly pod: string;
    readonly container: string;
    readonly command: readonly string[];
  };
  readonly title: string;
  readonly remove: () => Promise<Result<void>>;
}

export interface PrepareOptions {
  readonly connection: ClusterConnection;
  readonly signal: AbortSignal;
  readonly progress: (text: string) => void;
  /** Of this console, see sweep. */
  readonly owner: string;
  readonly claim: (pod: string) => void;
}

/** Label of pods that were made for a shell on a node. */
export const debugLabel = 'fairlead.dev/debug';
const debugSelector = `${debugLabel}=node`;
/** Annotation: which console made it. */
export const ownerAnnotation = 'fairlead.dev/console';

interface ContainerStatus {
  readonly name: string;
  readonly state?: {
    readonly waiting?: { readonly reason?: string; readonly message?: string };
    readonly running?: object;
    readonly terminated?: { readonly exitCode?: number; readonly reason?: string; readonly message?: string };
  };
}

interface PodObject extends KubeObject {
  readonly spec?: { readonly nodeName?: string };
  readonly status?: {
    readonly phase?: string;
    readonly reason?: string;
    readonly message?: string;
    readonly containerStatuses?: readonly ContainerStatus[];
    readonly ephemeralContainerStatuses?: readonly ContainerStatus[];
  };
}

const startSeconds = 180;
/** Reasons of the kubelet that time does not mend. */
const hopeless = /^(ErrImage|ImagePull|InvalidImageName|CreateContainer|RunContainer|ImageInspect|StartError)/;

function imageRefused(image: string): Failure | undefined {
  const why = badImage(image);
  return why === undefined
    ? undefined
    : {
        code: 'terminal.bad-image',
        what: `“${image}” is not the name of an image.`,
        why,
        fix: 'Write it as registry/name:tag, for example busybox:1.37.',
      };
}

function notStarted(what: string, image: string, why: string): Failure {
  const pulled = /Image/.test(why);
  return {
    code: pulled ? 'terminal.image' : 'terminal.not-started',
    what,
    why,
    fix: pulled
      ? `Choose an image that the node holds or can pull; ${image} is neither there nor to be had from its registry.`
      : 'Choose an image with sh and sleep, or another profile; the pod’s events say more.',
  };
}

/** How a container that is to be waited for stands: true when it runs, or why it never will. */
function started(status: ContainerStatus | undefined): true | string | undefined {
  const { running, terminated, waiting } = status?.state ?? {};
  if (running) return true;
  if (terminated)
    return `It ended at once (${terminated.reason ?? 'exit'} ${terminated.exitCode ?? ''}): ${terminated.message ?? 'the image has no sh, or no sleep'}`;
  if (waiting?.reason && hopeless.test(waiting.reason))
    return `${waiting.reason}: ${(waiting.message ?? '').slice(0, 500)}`;
  return undefined;
}

/** As `kubectl debug --profile` has them. */
export function securityOf(profile: DebugProfile): object {
  switch (profile) {
    case 'general':
      return { capabilities: { add: ['SYS_PTRACE'] } };
    case 'netadmin':
      return { capabilities: { add: ['NET_ADMIN', 'NET_RAW'] } };
    case 'baseline':
      return {};
    case 'restricted':
      return {
        allowPrivilegeEscalation: false,
        capabilities: { drop: ['ALL'] },
        runAsNonRoot: true,
        seccompProfile: { type: 'RuntimeDefault' },
      };
  }
}

/** Adds an ephemeral container to a pod and waits until it runs. It cannot be removed again, only ended. */
export async function addDebugContainer(
  { connection, signal, progress }: PrepareOptions,
  target: Extract<TerminalTarget, { kind: 'debug' }>,
): Promise<Result<Support>> {
  const { namespace, pod, container, image } = target;
  const refused = imageRefused(image);
  if (refused) return failed(refused);
  const name = freshName();
  using pods = connection.watch<PodObject>(resources.pods, { namespace });
  const added = await connection.patch<PodObject>(resources.pods, pod, namespace, 'ephemeralcontainers', {
    spec: {
      ephemeralContainers: [
        {
          name,
          image,
          command: keeper(name),
          securityContext: securityOf(target.profile),
          ...(container ? { targetContainerName: container } : {}),
        },
      ],
    },
  });
  if (!added.ok) return added;
  progress(`Waiting for the debug container (${image}) in ${namespace}/${pod}.`);
  const what = `The debug container in ${namespace}/${pod} did not start.`;
  const find = () => [...pods.items().values()].find(({ metadata }) => metadata.name === pod);
  const up = await waitFor<true>(
    [pods],
    signal,
    startSeconds,
    () => {
      const status = find()?.status?.ephemeralContainerStatuses?.find((one) => one.name === name);
      const now = started(status);
      if (now === true) return ok(true);
      return now === undefined ? undefined : failed(notStarted(what, image, now));
    },
    () => notStarted(what, image, `It was not running after ${startSeconds / 60} minutes.`),
  );
  const remove = async () => {
    const end = { namespace, pod, container: name, command: endKeeper(name) };
    const ended = await execute(connection, end, { signal: connection.signal, seconds: 10 });
    return ended.ok ? ok(undefined) : ended;
  };
  if (!up.ok) {
    // Nobody waits any more, but it may start yet (its image is on the way): then it is ended.
    if (signal.aborted) void endOnceUp(connection, namespace, pod, name, remove);
    return up;
  }
  return ok({
    subject: `${namespace}/${pod} · ${name} (${image})`,
    action: 'debug container',
    place: { namespace, pod, container: name, command: shellCommand },
    title: `${namespace}/${pod} · ${name}`,
    remove,
  });
}

/** Ends a debug container that nobody wants any more as soon as it runs. */
async function endOnceUp(
  connection: ClusterConnection,
  namespace: string,
  pod: string,
  name: string,
  remove: Support['remove'],
): Promise<void> {
  using pods = connection.watch<PodObject>(resources.pods, { namespace });
  const state = () =>
    started(
      [...pods.items().values()]
        .find(({ metadata }) => metadata.name === pod)
        ?.status?.ephemeralContainerStatuses?.find((one) => one.name === name),
    );
  const up = await waitFor<string | true>(
    [pods],
    connection.signal,
    startSeconds,
    () => {
      const now = state();
      return now === undefined ? undefined : ok(now);
    },
    () => notStarted(`The debug container in ${namespace}/${pod} did not start.`, '', 'It never ran.'),
  );
  if (up.ok && up.value === true) await remove();
}

/** The pod of a node's shell: everything of the node, for as long as the shell lives and four hours at most. */
export function nodePod(node: string, image: string, owner: string): KubeObject {
  const name = freshName();
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name,
      namespace: agentNamespace,
      labels: { [debugLabel]: 'node', 'app.kubernetes.io/managed-by': 'fairlead' },
      annotations: { [ownerAnnotation]: owner },
    },
    spec: {
      nodeName: node,
      hostPID: true,
      hostNetwork: true,
      hostIPC: true,
      restartPolicy: 'Never',
      activeDeadlineSeconds: keptSeconds,
      terminationGracePeriodSeconds: 0,
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      tolerations: [{ operator: 'Exists' }],
      containers: [
        {
          name: 'shell',
          image,
          command: keeper(name),
          securityContext: { privileged: true },
          volumeMounts: [{ name: 'host', mountPath: '/host' }],
        },
      ],
      volumes: [{ name: 'host', hostPath: { path: '/' } }],
    },
  } as KubeObject;
}

/** Makes the pod of a node's shell and waits until it runs; takes it away again when it does not. */
export async function makeNodePod(
  { connection, signal, progress, owner, claim }: PrepareOptions,
  { node, image }: Extract<TerminalTarget, { kind: 'node-pod' }>,
): Promise<Result<Support>> {
  const refused = imageRefused(image);
  if (refused) return failed(refused);
  const object = nodePod(node, image, owner);
  const { name } = object.metadata;
  claim(name);
  using pods = connection.watch<PodObject>(resources.pods, { namespace: agentNamespace, labelSelector: debugSelector });
  const created = await connection.create<PodObject>(resources.pods, object);
  if (!created.ok) return created;
  const remove = async () => {
    const removed = await connection.remove(resources.pods, name, agentNamespace);
    return !removed.ok && removed.failure.code === 'kube.not-found' ? ok(undefined) : removed;
  };
  progress(`Waiting for the pod ${agentNamespace}/${name} (${image}) on ${node}.`);
  const what = `The pod for a shell on ${node} did not start.`;
  const up = await waitFor<true>(
    [pods],
    signal,
    startSeconds,
    () => {
      const status = [...pods.items().values()].find(({ metadata }) => metadata.name === name)?.status;
      // Refused by the kubelet: no container ever had a state.
      if (status?.phase === 'Failed' && !status.containerStatuses?.[0]?.state)
        return failed(notStarted(what, image, `${status.reason ?? 'Failed'}: ${status.message ?? ''}`));
      const now = started(status?.containerStatuses?.[0]);
      if (now === true) return ok(true);
      return now === undefined ? undefined : failed(notStarted(what, image, now));
    },
    () => notStarted(what, image, `It was not running after ${startSeconds / 60} minutes.`),
  );
  if (!up.ok) {
    await remove();
    return up;
  }
  return ok({
    subject: `${agentNamespace}/${name} on ${node} (${image})`,
    action: 'node debug pod',
    place: { namespace: agentNamespace, pod: name, container: 'shell', command: nodeShellCommand },
    title: `${node} (pod ${name})`,
    remove,
  });
}

/**
 * Removes pods of shells that are over: those that have ended, and those of this user's consoles that are gone. A pod of
 * somebody else's console is left to its own deadline.
 */
export async function sweep(
  connection: ClusterConnection,
  isOver: (owner: string, pod: string) => boolean,
): Promise<readonly string[]> {
  const found = await connection.list<PodObject>(resources.pods, {
    namespace: agentNamespace,
    labelSelector: debugSelector,
  });
  if (!found.ok) return [];
  const removed: string[] = [];
  for (const { metadata, status } of found.value) {
    if (metadata.deletionTimestamp) continue;
    const ended = status?.phase === 'Succeeded' || status?.phase === 'Failed';
    if (!ended && !isOver(metadata.annotations?.[ownerAnnotation] ?? '', metadata.name)) continue;
    const gone = await connection.remove(resources.pods, metadata.name, agentNamespace);
    if (gone.ok) removed.push(metadata.name);
  }
  return removed;
}
