import type { Failure } from '../../../contract/failure.ts';
import type { FlowHealth, FlowItem } from '../../../contract/flows.ts';
import type { Sink } from '../../../contract/implementation.ts';
import type { ClusterAgents } from '../agents/agent-pool.ts';
import type { Flow as HubbleFlow } from '../agents/gen/flow/flow_pb.ts';
import { MergeBuffer } from './buffer.ts';
import { convertFlow, millisecondsOf } from './convert.ts';
import { type NodeRequest, NodeStream } from './node-stream.ts';

/** How long flows wait for earlier ones of other nodes, and at the beginning for the past of all nodes; milliseconds. */
const mergeWindow = 80;
const firstWindow = 400;
/** Flows that may wait for a slow view. */
const capacity = 20_000;
const batch = 500;
const healthInterval = 1000;

/** Streams the flows of all agents of a cluster into one sink until aborted, or until all have given what was asked. */
export async function watchFlows(
  agents: ClusterAgents,
  request: NodeRequest,
  sink: Sink<FlowItem>,
  signal: AbortSignal,
): Promise<Failure | undefined> {
  using stack = new DisposableStack();
  const end = new AbortController();
  let wake: () => void = () => undefined;
  const stop = () => end.abort();
  for (const source of [signal, agents.signal]) {
    if (source.aborted) stop();
    source.addEventListener('abort', stop, { once: true });
    stack.defer(() => source.removeEventListener('abort', stop));
  }
  stack.defer(stop);
  end.signal.addEventListener('abort', () => wake(), { once: true });

  const buffer = new MergeBuffer<{ readonly flow: HubbleFlow; readonly node: string }>(capacity);
  const streams = new Map<unknown, { readonly stream: NodeStream; readonly stop: AbortController; done: boolean }>();
  /** What agents that are gone had lost, by node: a replaced agent's stream begins at zero, the totals must not. */
  const lostBefore = new Map<string, { readonly kernel: number; readonly agent: number }>();
  let arrived = 0;
  let rate = 0;
  let healthChanged = true;

  const handlers = {
    flow: (flow: HubbleFlow, node: string) => {
      arrived += 1;
      buffer.add({ time: millisecondsOf(flow.time), value: { flow, node } }, performance.now());
    },
    changed: () => {
      healthChanged = true;
      wake();
    },
  };

  const sync = () => {
    const links = new Set<unknown>(agents.links());
    for (const [link, entry] of streams)
      if (!links.has(link)) {
        entry.stop.abort();
        streams.delete(link);
        const { node, lostInKernel, lostInAgent } = entry.stream.health;
        const before = lostBefore.get(node);
        lostBefore.set(node, {
          kernel: (before?.kernel ?? 0) + lostInKernel,
          agent: (before?.agent ?? 0) + lostInAgent,
        });
        handlers.changed();
      }
    for (const link of agents.links()) {
      if (streams.has(link)) continue;
      const own = new AbortController();
      const entry = { stream: new NodeStream(link, request, handlers), stop: own, done: false };
      streams.set(link, entry);
      void entry.stream.run(AbortSignal.any([own.signal, end.signal])).finally(() => {
        entry.done = true;
        handlers.changed();
      });
      handlers.changed();
    }
  };
  const listed = await agents.ready();
  if (!listed.ok) return listed.failure;
  stack.use(agents.onChange(sync));
  sync();

  const health = (): FlowHealth => ({
    nodes: [...streams.values()].map(({ stream: { health: own } }) => {
      const before = lostBefore.get(own.node);
      if (!before) return own;
      return {
        ...own,
        lostInKernel: own.lostInKernel + before.kernel,
        lostInAgent: own.lostInAgent + before.agent,
      };
    }),
    lostInConsole: buffer.lost,
    rate,
  });

  let sequence = 0;
  const began = performance.now();
  let measuredAt = began;
  let lastLost = 0;
  while (!end.signal.aborted) {
    const now = performance.now();
    if (now - measuredAt >= healthInterval) {
      const newRate = Math.round((arrived / (now - measuredAt)) * 1000);
      healthChanged ||= newRate !== rate || buffer.lost !== lastLost;
      rate = newRate;
      lastLost = buffer.lost;
      arrived = 0;
      measuredAt = now;
    }
    const finished = !request.follow && [...streams.values()].every((entry) => entry.done);
    const until = finished ? now : now - (now - began < firstWindow ? firstWindow : mergeWindow);
    const items: FlowItem[] = buffer.take(until, batch).map(({ flow, node }) => {
      sequence += 1;
      return { kind: 'flow', flow: convertFlow(flow, sequence, node) };
    });
    if (healthChanged || (finished && items.length === 0)) {
      healthChanged = false;
      items.push({ kind: 'health', health: health() });
    }
    // Waits while the view has no credit left; meanwhile the buffer fills, and drops the oldest at last.
    if (items.length > 0) await sink.push(items);
    if (finished && buffer.size === 0) return undefined;
    if (items.length < batch)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, mergeWindow / 2);
        wake = () => {
          clearTimeout(timer);
          setTimeout(resolve, 5);
        };
      });
  }
  if (agents.signal.aborted && !signal.aborted)
    return {
      code: 'cluster.disconnected',
      what: 'The cluster was disconnected.',
      why: 'The connection that the flows came through was closed.',
      fix: 'Connect it again.',
    };
  return undefined;
}
