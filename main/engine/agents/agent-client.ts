import type { Duplex } from 'node:stream';
import * as tls from 'node:tls';
import { type Client, Code, ConnectError, createClient, type Interceptor } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { DuplexSessionManager, type DuplexSessionOptions } from './duplex-session.ts';
import { AgentService } from './gen/fairlead/v1/agent_pb.ts';
import { Observer } from './gen/observer/observer_pb.ts';

/** What the client proves itself with and what it expects of the agent; PEM. */
export interface AgentTls {
  readonly ca: string | Buffer;
  readonly cert: string | Buffer;
  readonly key: string | Buffer;
  /** The name on the agent's certificate, e.g. "node-1.default.hubble-grpc.cilium.io". */
  readonly serverName: string;
}

export interface AgentClientOptions extends DuplexSessionOptions {
  /** Deadline of unary calls that bring none of their own. Streams have none. */
  readonly unaryTimeoutMs?: number;
}

/**
 * One agent (or a foreign Hubble Relay, which has only the observer). Calls throw ConnectError; a connection that is lost
 * is always `Code.Unavailable`, so that `Code.Canceled` only ever means that the caller's own signal was aborted.
 */
export interface AgentClient extends Disposable {
  readonly agent: Client<typeof AgentService>;
  readonly observer: Client<typeof Observer>;
  /** Ends the connection with all its calls. The client can be used again: it dials anew. */
  readonly close: () => void;
}

const AUTHORITY = 'http://agent.invalid';
const DEFAULT_UNARY_TIMEOUT_MS = 10_000;

/**
 * Speaks gRPC to an agent over any duplex; no local port is opened.
 *
 * @param dial Gives a fresh duplex to the agent whenever a connection is needed; it may be a `lateDuplex`.
 * @param agentTls TLS inside the duplex, with certificates on both sides; leave it out only for a Unix socket.
 */
export function createAgentClient(
  dial: () => Duplex,
  agentTls?: AgentTls,
  options: AgentClientOptions = {},
): AgentClient {
  const sessions = new DuplexSessionManager(AUTHORITY, () => secured(dial(), agentTls), options);
  const timeoutMs = options.unaryTimeoutMs ?? DEFAULT_UNARY_TIMEOUT_MS;
  const transport = createGrpcTransport({
    baseUrl: AUTHORITY,
    sessionManager: sessions,
    interceptors: [tellLossFromCancellation],
  });
  const bounded = {
    ...transport,
    unary: ((method, signal, timeout, ...rest) =>
      transport.unary(method, signal, timeout ?? timeoutMs, ...rest)) as typeof transport.unary,
  };
  const close = () => sessions.abort(new ConnectError('the connection to the agent was closed', Code.Canceled));
  return {
    agent: createClient(AgentService, bounded),
    observer: createClient(Observer, bounded),
    close,
    [Symbol.dispose]: close,
  };
}

function secured(duplex: Duplex, agentTls: AgentTls | undefined): Duplex {
  if (agentTls === undefined) return duplex;
  const socket = tls.connect({
    socket: duplex,
    ca: agentTls.ca,
    cert: agentTls.cert,
    key: agentTls.key,
    servername: agentTls.serverName,
    ALPNProtocols: ['h2'],
    minVersion: 'TLSv1.3',
  });
  // The TLS layer does not always pass on that the duplex below it broke.
  duplex.on('error', (error) => socket.destroy(error));
  duplex.once('close', () => socket.destroy());
  socket.once('close', () => duplex.destroy());
  return socket;
}

/** How much earlier than our own timer the agent may end a call whose deadline it was told. */
const DEADLINE_SLACK_MS = 50;

/** When a call's deadline passes, in the clock of performance.now(); infinite without one. */
function deadlineOf(header: Headers): number {
  const [, amount, unit] = /^(\d+)([mSMHun])$/.exec(header.get('Grpc-Timeout') ?? '') ?? [];
  const unitMs: Readonly<Record<string, number>> = { n: 1e-6, u: 1e-3, m: 1, S: 1000, M: 60_000, H: 3_600_000 };
  const factor = unit === undefined ? undefined : unitMs[unit];
  return factor === undefined ? Number.POSITIVE_INFINITY : performance.now() + Number(amount) * factor;
}

/** Connect calls it "canceled" when a session or a stream ends under a call, whoever ended it and why. */
function explained(error: unknown, signal: AbortSignal, deadline: number): unknown {
  const cause = ConnectError.from(error);
  if (signal.aborted) return error;
  if (cause.code !== Code.Canceled && cause.code !== Code.Aborted && !isTransportFailure(cause)) return error;
  return performance.now() >= deadline - DEADLINE_SLACK_MS
    ? new ConnectError('the operation timed out', Code.DeadlineExceeded, undefined, undefined, cause)
    : new ConnectError(
        `the connection to the agent was lost: ${cause.rawMessage}`,
        Code.Unavailable,
        undefined,
        undefined,
        cause,
      );
}

/** A failure that Node gave, and not the agent by its status. */
function isTransportFailure(error: ConnectError): boolean {
  if (error.code !== Code.Internal && error.code !== Code.Unknown) return false;
  return error.cause instanceof Error && !(error.cause instanceof ConnectError);
}

const tellLossFromCancellation: Interceptor = (next) => async (request) => {
  const deadline = deadlineOf(request.header);
  try {
    const response = await next(request);
    if (!response.stream) return response;
    return { ...response, message: watched(response.message, request.signal, deadline) };
  } catch (error) {
    throw explained(error, request.signal, deadline);
  }
};

async function* watched<T>(messages: AsyncIterable<T>, signal: AbortSignal, deadline: number): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (error) {
    throw explained(error, signal, deadline);
  }
}
