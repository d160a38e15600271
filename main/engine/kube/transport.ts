import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import type { Duplex } from 'node:stream';
import tls from 'node:tls';
import { statusError } from './failures.ts';
import { connectByProxy } from './proxy.ts';

/** How TLS to an API server is set up. */
export interface TlsSettings {
  readonly ca: Buffer | undefined;
  readonly cert: Buffer | undefined;
  readonly key: Buffer | undefined;
  readonly servername: string | undefined;
  readonly insecure: boolean;
}

/** Several values of one header are sent as several headers. */
export type RequestHeaders = Readonly<Record<string, string | readonly string[]>>;

export interface TransportOptions {
  readonly server: string;
  readonly tls: TlsSettings;
  readonly proxyUrl?: string;
  /** Opens the byte stream to the server instead of a TCP connection, e.g. through SSH. */
  readonly dial?: (host: string, port: number) => Promise<Duplex>;
}

export interface Request {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly path: string;
  readonly headers: RequestHeaders;
  readonly body?: string;
  readonly signal: AbortSignal;
  /** Until the answer's headers, in milliseconds. */
  readonly timeout: number;
}

/** Requests to one API server over connections that are kept; closes them all at once. */
export interface Transport {
  /** Resolves with a 2xx answer whose body is still to be read; rejects with StatusError or the network's error. */
  readonly request: (request: Request) => Promise<http.IncomingMessage>;
  readonly agent: http.Agent;
  readonly url: URL;
  readonly close: () => void;
}

/** Bounds for connecting, in milliseconds. */
const connectTimeout = 8_000;
/** Largest answer held in memory. */
const largestBody = 512 << 20;

function timeoutError(what: string): Error {
  return Object.assign(new Error(`${what} took longer than allowed`), { code: 'ETIMEDOUT' });
}

function connectTcp(host: string, port: number): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host, port, keepAlive: true, keepAliveInitialDelay: 15_000, noDelay: true });
    const timer = setTimeout(() => socket.destroy(timeoutError(`connecting to ${host}:${port}`)), connectTimeout);
    socket.once('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.removeAllListeners('error');
      resolve(socket);
    });
  });
}

function secure(raw: Duplex, host: string, settings: TlsSettings): Promise<tls.TLSSocket> {
  return new Promise((resolve, reject) => {
    const name = settings.servername ?? host;
    let socket: tls.TLSSocket;
    try {
      socket = tls.connect({
        socket: raw,
        ...(net.isIP(name) ? {} : { servername: name }),
        // Against an address, or a name of its own, the certificate is checked for exactly that.
        checkServerIdentity: (_, certificate) => tls.checkServerIdentity(name, certificate),
        rejectUnauthorized: !settings.insecure,
        ...(settings.ca ? { ca: settings.ca } : {}),
        ...(settings.cert ? { cert: settings.cert } : {}),
        ...(settings.key ? { key: settings.key } : {}),
      });
    } catch (error) {
      raw.destroy();
      return reject(error instanceof Error ? error : new Error(String(error)));
    }
    const timer = setTimeout(() => socket.destroy(timeoutError('the TLS handshake')), connectTimeout);
    socket.once('error', (error) => {
      clearTimeout(timer);
      raw.destroy();
      reject(error);
    });
    socket.once('secureConnect', () => {
      clearTimeout(timer);
      socket.removeAllListeners('error');
      resolve(socket);
    });
  });
}

/** Reads a body whole, as text. */
export async function readBody(response: http.IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > largestBody) throw new Error(`the answer is larger than ${largestBody >> 20} MiB`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Makes the transport of one cluster; connects only when something is asked. */
export function createTransport(options: TransportOptions): Transport {
  const url = new URL(options.server);
  const isTls = url.protocol === 'https:';
  const port = Number(url.port) || (isTls ? 443 : 80);
  const host = url.hostname.replace(/^\[|\]$/g, '');

  const open = async (): Promise<Duplex> => {
    const raw = options.dial
      ? await options.dial(host, port)
      : options.proxyUrl
        ? await connectByProxy(new URL(options.proxyUrl), host, port, connectTimeout)
        : await connectTcp(host, port);
    return isTls ? secure(raw, host, options.tls) : raw;
  };
  // One agent per cluster: connections are kept and shared by requests, watches, exec and port-forward.
  const agent = new (isTls ? https : http).Agent({ keepAlive: true, maxFreeSockets: 8, scheduling: 'lifo' });
  agent.createConnection = (_options, callback) => {
    open().then(
      (stream) => callback?.(null, stream),
      (error: unknown) =>
        callback?.(error instanceof Error ? error : new Error(String(error)), undefined as unknown as Duplex),
    );
    return undefined;
  };

  const once = (request: Request): Promise<http.IncomingMessage> =>
    new Promise((resolve, reject) => {
      const outgoing = (isTls ? https : http).request({
        agent,
        host,
        port,
        method: request.method,
        path: `${url.pathname.replace(/\/$/, '')}${request.path}`,
        headers: {
          host: url.host,
          accept: 'application/json',
          'user-agent': 'fairlead',
          ...(request.headers as Record<string, string | string[]>),
          ...(request.body === undefined ? {} : { 'content-length': String(Buffer.byteLength(request.body)) }),
        },
        signal: request.signal,
      });
      const timer = setTimeout(
        () => outgoing.destroy(timeoutError(`${request.method} ${request.path.split('?')[0]}`)),
        request.timeout,
      );
      outgoing.once('error', (error) => {
        clearTimeout(timer);
        // A kept connection that the server had already closed: nothing was processed, so ask once more on a new one.
        const stale =
          outgoing.reusedSocket && ['ECONNRESET', 'EPIPE'].includes((error as NodeJS.ErrnoException).code ?? '');
        if (stale && request.method === 'GET' && !request.signal.aborted) once(request).then(resolve, reject);
        else reject(error);
      });
      outgoing.once('response', (response) => {
        clearTimeout(timer);
        const status = response.statusCode ?? 0;
        if (status >= 200 && status < 300) return resolve(response);
        readBody(response).then((body) => reject(statusError(status, body)), reject);
      });
      outgoing.end(request.body);
    });

  return { request: once, agent, url, close: () => agent.destroy() };
}
