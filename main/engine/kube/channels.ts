import { Duplex, PassThrough, Writable } from 'node:stream';
import WebSocket from 'ws';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { ExecSession } from './cluster-connection.ts';
import { failureOf, type Place, statusError } from './failures.ts';
import type { RequestHeaders, Transport } from './transport.ts';

export interface SocketRequest {
  readonly transport: Transport;
  readonly path: string;
  readonly protocols: readonly string[];
  readonly headers: RequestHeaders;
  readonly place: Place;
  readonly signal: AbortSignal;
}

const openTimeout = 15_000;
/** Messages of an API server are small; nothing honest comes near this. */
const maxPayload = 16 << 20;

/** Opens a WebSocket over the cluster's own connections. `early` is attached before the socket opens, so no message is lost. */
function openSocket(request: SocketRequest, early: (socket: WebSocket) => void): Promise<Result<WebSocket>> {
  const { transport, place, signal } = request;
  const url = new URL(transport.url);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  const [path, query] = request.path.split('?');
  url.pathname = `${url.pathname.replace(/\/$/, '')}${path}`;
  url.search = query ?? '';
  return new Promise((resolve) => {
    const socket = new WebSocket(url, [...request.protocols], {
      agent: transport.agent,
      headers: request.headers as Record<string, string | string[]>,
      handshakeTimeout: openTimeout,
      maxPayload,
      perMessageDeflate: false,
      followRedirects: false,
    });
    const abort = () => socket.terminate();
    signal.addEventListener('abort', abort, { once: true });
    socket.on('close', () => signal.removeEventListener('abort', abort));
    early(socket);
    socket.once('open', () => resolve(ok(socket)));
    socket.once('unexpected-response', (_, response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        if (body.length < 64_000) body += chunk;
      });
      response.on('end', () => {
        resolve(failed(failureOf(statusError(response.statusCode ?? 0, body), place)));
        socket.terminate();
      });
    });
    // Stays attached: a socket that is terminated while connecting reports an error as well.
    socket.on('error', (error) => resolve(failed(failureOf(error, place))));
  });
}

function bytes(data: WebSocket.RawData): Buffer {
  if (Buffer.isBuffer(data)) return data;
  return Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data);
}

/** Pauses the socket while a reader is full; several readers may share one socket. */
function flowControl(socket: WebSocket) {
  let full = 0;
  return {
    push(
      stream: {
        readonly write: (chunk: Buffer) => boolean;
        readonly once: (event: 'drain', listener: () => void) => unknown;
      },
      chunk: Buffer,
    ) {
      if (stream.write(chunk)) return;
      full += 1;
      socket.pause();
      stream.once('drain', () => {
        full -= 1;
        if (full === 0) socket.resume();
      });
    },
  };
}

/** A writable end that sends on one channel; `write` finishes when the socket has taken the bytes. */
function channelWriter(socket: WebSocket, channel: number, onEnd: (done: () => void) => void): Writable {
  return new Writable({
    highWaterMark: 256 << 10,
    write(chunk: Buffer, _encoding, done) {
      if (socket.readyState !== WebSocket.OPEN) return done(new Error('the session is closed'));
      socket.send(Buffer.concat([Buffer.from([channel]), chunk]), { binary: true }, done);
    },
    final(done) {
      onEnd(() => done());
    },
  });
}

/** Runs an interactive command in a container (channels 0 in, 1 out, 2 errors, 3 status, 4 size, 255 close). */
export async function openExec(request: Omit<SocketRequest, 'protocols'>): Promise<Result<ExecSession>> {
  const stdout = new PassThrough();
  const stderr = new PassThrough();
  const exit = Promise.withResolvers<Result<number>>();
  const broke = (why: string): Failure => ({
    code: 'exec.broke',
    what: 'The session ended unexpectedly.',
    why,
    fix: 'Check that the pod still runs, then open a new session.',
  });
  const opened = await openSocket({ ...request, protocols: ['v5.channel.k8s.io', 'v4.channel.k8s.io'] }, (socket) => {
    const flow = flowControl(socket);
    socket.on('message', (data) => {
      const message = bytes(data);
      const payload = message.subarray(1);
      if (message[0] === 1) flow.push(stdout, payload);
      else if (message[0] === 2) flow.push(stderr, payload);
      else if (message[0] === 3) exit.resolve(exitOf(payload.toString('utf8')));
    });
    socket.on('close', (code, reason) => {
      stdout.end();
      stderr.end();
      exit.resolve(failed(broke(reason.toString() || `The API server closed the connection (${code}).`)));
    });
  });
  if (!opened.ok) return opened;
  const socket = opened.value;
  const stdin = channelWriter(socket, 0, (done) => {
    // Version 5 can close one channel; before it, the only end of input is the end of the session.
    if (socket.protocol === 'v5.channel.k8s.io' && socket.readyState === WebSocket.OPEN)
      socket.send(Buffer.from([255, 0]), { binary: true });
    done();
  });
  stdin.on('error', () => {});
  return ok({
    stdin,
    stdout,
    stderr,
    exit: exit.promise,
    resize(columns, rows) {
      if (socket.readyState !== WebSocket.OPEN) return;
      socket.send(Buffer.concat([Buffer.from([4]), Buffer.from(JSON.stringify({ Width: columns, Height: rows }))]), {
        binary: true,
      });
    },
    close() {
      socket.close();
      // A peer that does not answer the close must not keep the session.
      setTimeout(() => socket.terminate(), 2000).unref();
    },
  });
}

/** Reads the status channel: an exit code, or why the command could not run. */
function exitOf(text: string): Result<number> {
  let status: {
    readonly status?: string;
    readonly reason?: string;
    readonly message?: string;
    readonly details?: { readonly causes?: readonly { readonly reason?: string; readonly message?: string }[] };
  };
  try {
    status = JSON.parse(text) as typeof status;
  } catch {
    return failed({
      code: 'exec.failed',
      what: 'The command could not be run.',
      why: text.slice(0, 500),
      fix: 'Check the container and the command.',
    });
  }
  if (status.status === 'Success') return ok(0);
  const code = status.details?.causes?.find((cause) => cause.reason === 'ExitCode')?.message;
  if (status.reason === 'NonZeroExitCode' && code !== undefined) return ok(Number(code));
  return failed({
    code: 'exec.failed',
    what: 'The command could not be run.',
    why: status.message ?? text.slice(0, 500),
    fix: 'Check that the container runs and has the command; images without a shell need another command or image.',
  });
}

/** A byte stream to one port of a pod (channels 0 data, 1 errors; each begins with the port's two bytes). */
export async function openPortForward(
  request: Omit<SocketRequest, 'protocols'>,
  port: number,
): Promise<Result<Duplex>> {
  const incoming: Buffer[] = [];
  const started = [false, false];
  let duplex: Duplex | undefined;
  let current: WebSocket | undefined;
  let ended = false;
  let broken: Error | undefined;
  const deliver = () => {
    while (duplex && incoming.length > 0) {
      const chunk = incoming.shift();
      if (chunk && !duplex.push(chunk)) {
        current?.pause();
        return;
      }
    }
    if (ended && duplex && incoming.length === 0) duplex.push(null);
  };
  const opened = await openSocket({ ...request, protocols: ['v4.channel.k8s.io'] }, (socket) => {
    current = socket;
    socket.on('message', (data) => {
      const message = bytes(data);
      const channel = message[0] ?? 0;
      if (channel > 1) return;
      let payload = message.subarray(1);
      if (!started[channel]) {
        // The first message of each channel names the port.
        started[channel] = true;
        payload = payload.subarray(2);
      }
      if (payload.length === 0) return;
      if (channel === 1) {
        broken = new Error(`port ${port}: ${payload.toString('utf8').trim()}`);
        duplex?.destroy(broken);
        return;
      }
      incoming.push(payload);
      deliver();
    });
    socket.on('close', () => {
      ended = true;
      deliver();
      duplex?.end();
    });
  });
  if (!opened.ok) return opened;
  const socket = opened.value;
  duplex = new Duplex({
    allowHalfOpen: false,
    read() {
      if (incoming.length > 0) deliver();
      if (incoming.length === 0) socket.resume();
    },
    write(chunk: Buffer, _encoding, done) {
      if (socket.readyState !== WebSocket.OPEN) return done(new Error('the port-forward is closed'));
      socket.send(Buffer.concat([Buffer.from([0]), chunk]), { binary: true }, done);
    },
    final(done) {
      // Version 4 cannot half-close: the end of writing is the end of the connection.
      socket.close();
      done();
    },
    destroy(error, done) {
      socket.terminate();
      done(error);
    },
  });
  if (broken) duplex.destroy(broken);
  else deliver();
  return ok(duplex);
}
