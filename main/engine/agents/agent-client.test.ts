import { setTimeout as delay } from 'node:timers/promises';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { type AgentClient, createAgentClient } from './agent-client.ts';
import { lateDuplex } from './duplex-session.ts';
import { Verdict } from './gen/flow/flow_pb.ts';
import { GetFlowsRequestSchema, GetFlowsResponseSchema } from './gen/observer/observer_pb.ts';
import { noTestAgent, removeTestServer, TestAgent, testServer } from './test-agent.ts';

const reason = noTestAgent();
if (reason !== undefined) console.warn(`skipped: ${reason}`);
vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });
beforeAll(() => {
  if (reason === undefined) testServer();
}, 600_000);
afterAll(removeTestServer);

/** The code a call or a stream fails with. */
async function codeOf(failing: Promise<unknown>): Promise<Code | undefined> {
  return failing.then(
    () => undefined,
    (error: unknown) => ConnectError.from(error).code,
  );
}

/** The first element of a stream, which is then left. */
async function first<T>(stream: AsyncIterable<T>): Promise<T> {
  for await (const element of stream) return element;
  throw new Error('the stream ended without an element');
}

describe.skipIf(reason !== undefined).each([
  { wire: 'Unix socket', make: (agent: TestAgent) => createAgentClient(agent.dialLocal) },
  { wire: 'mTLS inside a duplex', make: (agent: TestAgent) => createAgentClient(agent.dialTunnel, agent.tls) },
])('an agent over a $wire', ({ make }) => {
  let agent: TestAgent;
  let client: AgentClient;
  beforeAll(async () => {
    agent = await TestAgent.start(2000);
    client = make(agent);
  });
  afterAll(async () => {
    client.close();
    await agent.stop();
  });

  it('answers unary calls, many at once', async () => {
    const calls = Array.from({ length: 50 }, () => client.agent.getStatus({}));
    const answers = await Promise.all([...calls]);
    expect(new Set(answers.map((answer) => answer.nodeName))).toEqual(new Set(['node1']));
    const status = await client.observer.serverStatus({});
    expect(status.maxFlows).toBe(65535n);
  });

  it('answers unary calls one after the other', async () => {
    for (let i = 0; i < 50; i++) expect((await client.agent.getStatus({})).clusterName).toBe('default');
  });

  it('streams flows with filters and ends', async () => {
    const drops = [];
    for await (const response of client.observer.getFlows({ whitelist: [{ verdict: [Verdict.DROPPED] }] })) {
      if (response.responseTypes.case === 'flow') drops.push(response.responseTypes.value);
    }
    expect(drops.map((flow) => flow.source?.podName)).toEqual(['xwing', 'xwing']);
    expect(drops[1]?.ingressDeniedBy[0]?.name).toBe('rule1');
  });

  it('streams flows in batches', async () => {
    const request = toBinary(GetFlowsRequestSchema, create(GetFlowsRequestSchema, { follow: true, number: 9n }));
    let flows = 0;
    let messages = 0;
    for await (const batch of client.agent.watchFlows({ request, maxBatch: 500, maxDelayMilliseconds: 20 })) {
      for (const raw of batch.responses) {
        if (fromBinary(GetFlowsResponseSchema, raw).responseTypes.case === 'flow') flows++;
      }
      messages++;
      if (flows >= 200) break;
    }
    expect(flows / messages).toBeGreaterThan(5);
  });

  it('streams edges', async () => {
    const batches = client.agent.watchEdges({ intervalMilliseconds: 200 });
    for await (const batch of batches) {
      const edge = batch.edges.find((e) => e.source?.podName === 'tiefighter' && e.forwarded > 0n);
      if (edge === undefined) continue;
      expect(edge.destination?.workloadName).toBe('deathstar');
      expect(edge.destinationPort).toBe(80);
      break;
    }
  });

  it("gives the agent's own errors as they are", async () => {
    const error = ConnectError.from(await client.agent.listMaps({}).catch((e: unknown) => e));
    expect([error.code, error.rawMessage]).toEqual([Code.FailedPrecondition, 'the maps are not pinned']);
  });

  it('gives wrong requests back with what is wrong', async () => {
    const stream = client.observer.getFlows({ whitelist: [{ sourceIp: ['10.0.0.300'] }] });
    const error = ConnectError.from(await first(stream).catch((e: unknown) => e));
    expect(error.code).toBe(Code.InvalidArgument);
    expect(error.rawMessage).toContain('10.0.0.300');
  });

  it('ends a unary call at its deadline', async () => {
    expect(await codeOf(client.agent.listJournal({}, { timeoutMs: 100 }))).toBe(Code.DeadlineExceeded);
  });

  it('ends a stream at its deadline', async () => {
    const run = async () => {
      for await (const _ of client.observer.getFlows({ follow: true }, { timeoutMs: 200 })) void _;
    };
    expect(await codeOf(run())).toBe(Code.DeadlineExceeded);
  });

  it('does not start what was aborted before', async () => {
    const signal = AbortSignal.abort();
    expect(await codeOf(client.agent.getStatus({}, { signal }))).toBe(Code.Canceled);
    expect(await codeOf(first(client.observer.getFlows({ follow: true }, { signal })))).toBe(Code.Canceled);
  });

  it('ends a stream whose signal is aborted, as canceled', async () => {
    const abort = new AbortController();
    const run = async () => {
      for await (const _ of client.observer.getFlows({ follow: true }, { signal: abort.signal })) abort.abort();
    };
    expect(await codeOf(run())).toBe(Code.Canceled);
  });

  it('can leave a stream early, over and over', async () => {
    for (let i = 0; i < 20; i++) await first(client.observer.getFlows({ follow: true, number: 1n }));
    expect((await client.agent.getStatus({})).nodeName).toBe('node1');
  });

  it('holds the agent back while it reads slowly', async () => {
    let read = 0;
    for await (const _ of client.observer.getFlows({ follow: true, number: 100n })) {
      if (++read > 20) break;
      await delay(2);
    }
    expect(read).toBe(21);
  });

  describe.each([
    { fault: 'is destroyed', strike: (a: TestAgent) => a.duplexes.at(-1)?.destroy() },
    { fault: 'fails', strike: (a: TestAgent) => a.duplexes.at(-1)?.destroy(new Error('tunnel broke')) },
  ])('when the duplex $fault', ({ strike }) => {
    it.each([{ pace: 0 }, { pace: 5 }])('tells a reader (pace $pace ms) and dials again', async ({ pace }) => {
      await client.agent.getStatus({});
      const dialled = agent.duplexes.length;
      let struck = false;
      const run = async () => {
        for await (const _ of client.observer.getFlows({ follow: true, number: 50n })) {
          if (!struck) strike(agent);
          struck = true;
          if (pace > 0) await delay(pace);
        }
      };
      expect(await codeOf(run())).toBe(Code.Unavailable);
      expect((await client.agent.getStatus({})).nodeName).toBe('node1');
      expect(agent.duplexes.length).toBe(dialled + 1);
    });

    it('tells a pending unary call', async () => {
      await client.agent.getStatus({});
      const pending = codeOf(client.agent.listJournal({}, { timeoutMs: 5000 }));
      await delay(20);
      strike(agent);
      expect(await pending).toBe(Code.Unavailable);
    });
  });
});

describe.skipIf(reason !== undefined)('an agent that goes or was never there', () => {
  it('is unavailable to streams and calls once it stops serving', async () => {
    const agent = await TestAgent.start(1000);
    using client = createAgentClient(agent.dialTunnel, agent.tls);
    const run = async () => {
      let stopping: Promise<void> | undefined;
      for await (const _ of client.observer.getFlows({ follow: true })) stopping ??= agent.command('stop');
      await stopping;
    };
    expect(await codeOf(run())).toBe(Code.Unavailable);
    expect(await codeOf(client.agent.getStatus({}))).toBe(Code.Unavailable);
    await agent.stop();
  });

  it('is refused with a wrong authority, name or no certificate', async () => {
    const agent = await TestAgent.start();
    const other = await TestAgent.start();
    const refusals = [
      { ...agent.tls, ca: other.tls.ca },
      { ...agent.tls, serverName: 'node9.default.hubble-grpc.cilium.io' },
      { ...agent.tls, cert: other.tls.cert, key: other.tls.key },
    ];
    for (const tls of refusals) {
      using client = createAgentClient(agent.dialTunnel, tls);
      expect(await codeOf(client.agent.getStatus({}, { timeoutMs: 3000 }))).toBe(Code.Unavailable);
    }
    await Promise.all([agent.stop(), other.stop()]);
  });

  it('is unavailable when the tunnel cannot be opened, and reached when it can', async () => {
    const agent = await TestAgent.start();
    let broken = true;
    using client = createAgentClient(
      () =>
        lateDuplex(async () => {
          await delay(20);
          if (broken) throw new Error('no route to the node');
          return agent.dialTunnel();
        }),
      agent.tls,
    );
    const error = ConnectError.from(await client.agent.getStatus({}).catch((e: unknown) => e));
    expect(error.code).toBe(Code.Unavailable);
    expect(error.rawMessage).toContain('no route to the node');
    broken = false;
    expect((await client.agent.getStatus({})).nodeName).toBe('node1');
    await agent.stop();
  });
});
