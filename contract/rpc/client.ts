import { z } from 'zod/mini';
import type { Cancel, ClientOf, StreamHandlers } from '../client.ts';
import { type Failure, failed, ok, type Result } from '../failure.ts';
import type { AnyContract } from '../procedure.ts';
import { type ClientFrame, type Credit, limits, serverFrameSchema, type Wire } from './frames.ts';

export interface ClientOptions {
  /** What each stream may have under way; the protocol's default unless told. */
  readonly window?: Credit;
}

/** Why a call or stream ended when its connection did. */
export function connectionLost(reason: string): Failure {
  return {
    code: 'connection.lost',
    what: 'The connection to Fairlead’s engine was lost.',
    why: reason || 'The engine ended, or this machine was asleep.',
    fix: 'Fairlead reconnects by itself. If it does not, start it again and open the address that it prints.',
  };
}

const cancelled: Failure = {
  code: 'cancelled',
  what: 'The request was cancelled.',
  why: 'It was no longer needed.',
  fix: 'Nothing to do.',
};

function badOutput(method: string, error: z.core.$ZodError): Failure {
  return {
    code: 'rpc.bad-output',
    what: `The engine’s answer to ${method} was not understood.`,
    why: z.prettifyError(error),
    fix: 'Reload the page; if it stays, the page and the engine do not fit together: restart Fairlead.',
  };
}

interface PendingCall {
  readonly method: string;
  readonly output: z.ZodMiniType;
  readonly settle: (result: Result<unknown>) => void;
}

interface OpenStream {
  readonly method: string;
  readonly item: z.ZodMiniType;
  readonly handlers: StreamHandlers<unknown>;
  /** Batches are handed over one after the other, the end after the last of them. */
  tail: Promise<void>;
  over: boolean;
}

/** The two things that a connection can do, by a procedure's name; `createClient` dresses them as typed methods. */
export interface Transport {
  readonly call: (
    method: string,
    output: z.ZodMiniType,
    input: unknown,
    signal?: AbortSignal,
  ) => Promise<Result<unknown>>;
  readonly open: (method: string, item: z.ZodMiniType, input: unknown, handlers: StreamHandlers<unknown>) => Cancel;
}

/**
 * Speaks the protocol over one wire until it closes. Every answer and every item is parsed by its schema. A batch's
 * credit goes back when its handler has settled, so a slow handler slows the producer.
 */
export function createTransport(
  wire: Wire,
  options: ClientOptions = {},
): Transport & { readonly onClosed: (listener: (reason: string) => void) => void } {
  const window = options.window ?? limits.window;
  const calls = new Map<number, PendingCall>();
  const streams = new Map<number, OpenStream>();
  let next = 1;
  let closed: string | undefined;
  let closedListener: (reason: string) => void = () => {};
  const send = (frame: ClientFrame) => {
    if (closed === undefined) wire.send(frame);
  };

  const finish = (id: number, failure?: Failure) => {
    const stream = streams.get(id);
    if (!stream) return;
    streams.delete(id);
    stream.tail = stream.tail.then(() => {
      if (stream.over) return;
      stream.over = true;
      stream.handlers.end(failure);
    });
  };

  const abandon = (id: number, stream: OpenStream, failure: Failure) => {
    if (stream.over) return;
    stream.over = true;
    streams.delete(id);
    send({ t: 'cancel', id });
    stream.handlers.end(failure);
  };

  const receive = (id: number, items: readonly unknown[], bytes: number) => {
    const stream = streams.get(id);
    if (!stream) return;
    stream.tail = stream.tail.then(async () => {
      if (stream.over) return;
      const parsed: unknown[] = [];
      for (const item of items) {
        const result = stream.item.safeParse(item);
        if (!result.success) return abandon(id, stream, badOutput(stream.method, result.error));
        parsed.push(result.data);
      }
      try {
        await stream.handlers.batch(parsed);
      } catch (error) {
        return abandon(id, stream, {
          code: 'rpc.consumer-failed',
          what: `What ${stream.method} sent could not be shown.`,
          why: error instanceof Error ? error.message : String(error),
          fix: 'Reload the page.',
        });
      }
      if (!stream.over && streams.has(id)) send({ t: 'credit', id, credit: { items: items.length, bytes } });
    });
  };

  wire.onMessage((message) => {
    const parsed = serverFrameSchema.safeParse(message);
    if (!parsed.success) return wire.close();
    const frame = parsed.data;
    switch (frame.t) {
      case 'value':
      case 'failure': {
        const call = calls.get(frame.id);
        if (!call) return;
        calls.delete(frame.id);
        if (frame.t === 'failure') return call.settle(failed(frame.failure));
        const value = call.output.safeParse(frame.value);
        return call.settle(value.success ? ok(value.data) : failed(badOutput(call.method, value.error)));
      }
      case 'batch':
        return receive(frame.id, frame.items, frame.bytes);
      case 'end':
        return finish(frame.id, frame.failure);
    }
  });
  wire.onClose((reason) => {
    closed = reason;
    for (const call of calls.values()) call.settle(failed(connectionLost(reason)));
    calls.clear();
    for (const id of [...streams.keys()]) finish(id, connectionLost(reason));
    closedListener(reason);
  });

  return {
    call(method, output, input, signal) {
      if (closed !== undefined) return Promise.resolve(failed(connectionLost(closed)));
      if (signal?.aborted) return Promise.resolve(failed(cancelled));
      const id = next++;
      return new Promise((resolve) => {
        const abort = () => {
          if (!calls.delete(id)) return;
          send({ t: 'cancel', id });
          resolve(failed(cancelled));
        };
        signal?.addEventListener('abort', abort, { once: true });
        calls.set(id, {
          method,
          output,
          settle: (result) => {
            signal?.removeEventListener('abort', abort);
            resolve(result);
          },
        });
        send({ t: 'call', id, method, input });
      });
    },
    open(method, item, input, handlers) {
      const id = next++;
      const stream: OpenStream = { method, item, handlers, tail: Promise.resolve(), over: false };
      if (closed !== undefined) {
        const failure = connectionLost(closed);
        queueMicrotask(() => {
          if (stream.over) return;
          stream.over = true;
          handlers.end(failure);
        });
      } else {
        streams.set(id, stream);
        send({ t: 'open', id, method, input, credit: handlers.window ?? window });
      }
      return () => {
        if (stream.over) return;
        stream.over = true;
        if (streams.delete(id)) send({ t: 'cancel', id });
      };
    },
    onClosed(listener) {
      closedListener = listener;
      if (closed !== undefined) listener(closed);
    },
  };
}

/** Typed methods over a transport: `client.clusters.connect({cluster})`. */
export function createClient<K extends AnyContract>(contract: K, transport: Transport): ClientOf<K> {
  const client: Record<string, Record<string, unknown>> = {};
  for (const [capability, verbs] of Object.entries(contract)) {
    const methods: Record<string, unknown> = {};
    for (const [verb, declared] of Object.entries(verbs)) {
      const method = `${capability}.${verb}`;
      methods[verb] =
        declared.kind === 'procedure'
          ? (input: unknown, options?: { readonly signal?: AbortSignal }) =>
              transport.call(method, declared.output, input, options?.signal)
          : (input: unknown, handlers: StreamHandlers<unknown>) =>
              transport.open(method, declared.item, input, handlers);
    }
    client[capability] = methods;
  }
  // Built from the same contract that types it: the one place where the shape is asserted rather than derived.
  return client as unknown as ClientOf<K>;
}
