import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2';
import { Duplex } from 'node:stream';
import { type createGrpcTransport, Http2SessionManager } from '@connectrpc/connect-node';

/** What a transport wants of a session manager; connect-node does not export the type by name. */
type SessionManager = NonNullable<Parameters<typeof createGrpcTransport>[0]['sessionManager']>;

/** How an HTTP/2 session over a duplex behaves. */
export interface DuplexSessionOptions {
  /**
   * How many bytes may be under way, per stream and for the whole session. The default of HTTP/2 (64 KiB) limits a tunnel
   * with 20 ms one way to about 1.6 MB/s. More memory per slow reader is the price.
   */
  readonly windowBytes?: number;
  /** After how long without a byte from the other side it is asked whether it is still there. */
  readonly pingIntervalMs?: number;
  /** How long the answer to that may take before the session is given up with all its calls. */
  readonly pingTimeoutMs?: number;
}

const DEFAULT_WINDOW_BYTES = 1 << 20;
const DEFAULT_PING_INTERVAL_MS = 20_000;
const DEFAULT_PING_TIMEOUT_MS = 10_000;

/**
 * Reads a response stream. It stands in for the stream's own async iterator, which in Node >= 24.20 fails with "Premature
 * close" when it is first asked after a clean close. That is the rule for unary calls over duplexes in this process.
 */
function readResponse(stream: ClientHttp2Stream): AsyncIterableIterator<Buffer> {
  let ended = stream.readableEnded;
  let closed = stream.closed && stream.destroyed;
  let failure: Error | undefined = stream.errored ?? undefined;
  let wake: (() => void) | undefined;
  const changed = () => {
    wake?.();
    wake = undefined;
  };
  stream.on('readable', changed);
  stream.once('end', () => {
    ended = true;
    changed();
  });
  stream.once('error', (error) => {
    failure = error;
    changed();
  });
  stream.once('close', () => {
    closed = true;
    changed();
  });
  const done = { done: true, value: undefined } as const;
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      for (;;) {
        if (failure !== undefined) throw failure;
        const chunk: unknown = stream.read();
        if (Buffer.isBuffer(chunk)) return { done: false, value: chunk };
        if (ended || stream.readableEnded) return done;
        // Without this a reader that comes late to a broken stream would wait for ever.
        if (closed) {
          if (!stream.rstCode) return done;
          throw Object.assign(new Error(`the stream was closed with code ${stream.rstCode}`), {
            code: 'ERR_STREAM_PREMATURE_CLOSE',
          });
        }
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
    async return() {
      stream.destroy();
      return done;
    },
  };
}

/**
 * Keeps one HTTP/2 session over a duplex that `dial` gives, and dials again when a call comes after the session has ended.
 * Made for connections that are not sockets: a channel of ssh2, a port-forward of Kubernetes.
 */
export class DuplexSessionManager implements SessionManager {
  readonly authority: string;
  readonly #windowBytes: number;
  readonly #sessions: Http2SessionManager;
  readonly #widened = new WeakSet<ClientHttp2Session>();

  /**
   * @param authority What calls are addressed to, e.g. "http://agent.invalid"; never resolved.
   * @param dial Gives a fresh duplex; it may still be opening (see {@link lateDuplex}), and fails by its 'error' event.
   */
  constructor(authority: string, dial: () => Duplex, options: DuplexSessionOptions = {}) {
    this.authority = authority;
    this.#windowBytes = options.windowBytes ?? DEFAULT_WINDOW_BYTES;
    this.#sessions = new Http2SessionManager(
      authority,
      {
        pingIntervalMs: options.pingIntervalMs ?? DEFAULT_PING_INTERVAL_MS,
        pingTimeoutMs: options.pingTimeoutMs ?? DEFAULT_PING_TIMEOUT_MS,
      },
      {
        createConnection: () => dial().on('error', ignore),
        settings: { initialWindowSize: this.#windowBytes },
        maxSessionMemory: 1000,
      },
    );
  }

  /** Opens a stream, over a new session where there is none. */
  async request(...args: Parameters<SessionManager['request']>): Promise<ClientHttp2Stream> {
    const stream = await this.#sessions.request(...args);
    const session = stream.session;
    // There is no option for the window of the whole session, only this call on it.
    if (isClientSession(session) && !this.#widened.has(session)) {
      this.#widened.add(session);
      // Calls are told by their streams. Without a listener a failure that comes after the session was given up would
      // end the process.
      session.on('error', ignore);
      if (!session.destroyed) session.setLocalWindowSize(this.#windowBytes);
    }
    const response = readResponse(stream);
    Object.defineProperty(stream, Symbol.asyncIterator, { value: () => response });
    return stream;
  }

  /** Tells the keep-alive that the other side lives. */
  notifyResponseByteRead(stream: ClientHttp2Stream): void {
    this.#sessions.notifyResponseByteRead(stream);
  }

  /** Ends the session with all its calls; a later call dials again. */
  abort(reason?: Error): void {
    this.#sessions.abort(reason);
  }
}

const ignore = () => undefined;

function isClientSession(session: ClientHttp2Stream['session']): session is ClientHttp2Session {
  return session !== undefined;
}

/**
 * A duplex that can be used while it is still being opened: what is written waits, and a failure to open becomes its
 * 'error'. `dial` of {@link DuplexSessionManager} has to answer at once, but opening a tunnel takes round trips.
 *
 * @param open Opens the real duplex. The signal is aborted when nobody wants it any more.
 */
export function lateDuplex(open: (signal: AbortSignal) => Promise<Duplex>): Duplex {
  const abort = new AbortController();
  const opened = open(abort.signal);
  let inner: Duplex | undefined;
  const outer = new Duplex({
    read() {
      inner?.resume();
    },
    write(chunk, encoding, callback) {
      opened.then((duplex) => duplex.write(chunk, encoding, callback), callback);
    },
    final(callback) {
      opened.then((duplex) => duplex.end(callback), callback);
    },
    destroy(error, callback) {
      abort.abort();
      inner?.destroy(error ?? undefined);
      callback(error);
    },
  });
  opened.then(
    (duplex) => {
      if (outer.destroyed) {
        duplex.destroy();
        return;
      }
      inner = duplex;
      duplex.on('data', (chunk) => {
        if (!outer.push(chunk)) duplex.pause();
      });
      duplex.once('end', () => outer.push(null));
      duplex.once('error', (error) => outer.destroy(error));
      duplex.once('close', () => outer.destroy());
    },
    (error: unknown) => outer.destroy(error instanceof Error ? error : new Error(String(error))),
  );
  return outer;
}
