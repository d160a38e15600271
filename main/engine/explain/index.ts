import { isIP, isIPv4 } from 'node:net';
import { Code, ConnectError } from '@connectrpc/connect';
import type { PacketAnswer, PacketQuestion } from '../../../contract/explain.ts';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import type { ExplainResponse } from '../agents/gen/fairlead/v1/agent_pb.ts';
import { type Agents, agentFailure, unaryTimeout } from '../agents/index.ts';

const verdicts = ['delivered', 'host', 'leaves', 'dropped', 'refused', 'proxy', 'unknown'] as const;

/** The agent's answer as the contract has it. A verdict of a later version is "unknown", with a note. */
export function answerOf(response: ExplainResponse): PacketAnswer {
  const verdict = verdicts.find((known) => known === response.verdict);
  return {
    verdict: verdict ?? 'unknown',
    summary: response.summary,
    dropReason: response.dropReasonName,
    steps: response.steps.map((step) => ({
      node: step.node,
      hook: step.hook,
      kind: step.kind,
      map: step.map,
      key: step.key,
      value: step.value,
      rule: step.rule,
      rewrite: step.rewrite,
      verdict: step.verdict,
      text: step.text,
      dropReason: step.dropReasonName,
      source: step.source,
    })),
    notes: verdict
      ? response.notes
      : [...response.notes, `The agent answered "${response.verdict}", which this console does not know.`],
  };
}

const familyNames = { ipv4: 'IPv4', ipv6: 'IPv6' } as const;

/** Maps that programs ask with addresses of the packet itself: those of a tunnel may be of another family. */
const packetMaps = new Set(['services', 'endpoints', 'ipcache', 'connections', 'openings', 'blocks']);

/**
 * The family of the first address of the packet; undefined where no step names one. The node command line does the same:
 * whoever asks an older agent has to, and both are held together by node-agent/internal/commandline/testdata/families.json.
 */
export function deducedFamily(
  steps: readonly Pick<ExplainResponse['steps'][number], 'map' | 'key'>[],
): 'ipv4' | 'ipv6' | undefined {
  for (const step of steps) {
    if (!packetMaps.has(step.map)) continue;
    for (const word of step.key.split(/[\s,]+/)) {
      const address = /^\[(.*)\]:\d+$/.exec(word)?.[1] ?? (isIP(word) ? word : word.replace(/:\d+$/, ''));
      if (isIPv4(address) || (isIP(address) && /^::ffff:(\d+\.|[\da-f]+:[\da-f]+$)/i.test(address))) return 'ipv4';
      if (isIP(address)) return 'ipv6';
    }
  }
  return undefined;
}

/**
 * The answer, where it is about the family that was asked about. An agent of an older version, on the sender's node, does not
 * look at the family; where that cannot be told the answer gets a note.
 */
export function aboutFamily(
  asked: PacketQuestion['family'],
  response: ExplainResponse,
  answer: PacketAnswer,
): Result<PacketAnswer> {
  if (asked === undefined || asked === 'either' || response.family === asked) return ok(answer);
  const about =
    response.family === 'ipv4' || response.family === 'ipv6' ? response.family : deducedFamily(response.steps);
  if (about === asked) return ok(answer);
  const node = response.steps[0]?.node;
  const why = `The agent ${node ? `of node ${node}` : 'of the sender’s node'} is of an older version, which does not look at the family of a question.`;
  const fix = `Upgrade the agent, or give the sender by its address of ${familyNames[asked]}.`;
  if (about === undefined)
    return ok({
      ...answer,
      notes: [...answer.notes, `This answer may not be about ${familyNames[asked]}. ${why} ${fix}`],
    });
  return failed({
    code: 'explain.family',
    what: `The answer is about ${familyNames[about]}, and the question about ${familyNames[asked]}.`,
    why,
    fix,
  });
}

const sentence = (text: string) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

/**
 * What is wrong with the question itself, in the agent's words ("why; fix"): a name that nobody has, a family of which an
 * end has no address. Undefined where the failure is another.
 */
export function questionFailure(error: unknown): Failure | undefined {
  const { code, rawMessage } = ConnectError.from(error);
  if (code !== Code.InvalidArgument && code !== Code.NotFound) return undefined;
  const [why = '', ...fix] = rawMessage.split('; ');
  return {
    code: 'explain.question',
    what: 'This question has no answer.',
    why: sentence(why),
    fix: fix.length > 0 ? sentence(fix.join('; ')) : 'Change the question.',
  };
}

/** Asks the agents where a packet goes. Any of them knows which one has the sender, and passes the question on. */
async function ask(agents: Agents, question: PacketQuestion): Promise<Result<PacketAnswer>> {
  const opened = await agents.open(question.cluster);
  if (!opened.ok) return opened;
  using held = opened.value;
  const listed = await held.ready();
  if (!listed.ok) return listed;
  let last: Result<PacketAnswer> = failed({
    code: 'explain.no-agent',
    what: 'No agent of this cluster can be asked.',
    why: 'The answer comes from the programs that the agents have loaded on the nodes.',
    fix: 'Install the agent on the cluster, or wait until one of its pods is ready.',
  });
  // One that is connected already answers at once; the others only where it does not.
  const links = held.links().toSorted((a, b) => Number(b.state === 'ready') - Number(a.state === 'ready'));
  for (const link of links) {
    const client = await link.client();
    if (!client.ok) {
      last = client;
      continue;
    }
    const { from, to, protocol, family, port, sourcePort, l7, perPacket } = question;
    try {
      const response = await client.value.agent.explain(
        {
          ...{ from, to, protocol, port, sourcePort: sourcePort ?? 0, l7: l7 ?? '', perPacket: perPacket ?? false },
          family: family === 'either' ? '' : (family ?? ''),
        },
        { timeoutMs: 3 * unaryTimeout },
      );
      return aboutFamily(family, response, answerOf(response));
    } catch (error) {
      // What the agent says of the question is the answer; another agent would say the same.
      return failed(questionFailure(error) ?? agentFailure(link.node, error));
    }
  }
  return last;
}

/** Where a packet goes, and why. */
export function createExplain(options: { readonly agents: Agents }): CapabilityImplementation<'explain'> {
  return { packet: (question) => ask(options.agents, question) };
}
