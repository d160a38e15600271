import type { Duplex } from 'node:stream';
import { Code, ConnectError } from '@connectrpc/connect';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import { type AgentClient, type AgentTls, createAgentClient } from './agent-client.ts';
import type { GetStatusResponse } from './gen/fairlead/v1/agent_pb.ts';

/** An open connection to one agent. It is used until it breaks; whoever made it makes a new one then. */
export interface AgentConnection extends Pick<AgentClient, 'agent' | 'observer'> {
  readonly node: string;
  /** What the agent says of itself; a deadline of 5 s. */
  readonly status: () => Promise<Result<GetStatusResponse>>;
  /** Aborted when the connection ends, whoever ends it. */
  readonly closed: AbortSignal;
  readonly close: () => void;
}

/** Deadline of calls that give one answer, in milliseconds. */
export const unaryTimeout = 5000;

/** An agent's or the wire's error in words. */
export function agentFailure(node: string, error: unknown): Failure {
  const reason = ConnectError.from(error);
  const text = reason.rawMessage || reason.message;
  switch (reason.code) {
    case Code.Unimplemented:
      return {
        code: 'agent.unimplemented',
        what: `The agent on ${node} does not know this question.`,
        why: text,
        fix: 'Upgrade the agents.',
      };
    case Code.DeadlineExceeded:
      return {
        code: 'agent.timeout',
        what: `The agent on ${node} did not answer in time.`,
        why: text,
        fix: 'Look at the load of the node.',
      };
    case Code.PermissionDenied:
    case Code.Unauthenticated:
      return {
        code: 'agent.refused',
        what: `The agent on ${node} refuses this console.`,
        why: text,
        fix: 'Plan and apply the installation again, so that the certificates fit together.',
      };
    default:
      return {
        code: 'agent.unreachable',
        what: `The connection to the agent on ${node} broke.`,
        why: text,
        fix: 'It is tried again by itself. If it stays, look at the agent pod of the node.',
      };
  }
}

/** Speaks with one agent over a byte stream that is open already, and makes sure that it answers. */
export async function connectAgent(
  node: string,
  duplex: Duplex,
  tls: AgentTls,
  signal: AbortSignal,
): Promise<Result<AgentConnection>> {
  const gone = new AbortController();
  let dialled = false;
  const client = createAgentClient(() => {
    if (dialled || duplex.destroyed) throw new ConnectError('the connection is closed', Code.Unavailable);
    dialled = true;
    return duplex;
  }, tls);
  const close = () => {
    if (gone.signal.aborted) return;
    gone.abort();
    signal.removeEventListener('abort', close);
    client.close();
    duplex.destroy();
  };
  // Calls that run hear of an error by themselves; these listeners are for when none runs.
  duplex.on('error', close);
  duplex.once('close', close);
  signal.addEventListener('abort', close, { once: true });
  const status = async (): Promise<Result<GetStatusResponse>> => {
    try {
      return ok(await client.agent.getStatus({}, { timeoutMs: unaryTimeout }));
    } catch (error) {
      return failed(agentFailure(node, error));
    }
  };
  const first = await status();
  if (!first.ok) {
    close();
    return first;
  }
  return ok({ node, agent: client.agent, observer: client.observer, status, closed: gone.signal, close });
}
