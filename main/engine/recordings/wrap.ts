import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { CallContext, Implementation } from '../../../contract/implementation.ts';
import { actionSchema, type Cluster, type Inventory } from '../../../contract/index.ts';
import { validatePolicy } from '../policies/validate.ts';
import { policyEngine } from '../policies/wasm/policy-engine.ts';
import type { OpenRecording, OpenRecordings } from './index.ts';
import { record } from './recorder.ts';
import type { Replay } from './replay.ts';

const readOnly: Failure = {
  code: 'recording.read-only',
  what: 'A recording cannot be changed.',
  why: 'It shows what a cluster was like when it was recorded; there is no cluster behind it.',
  fix: 'Connect a real cluster, or start the lab.',
};

const noExplain: Failure = {
  code: 'recording.no-explain',
  what: 'A recording cannot explain packets.',
  why: 'There are no nodes behind it whose programs could be run.',
  fix: 'Connect a real cluster, or start the lab.',
};

const noTerminal: Failure = {
  code: 'recording.no-terminal',
  what: 'A recording has no terminals.',
  why: 'There is no machine behind it that a shell could run on.',
  fix: 'Connect a real cluster, or start the lab.',
};

const noChecks: Failure = {
  code: 'recording.no-checks',
  what: 'A recording cannot be checked.',
  why: 'There are no nodes behind it that could be asked.',
  fix: 'Connect a real cluster, or start the lab.',
};

const noLogs: Failure = {
  code: 'recording.no-logs',
  what: 'A recording has no logs.',
  why: 'Logs of containers are not part of a recorded case.',
  fix: 'Connect a real cluster, or start the lab.',
};

/** How a recording stands in the list of clusters. */
function clusterRow({ id, name, replay }: OpenRecording): Cluster {
  const { title, startedAt, serverVersion } = replay.case;
  return {
    id,
    name: title,
    source: 'recording',
    origin: `${name}.fairlead`,
    server: `recorded ${new Date(startedAt).toISOString().slice(0, 16).replace('T', ' ')}`,
    user: '',
    state: 'online',
    protected: true,
    insecure: false,
    route: ['recording'],
    ...(serverVersion ? { serverVersion } : {}),
  };
}

function validateIn(replay: Replay, text: string) {
  return policyEngine().then(
    (engine) => {
      const inventory = replay.latest<Inventory>('inventory');
      const labels = new Map(inventory?.namespaces.map((namespace) => [namespace.name, namespace.labels]) ?? []);
      const pods = (inventory?.pods ?? []).map((pod) => ({
        namespace: pod.namespace,
        name: pod.name,
        labels: pod.labels,
        namespaceLabels: labels.get(pod.namespace) ?? {},
        node: pod.node,
        hostNetwork: pod.hostNetwork,
        addresses: pod.address === '' ? [] : [pod.address],
      }));
      return ok(validatePolicy(text, engine, { pods, namespaces: new Set(labels.keys()) }));
    },
    (error: unknown) =>
      failed({
        ...readOnly,
        code: 'policies.no-engine',
        what: 'The policy engine cannot be loaded.',
        why: String(error),
      }),
  );
}

/** Puts recordings beside the live clusters of an engine; see Recordings.wrap. */
export function wrapImplementation(
  live: Implementation,
  open: OpenRecordings,
  isRecording: (cluster: string) => boolean,
  openByName: (name: string) => Promise<Result<string>>,
): Implementation {
  /** Runs `play` for an open recording. */
  const replaying = async <T>(
    cluster: string,
    context: CallContext,
    play: (replay: Replay, signal: AbortSignal) => Promise<T>,
  ): Promise<T | Failure> => {
    const found = open.get(cluster);
    if (!found.ok) return found.failure;
    // Closing the recording ends its streams, as disconnecting ends those of a cluster.
    const closed = new AbortController();
    using _registration = open.onChange(() => {
      if (!open.get(cluster).ok) closed.abort();
    });
    return await play(found.value.replay, AbortSignal.any([context.signal, open.signal, closed.signal]));
  };

  const {
    application,
    clusters,
    connectivity,
    explain,
    flows,
    install,
    logs,
    policies,
    questions,
    rights,
    support,
    terminals,
    topology,
    verify,
  } = live;
  return {
    questions,
    rights: {
      async review(input, context) {
        if (!isRecording(input.cluster)) return await rights.review(input, context);
        const denied = actionSchema.options.map((action) => ({ action, allowed: false, reason: readOnly.what }));
        return ok({ user: '', rights: denied });
      },
    },
    explain: {
      packet: async (input, context) =>
        isRecording(input.cluster) ? failed(noExplain) : await explain.packet(input, context),
    },
    support: {
      items: async (input, context) =>
        isRecording(input.cluster) ? failed(readOnly) : await support.items(input, context),
      preview: async (input, context) =>
        isRecording(input.cluster) ? failed(readOnly) : await support.preview(input, context),
      collect: async (input, sink, context) =>
        isRecording(input.cluster) ? readOnly : await support.collect(input, sink, context),
    },
    logs: {
      follow: async (input, sink, context) =>
        isRecording(input.cluster) ? noLogs : await logs.follow(input, sink, context),
    },
    application: {
      ...application,
      async openRecording({ name }) {
        const opened = await openByName(name);
        return opened.ok ? ok({ cluster: opened.value }) : opened;
      },
      async record(input, sink, context) {
        if (isRecording(input.cluster)) return readOnly;
        return await record(live, input, sink, context);
      },
    },
    clusters: {
      ...clusters,
      async watch(input, sink, context) {
        let newest: Parameters<typeof sink.push>[0][number] = { clusters: [], problems: [] };
        const rows = () => open.all().map(clusterRow);
        let sending: Promise<void> = Promise.resolve();
        const send = () => {
          sending = sending
            .then(() => sink.push([{ ...newest, clusters: [...newest.clusters, ...rows()] }]))
            // The consumer has gone; the live stream ends by its own signal.
            .catch(() => undefined);
          return sending;
        };
        using _registration = open.onChange(() => void send());
        return await clusters.watch(
          input,
          {
            async push(items) {
              newest = items.at(-1) ?? newest;
              await send();
            },
          },
          context,
        );
      },
      inventory: async (input, sink, context) =>
        isRecording(input.cluster)
          ? await replaying(input.cluster, context, (replay, signal) => replay.inventory(sink as never, signal))
          : await clusters.inventory(input, sink, context),
      async connect(input, context) {
        if (!isRecording(input.cluster)) return await clusters.connect(input, context);
        const found = open.get(input.cluster);
        return found.ok ? ok({}) : found;
      },
      async disconnect(input, context) {
        if (!isRecording(input.cluster)) return await clusters.disconnect(input, context);
        open.close(input.cluster);
        return ok({});
      },
      async forget(input, context) {
        if (!isRecording(input.cluster)) return await clusters.forget(input, context);
        open.close(input.cluster);
        return ok({});
      },
      setProtected: async (input, context) =>
        isRecording(input.cluster) ? failed(readOnly) : await clusters.setProtected(input, context),
      deletePod: async (input, context) =>
        isRecording(input.cluster) ? failed(readOnly) : await clusters.deletePod(input, context),
      describeExecPlugin: async (input, context) =>
        isRecording(input.cluster) ? failed(readOnly) : await clusters.describeExecPlugin(input, context),
      allowExecPlugin: async (input, context) =>
        isRecording(input.cluster) ? failed(readOnly) : await clusters.allowExecPlugin(input, context),
    },
    flows: {
      ...flows,
      watch: async (input, sink, context) =>
        isRecording(input.cluster)
          ? await replaying(input.cluster, context, (replay, signal) => replay.flows(input, sink as never, signal))
          : await flows.watch(input, sink, context),
    },
    topology: {
      watch: async (input, sink, context) =>
        isRecording(input.cluster)
          ? await replaying(input.cluster, context, (replay, signal) => replay.topology(input, sink as never, signal))
          : await topology.watch(input, sink, context),
    },
    policies: {
      ...policies,
      watch: async (input, sink, context) =>
        isRecording(input.cluster)
          ? await replaying(input.cluster, context, (replay, signal) => replay.policies(sink as never, signal))
          : await policies.watch(input, sink, context),
      async read(input, context) {
        if (!isRecording(input.cluster)) return await policies.read(input, context);
        const found = open.get(input.cluster);
        if (!found.ok) return found;
        const { kind, namespace, name } = input.id;
        const policy = found.value.replay.policy(JSON.stringify({ kind, namespace, name }));
        if (policy) return ok({ text: policy.text, resourceVersion: policy.resourceVersion });
        return failed({
          code: 'recording.no-policy',
          what: `The text of ${name} is not in this recording.`,
          why: 'It was gone before it could be read.',
          fix: 'Choose another policy.',
        });
      },
      async validate(input, context) {
        if (!isRecording(input.cluster)) return await policies.validate(input, context);
        const found = open.get(input.cluster);
        return found.ok ? await validateIn(found.value.replay, input.text) : found;
      },
      dryRun: async (input, context) =>
        isRecording(input.cluster) ? failed(readOnly) : await policies.dryRun(input, context),
      apply: async (input, context) =>
        isRecording(input.cluster) ? failed(readOnly) : await policies.apply(input, context),
      remove: async (input, context) =>
        isRecording(input.cluster) ? failed(readOnly) : await policies.remove(input, context),
    },
    install: {
      status: async (input, context) =>
        isRecording(input.cluster) ? failed(readOnly) : await install.status(input, context),
      check: async (input, context) =>
        isRecording(input.cluster) ? failed(readOnly) : await install.check(input, context),
      plan: async (input, context) =>
        isRecording(input.cluster) ? failed(readOnly) : await install.plan(input, context),
      apply: async (input, context) =>
        isRecording(input.cluster) ? failed(readOnly) : await install.apply(input, context),
      stop: async (input, context) => (isRecording(input.cluster) ? ok({}) : await install.stop(input, context)),
      watch: async (input, sink, context) =>
        isRecording(input.cluster) ? undefined : await install.watch(input, sink, context),
    },
    connectivity: {
      ...connectivity,
      start: async (input, context) =>
        isRecording(input.cluster) ? failed(readOnly) : await connectivity.start(input, context),
      watch: async (input, sink, context) =>
        isRecording(input.cluster) ? undefined : await connectivity.watch(input, sink, context),
    },
    verify: {
      preflight: async (input, sink, context) =>
        isRecording(input.cluster) ? noChecks : await verify.preflight(input, sink, context),
      run: async (input, sink, context) =>
        isRecording(input.cluster) ? noChecks : await verify.run(input, sink, context),
    },
    terminals: {
      ...terminals,
      open: async (input, sink, context) =>
        isRecording(input.target.cluster) ? noTerminal : await terminals.open(input, sink, context),
      sshHosts: async (input, context) =>
        isRecording(input.cluster) ? ok({ hosts: [] }) : await terminals.sshHosts(input, context),
      debugImages: async (input, context) =>
        isRecording(input.cluster) ? ok({ images: [] }) : await terminals.debugImages(input, context),
    },
  };
}
