import { z } from 'zod/mini';
import { type Failure, failed, type Result } from '../failure.ts';
import type { CallContext, ImplementationOf, Sink } from '../implementation.ts';
import type { AnyContract } from '../procedure.ts';
import { type ClientFrame, clientFrameSchema, limits, type ServerFrame, sizeOf, type Wire } from './frames.ts';
import { createSink, type StreamSink } from './sink.ts';

/** What the server reports to the engine's log: its own faults (thrown errors) and callers' violations. */
export type RpcLog = (event: {
  readonly level: 'warn' | 'error';
  readonly message: string;
  readonly method?: string;
}) => void;

export interface ServeOptions {
  /** Unique per connection; passed on to handlers. */
  readonly connection: string;
  readonly log?: RpcLog;
}

type AnyHandler = (input: unknown, context: CallContext) => Promise<Result<unknown>>;
type AnyProducer = (input: unknown, sink: Sink<unknown>, context: CallContext) => Promise<Failure | undefined>;

interface Running {
  readonly abort: AbortController;
  readonly sink: StreamSink | undefined;
}

/** Text for an unexpected exception. The stack goes to the log, never over the wire. */
function internal(method: string, error: unknown): Failure {
  return {
    code: 'internal',
    what: `${method} failed in a way that Fairlead did not expect.`,
    why: error instanceof Error ? error.message : String(error),
    fix: 'Try again. If it stays, look at the engine’s log and report it with the lines around this time.',
  };
}

/**
 * Serves an implementation to one client until the wire closes; then every running call and stream is aborted.
 * Inputs are parsed by their schema before a handler sees them; unknown methods, oversized and malformed inputs are
 * answered with a failure; a frame that is not of the protocol at all closes the wire.
 */
export function serve<K extends AnyContract>(
  contract: K,
  implementation: ImplementationOf<K>,
  wire: Wire,
  options: ServeOptions,
): void {
  const running = new Map<number, Running>();
  let open = true;
  const send = (frame: ServerFrame) => {
    if (open) wire.send(frame);
  };

  const lookUp = (method: string) => {
    const dot = method.indexOf('.');
    const capability = method.slice(0, dot);
    const verb = method.slice(dot + 1);
    if (dot < 1 || !Object.hasOwn(contract, capability)) return undefined;
    const declared = contract[capability];
    const implemented = implementation[capability];
    if (!declared || !implemented || !Object.hasOwn(declared, verb) || !Object.hasOwn(implemented, verb))
      return undefined;
    const procedure = declared[verb];
    return procedure ? { procedure, handler: implemented[verb] as unknown } : undefined;
  };

  const refuse = (id: number, stream: boolean, failure: Failure, method: string) => {
    options.log?.({ level: 'warn', message: `${failure.code}: ${failure.why}`, method });
    send(stream ? { t: 'end', id, failure } : { t: 'failure', id, failure });
  };

  const start = (frame: Extract<ClientFrame, { t: 'call' | 'open' }>) => {
    const stream = frame.t === 'open';
    const { id, method } = frame;
    const found = lookUp(method);
    if (!found || (found.procedure.kind === 'stream') !== stream) {
      return refuse(
        id,
        stream,
        {
          code: 'rpc.unknown-method',
          what: `There is no ${stream ? 'stream' : 'procedure'} “${method.slice(0, 100)}”.`,
          why: 'The page and the engine are of different versions, or the request was made by something else.',
          fix: 'Reload the page. If it stays, restart Fairlead.',
        },
        method,
      );
    }
    if (running.has(id) || running.size >= limits.concurrent) {
      return refuse(
        id,
        stream,
        {
          code: 'rpc.too-many',
          what: 'The page asks for too much at once.',
          why: running.has(id)
            ? `Request ${id} is still running.`
            : `${limits.concurrent} requests are already running on this connection.`,
          fix: 'Reload the page.',
        },
        method,
      );
    }
    if (sizeOf(frame.input, limits.inputBytes) > limits.inputBytes) {
      return refuse(
        id,
        stream,
        {
          code: 'rpc.too-large',
          what: `The request to ${method} is too large.`,
          why: `A request may have at most ${limits.inputBytes >> 20} MiB.`,
          fix: 'Send less at once, e.g. a smaller file.',
        },
        method,
      );
    }
    const input = found.procedure.input.safeParse(frame.input);
    if (!input.success) {
      return refuse(
        id,
        stream,
        {
          code: 'rpc.bad-input',
          what: `The request to ${method} was refused.`,
          why: z.prettifyError(input.error),
          fix: 'Reload the page; if it stays, the page and the engine do not fit together: restart Fairlead.',
        },
        method,
      );
    }
    const abort = new AbortController();
    const context: CallContext = { signal: abort.signal, connection: options.connection };
    if (frame.t === 'open') {
      const sink = createSink(frame.credit, abort.signal, (items, bytes) => send({ t: 'batch', id, items, bytes }));
      running.set(id, { abort, sink });
      void produce(id, method, () => (found.handler as AnyProducer)(input.data, sink, context), sink, abort);
    } else {
      running.set(id, { abort, sink: undefined });
      void answer(id, method, () => (found.handler as AnyHandler)(input.data, context));
    }
  };

  const answer = async (id: number, method: string, call: () => Promise<Result<unknown>>) => {
    let result: Result<unknown>;
    try {
      result = await call();
    } catch (error) {
      options.log?.({
        level: 'error',
        message: error instanceof Error ? (error.stack ?? error.message) : String(error),
        method,
      });
      result = failed(internal(method, error));
    }
    if (!running.delete(id)) return;
    if (result.ok && sizeOf(result.value, limits.outputBytes) > limits.outputBytes) {
      return refuse(
        id,
        false,
        {
          code: 'rpc.too-large',
          what: `The answer of ${method} is too large.`,
          why: `It has more than ${limits.outputBytes >> 20} MiB.`,
          fix: 'Ask for less, e.g. one namespace.',
        },
        method,
      );
    }
    send(result.ok ? { t: 'value', id, value: result.value } : { t: 'failure', id, failure: result.failure });
  };

  const produce = async (
    id: number,
    method: string,
    call: () => Promise<Failure | undefined>,
    sink: StreamSink,
    abort: AbortController,
  ) => {
    let failure: Failure | undefined;
    try {
      failure = await call();
      await sink.drained();
    } catch (error) {
      if (!abort.signal.aborted) {
        options.log?.({
          level: 'error',
          message: error instanceof Error ? (error.stack ?? error.message) : String(error),
          method,
        });
        failure = internal(method, error);
      }
    }
    if (!running.delete(id)) return;
    // Whatever the producer left running ends with its stream.
    abort.abort();
    send(failure ? { t: 'end', id, failure } : { t: 'end', id });
  };

  wire.onMessage((message) => {
    const parsed = clientFrameSchema.safeParse(message);
    if (!parsed.success) {
      options.log?.({
        level: 'warn',
        message: `A frame that is not of the protocol closed the connection: ${z.prettifyError(parsed.error)}`,
      });
      wire.close();
      return;
    }
    const frame = parsed.data;
    switch (frame.t) {
      case 'call':
      case 'open':
        start(frame);
        break;
      case 'credit':
        running.get(frame.id)?.sink?.allow(frame.credit);
        break;
      case 'cancel': {
        const call = running.get(frame.id);
        running.delete(frame.id);
        call?.abort.abort();
        break;
      }
    }
  });
  wire.onClose(() => {
    open = false;
    for (const call of running.values()) call.abort.abort();
    running.clear();
  });
}
