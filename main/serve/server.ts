import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { WebSocketServer } from 'ws';
import type { Implementation } from '../../contract/implementation.ts';
import { contract } from '../../contract/index.ts';
import { limits } from '../../contract/rpc/frames.ts';
import { serve } from '../../contract/rpc/server.ts';
import { readContent, securityHeaders } from '../engine/application/content.ts';
import type { Log } from '../engine/log.ts';
import { type Access, createAccess, type Refusal, refusalPage, wrongToken } from './access.ts';
import { webSocketWire } from './wire.ts';

export interface ServeOptions {
  readonly implementation: Implementation;
  readonly log: Log;
  /** Directory of the built renderer. */
  readonly content: string;
  /** 0: any free port. A port that is taken is replaced by a free one unless `portRequired`. */
  readonly port: number;
  readonly portRequired?: boolean;
  /** For tests; otherwise a new secret each launch. */
  readonly token?: string;
  /** Development only: answers instead of the built files (after all checks), e.g. vite's middleware. */
  readonly development?: (server: Server) => Promise<Development>;
}

export interface Development {
  readonly handle: (request: IncomingMessage, response: ServerResponse) => void;
  /** Upgrades to this path are left to it. */
  readonly upgradePath: string;
}

export interface Serving {
  readonly port: number;
  /** With the token; for the terminal and the browser only. */
  readonly address: string;
  readonly close: () => Promise<void>;
}

/** The request's path; "" for what is none: "//" is a legal request target and no legal relative URL. */
function pathOf(request: IncomingMessage): string {
  const target = `http://x${request.url ?? '/'}`;
  return URL.canParse(target) ? new URL(target).pathname : '';
}

/** Path of the WebSocket that carries the contract. */
export const rpcPath = '/rpc';

function listen(server: Server, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host: '127.0.0.1', port, exclusive: true }, () => {
      server.off('error', reject);
      const address = server.address();
      resolve(typeof address === 'object' && address ? address.port : port);
    });
  });
}

/** Serves the console to a browser on this machine, on 127.0.0.1 only. */
export async function startServer(options: ServeOptions): Promise<Serving> {
  const { log } = options;
  const server = createServer({ maxHeaderSize: 16 << 10, requestTimeout: 30_000 });
  const development = await options.development?.(server);
  let port: number;
  try {
    port = await listen(server, options.port);
  } catch (error) {
    const taken = (error as NodeJS.ErrnoException).code === 'EADDRINUSE';
    if (!taken || options.portRequired) throw error;
    log.info('serve', `port ${options.port} is taken; using a free one`);
    port = await listen(server, 0);
  }
  const access = createAccess(port, options.token);
  const headers = securityHeaders([`ws://127.0.0.1:${port}`, `ws://localhost:${port}`], development !== undefined);

  const refuse = (request: IncomingMessage, refusal: Refusal) => {
    const pathname = pathOf(request);
    log.warn('serve', `${refusal.status} ${refusal.code} ${request.method} ${pathname}: ${refusal.why}`);
  };
  const answerRefusal = (request: IncomingMessage, response: ServerResponse, refusal: Refusal) => {
    refuse(request, refusal);
    const html = (request.headers.accept ?? '').includes('text/html');
    response.writeHead(refusal.status, {
      ...headers,
      'content-type': html ? 'text/html; charset=utf-8' : 'text/plain; charset=utf-8',
      'cache-control': 'no-store',
    });
    response.end(
      html
        ? refusalPage(refusal)
        : `${refusal.what}\nWhy: ${refusal.why}\nFix: ${refusal.fix}\nCode: ${refusal.code}\n`,
    );
  };

  server.on('request', (request, response) => {
    void handle(request, response, access).catch((error: unknown) => {
      log.error(
        'serve',
        `answering ${request.method} failed: ${error instanceof Error ? error.message : String(error)}`,
      );
      if (!response.headersSent) response.writeHead(500, headers);
      response.end();
    });
  });

  const handle = async (request: IncomingMessage, response: ServerResponse, access: Access) => {
    const wrong = access.checkOrigin(request, false);
    if (wrong) return answerRefusal(request, response, wrong);
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.writeHead(405, { ...headers, allow: 'GET, HEAD' });
      return response.end();
    }
    const target = `http://127.0.0.1:${port}${request.url ?? '/'}`;
    if (!URL.canParse(target)) {
      response.writeHead(400, headers);
      return response.end();
    }
    const url = new URL(target);
    const offered = url.searchParams.get('token');
    if (offered !== null && url.pathname === '/') {
      const cookie = access.exchange(offered);
      if (!cookie) return answerRefusal(request, response, wrongToken);
      response.writeHead(303, { ...headers, 'set-cookie': cookie, location: '/', 'cache-control': 'no-store' });
      return response.end();
    }
    const refused = access.checkCookie(request);
    if (refused) return answerRefusal(request, response, refused);
    if (development) {
      for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
      return development.handle(request, response);
    }
    const content = await readContent(options.content, url.pathname);
    if (!content) {
      response.writeHead(404, { ...headers, 'content-type': 'text/plain; charset=utf-8' });
      return response.end(
        url.pathname === '/'
          ? 'The console’s page has not been built.\nFix: run npm run build\n'
          : 'There is nothing here.\n',
      );
    }
    response.writeHead(200, {
      ...headers,
      'content-type': content.type,
      'content-length': content.body.length,
      'cache-control': content.immutable ? 'private, max-age=31536000, immutable' : 'no-cache',
    });
    response.end(request.method === 'HEAD' ? undefined : content.body);
  };

  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: limits.inputBytes + (1 << 20),
    perMessageDeflate: false,
  });
  let connections = 0;
  server.on('upgrade', (request, socket, head) => {
    socket.on('error', () => socket.destroy());
    const path = pathOf(request);
    const refused = access.checkOrigin(request, true) ?? access.checkCookie(request);
    if (refused) {
      refuse(request, refused);
      const body = `${refused.what}\nWhy: ${refused.why}\nFix: ${refused.fix}\nCode: ${refused.code}\n`;
      socket.end(
        `HTTP/1.1 ${refused.status} ${refused.status === 401 ? 'Unauthorized' : 'Forbidden'}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
      );
      return;
    }
    if (path === development?.upgradePath) return;
    if (path !== rpcPath) return socket.destroy();
    sockets.handleUpgrade(request, socket, head, (webSocket) => {
      connections += 1;
      serve(contract, options.implementation, webSocketWire(webSocket), {
        connection: `browser-${connections}`,
        log: ({ level, message, method }) => log[level]('rpc', method ? `${method}: ${message}` : message),
      });
    });
  });
  return {
    port,
    address: `http://127.0.0.1:${port}/?token=${access.token}`,
    async close() {
      for (const client of sockets.clients) client.close(1001, 'Fairlead is closing.');
      sockets.close();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      for (const client of sockets.clients) client.terminate();
      await closed;
    },
  };
}
