import { create, toBinary } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import type { FlowHealth, FlowItem } from '../../../contract/flows.ts';
import { ok } from '../../../contract/index.ts';
import type { AgentConnection } from '../agents/agent-connection.ts';
import type { AgentLink, ClusterAgents } from '../agents/agent-pool.ts';
import { LostEventSource } from '../agents/gen/flow/flow_pb.ts';
import { GetFlowsResponseSchema } from '../agents/gen/observer/observer_pb.ts';
import { watchFlows } from './watch.ts';

/** An agent that tells of lost events once, then is silent. */
function link(node: string, pod: string, kernel: number, agent: number): AgentLink {
  const lost = (source: LostEventSource, count: number) =>
    toBinary(
      GetFlowsResponseSchema,
      create(GetFlowsResponseSchema, {
        responseTypes: { case: 'lostEvents', value: { source, numEventsLost: BigInt(count) } },
      }),
    );
  async function* watchFlows(_request: unknown, { signal }: { readonly signal: AbortSignal }) {
    yield {
      responses: [
        lost(LostEventSource.PERF_EVENT_RING_BUFFER, kernel),
        lost(LostEventSource.OBSERVER_EVENTS_QUEUE, agent),
      ],
    };
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  }
  const connection = { agent: { watchFlows } } as unknown as AgentConnection;
  return { node, pod, state: 'ready', podProblem: '', restarts: 0, client: async () => ok(connection) };
}

test('what was lost stays counted when an agent is replaced', async () => {
  let links = [link('node1', 'a', 5, 2), link('node2', 'b', 1, 0)];
  let listener: () => void = () => undefined;
  const agents: ClusterAgents = {
    links: () => links,
    onChange: (changed) => {
      listener = changed;
      return { [Symbol.dispose]: () => undefined };
    },
    ready: async () => ok(undefined),
    signal: new AbortController().signal,
    [Symbol.dispose]: () => undefined,
  };
  const stop = new AbortController();
  let newest: FlowHealth | undefined;
  let wake: () => void = () => undefined;
  const lost = (node: string) => {
    const found = newest?.nodes.find((one) => one.node === node);
    return found ? [found.lostInKernel, found.lostInAgent] : undefined;
  };
  const seen: number[] = [];
  const until = async (node: string, kernel: number, agent: number) => {
    while (String(lost(node)) !== String([kernel, agent]))
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
  };
  const running = watchFlows(
    agents,
    { allow: [], deny: [], last: 0, since: undefined, until: undefined, follow: true },
    {
      async push(items: readonly FlowItem[]) {
        for (const item of items) if (item.kind === 'health') newest = item.health;
        const [kernel] = lost('node1') ?? [];
        if (kernel !== undefined) seen.push(kernel);
        wake();
      },
    },
    stop.signal,
  );
  await until('node1', 5, 2);
  for (const pod of ['c', 'd']) {
    links = [link('node1', pod, 3, 1), ...links.slice(1)];
    listener();
    await until('node1', pod === 'c' ? 8 : 11, pod === 'c' ? 3 : 4);
  }
  expect(lost('node2')).toEqual([1, 0]);
  expect(seen).toEqual(seen.toSorted((a, b) => a - b));
  stop.abort();
  expect(await running).toBeUndefined();
});
