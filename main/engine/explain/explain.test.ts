import { create } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { describe, expect, test } from 'vitest';
import { packetAnswerSchema, packetQuestionSchema } from '../../../contract/explain.ts';
import { failed, ok } from '../../../contract/failure.ts';
import { type ExplainRequest, ExplainResponseSchema } from '../agents/gen/fairlead/v1/agent_pb.ts';
import type { Agents } from '../agents/index.ts';
import { answerOf, createExplain, questionFailure } from './index.ts';

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
