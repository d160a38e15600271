import { readFileSync } from 'node:fs';
import { create } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { describe, expect, test } from 'vitest';
import { z } from 'zod/mini';
import { packetAnswerSchema, packetQuestionSchema } from '../../../contract/explain.ts';
import { failed, ok } from '../../../contract/failure.ts';
import { type ExplainRequest, ExplainResponseSchema } from '../agents/gen/fairlead/v1/agent_pb.ts';
import type { Agents } from '../agents/index.ts';
import { answerOf, createExplain, deducedFamily, questionFailure } from './index.ts';

const context = { signal: new AbortController().signal, connection: 'test' };
const question = packetQuestionSchema.parse({
  cluster: 'c',
  from: 'default/client',
  to: 'service:default/web',
  protocol: 'tcp',
  port: 80,
});
const down = { code: 'agent.unreachable', what: 'w', why: 'w', fix: 'f' };

/** Agents by node: what each answers, or why it cannot be reached. */
function agentsOf(nodes: Readonly<Record<string, ((request: ExplainRequest) => unknown) | undefined>>): Agents {
  const links = Object.entries(nodes).map(([node, explain]) => ({
    node,
    state: explain ? 'ready' : 'unreachable',
    client: async () => (explain ? ok({ agent: { explain: async (r: ExplainRequest) => explain(r) } }) : failed(down)),
  }));
  const held = { links: () => links, ready: async () => ok(undefined), [Symbol.dispose]: () => undefined };
  return { open: async () => ok(held) } as unknown as Agents;
}

describe('explain', () => {
  test('gives what the first agent that answers says', async () => {
    let asked: ExplainRequest | undefined;
    const response = create(ExplainResponseSchema, {
      verdict: 'dropped',
      summary: 'Dropped on node b.',
      dropReason: 133,
      dropReasonName: 'POLICY_DENIED',
      steps: [{ node: 'b', hook: 'from_pod', kind: 'verdict', verdict: 'dropped', text: 'dropped', dropReason: 133 }],
    });
    const explain = createExplain({
      agents: agentsOf({
        a: undefined,
        b: (request) => {
          asked = request;
          return response;
        },
      }),
    });
    const result = await explain.packet(question, context);
    expect(asked).toMatchObject({
      from: 'default/client',
      to: 'service:default/web',
      port: 80,
      protocol: 'tcp',
      family: '',
    });
    if (!result.ok) throw new Error(result.failure.what);
    expect(packetAnswerSchema.parse(result.value)).toMatchObject({
      verdict: 'dropped',
      dropReason: 'POLICY_DENIED',
      steps: [{ node: 'b', hook: 'from_pod', verdict: 'dropped' }],
    });
  });

  test('asks about the family that is wanted, and says which end has no address of it', async () => {
    const text =
      'sender default/client has no address of IPv6 (it has 10.0.0.1); ask about IPv4, or about a sender that has one';
    const asked: string[] = [];
    const explain = createExplain({
      agents: agentsOf({
        a: ({ family }) => {
          asked.push(family);
          throw new ConnectError(text, Code.InvalidArgument);
        },
      }),
    });
    const families = [undefined, 'either', 'ipv4', 'ipv6'] as const;
    for (const family of families)
      expect(await explain.packet(family ? { ...question, family } : question, context)).toMatchObject({
        ok: false,
        failure: {
          code: 'explain.question',
          why: 'Sender default/client has no address of IPv6 (it has 10.0.0.1).',
          fix: 'Ask about IPv4, or about a sender that has one.',
        },
      });
    expect(asked).toEqual(['', '', 'ipv4', 'ipv6']);
    expect(packetQuestionSchema.safeParse({ ...question, family: 'ipx' }).success).toBe(false);
  });

  test('takes no answer about another family for one about the family that was asked about', async () => {
    const lookups = {
      ipv4: [
        { node: 'a', map: 'services', key: 'TCP 10.96.0.9:80' },
        { node: 'a', map: 'connections', key: 'endpoint 5, TCP 10.0.1.7:40000 ↔ 10.0.2.3:8080' },
        { node: 'a', map: 'ipcache', key: '10.0.2.3' },
      ],
      ipv6: [
        { node: 'a', map: 'services', key: 'TCP [fd00:96::9]:80' },
        { node: 'a', map: 'openings', key: 'endpoint 5, TCP [fd00:1::7]:40000 ↔ [fd00:2::3]:8080' },
        { node: 'a', map: 'endpoints', key: 'fd00:1::7' },
        { node: 'a', map: 'ipcache', key: '::fffe:0:1' },
      ],
    };
    // What says nothing of the packet's family: numbers, and nodes' addresses.
    const before = [
      { node: 'a', map: 'policy', key: 'endpoint 5 egress, identity 7, TCP 80' },
      { node: 'a', map: 'routing table', key: '192.0.2.2', value: 'by interface 2, next hop 192.0.2.2' },
    ];
    const answered = async (asked: 'either' | 'ipv4' | 'ipv6', response: object) =>
      await createExplain({
        agents: agentsOf({
          a: () => create(ExplainResponseSchema, { verdict: 'delivered', summary: 's', ...response }),
        }),
      }).packet({ ...question, family: asked }, context);
    for (const [about, other] of [
      ['ipv4', 'ipv6'],
      ['ipv6', 'ipv4'],
    ] as const)
      for (const step of lookups[about]) {
        const steps = [...before, step, ...lookups[other]];
        expect(await answered(about, { steps }), step.key).toMatchObject({ ok: true, value: { notes: [] } });
        expect(await answered('either', { steps }), step.key).toMatchObject({ ok: true, value: { notes: [] } });
        expect(await answered(other, { steps }), step.key).toMatchObject({
          ok: false,
          failure: {
            code: 'explain.family',
            what: `The answer is about ${about === 'ipv4' ? 'IPv4, and the question about IPv6' : 'IPv6, and the question about IPv4'}.`,
            why: 'The agent of node a is of an older version, which does not look at the family of a question.',
            fix: `Upgrade the agent, or give the sender by its address of ${other === 'ipv4' ? 'IPv4' : 'IPv6'}.`,
          },
        });
        // An agent that says what its answer is about is believed.
        expect(await answered(other, { steps, family: other })).toMatchObject({ ok: true, value: { notes: [] } });
      }
    const unclear = await answered('ipv6', { steps: before });
    expect(unclear.ok && unclear.value.notes.join()).toMatch(
      /^This answer may not be about IPv6\. The agent of node a is/,
    );
    const empty = await answered('ipv6', {});
    expect(empty.ok && empty.value.notes.join()).toContain('The agent of the sender’s node is of an older version');
  });

  test('reads the family out of an older agent’s steps as the node command line does', () => {
    const cases = z
      .array(
        z.object({
          name: z.string(),
          family: z.enum(['', 'ipv4', 'ipv6']),
          steps: z.array(z.object({ map: z.string(), key: z.string() })),
        }),
      )
      .check(z.minLength(1))
      .parse(
        JSON.parse(
          readFileSync(
            new URL('../../../node-agent/internal/commandline/testdata/families.json', import.meta.url),
            'utf8',
          ),
        ),
      );
    for (const { name, family, steps } of cases) expect(deducedFamily(steps) ?? '', name).toBe(family);
  });

  test('leaves failures that are not about the question to what says so of connections', () => {
    expect(questionFailure(new ConnectError('no pod "a/b" is known', Code.NotFound))).toMatchObject({
      why: 'No pod "a/b" is known.',
      fix: 'Change the question.',
    });
    expect(questionFailure(new ConnectError('gone', Code.Unavailable))).toBeUndefined();
    expect(questionFailure(new Error('gone'))).toBeUndefined();
  });

  test('says so when no agent can be asked', async () => {
    const none = await createExplain({ agents: agentsOf({}) }).packet(question, context);
    expect(none).toMatchObject({ ok: false, failure: { code: 'explain.no-agent' } });
    const unreachable = await createExplain({ agents: agentsOf({ a: undefined }) }).packet(question, context);
    expect(unreachable).toMatchObject({ ok: false, failure: { code: 'agent.unreachable' } });
  });

  test('keeps a verdict that it does not know as a note', () => {
    const answer = answerOf(create(ExplainResponseSchema, { verdict: 'teleported', summary: 's' }));
    expect(answer.verdict).toBe('unknown');
    expect(answer.notes.join()).toContain('teleported');
  });

  test('takes no port beyond 65535 and no empty name', () => {
    expect(packetQuestionSchema.safeParse({ ...question, port: 65536 }).success).toBe(false);
    expect(packetQuestionSchema.safeParse({ ...question, from: '  ' }).success).toBe(false);
  });
});
