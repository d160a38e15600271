import http from 'node:http';
import https from 'node:https';
import type { Duplex } from 'node:stream';
import { SocksClient } from 'socks';

/** Schemes of proxies that a kubeconfig may name (proxy-url), as client-go takes them. */
export const proxySchemes: ReadonlySet<string> = new Set(['http:', 'https:', 'socks5:', 'socks5h:']);

/** A byte stream to a server through a proxy; user and password of the proxy's URL are sent to the proxy only. */
export function connectByProxy(proxy: URL, host: string, port: number, timeout: number): Promise<Duplex> {
  return proxy.protocol.startsWith('socks')
    ? connectBySocks(proxy, host, port, timeout)
    : connectByHttp(proxy, host, port, timeout);
}

function broke(proxy: URL, error: unknown): Error {
  return new Error(`The proxy ${proxy.host}: ${error instanceof Error ? error.message : String(error)}`, {
    cause: error,
  });
}

/** SOCKS 5; the proxy resolves the server's name, since the network behind it is the one that knows the name. */
async function connectBySocks(proxy: URL, host: string, port: number, timeout: number): Promise<Duplex> {
  try {
    const { socket } = await SocksClient.createConnection({
      proxy: {
        host: proxy.hostname.replace(/^\[|\]$/g, ''),
        port: Number(proxy.port) || 1080,
        type: 5,
        ...(proxy.username
          ? { userId: decodeURIComponent(proxy.username), password: decodeURIComponent(proxy.password) }
          : {}),
      },
      command: 'connect',
      destination: { host, port },
      timeout,
      set_tcp_nodelay: true,
    });
    // Paused, as the library hands it over: nothing that comes early is lost before somebody reads.
    return socket;
  } catch (error) {
    throw broke(proxy, error);
  }
}

/** HTTP CONNECT. */
function connectByHttp(proxy: URL, host: string, port: number, timeout: number): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    const authority = `${host.includes(':') ? `[${host}]` : host}:${port}`;
    const headers: Record<string, string> = { host: authority };
    if (proxy.username) {
      const login = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
      headers['proxy-authorization'] = `Basic ${Buffer.from(login).toString('base64')}`;
    }
    const client = proxy.protocol === 'https:' ? https : http;
    const request = client.request({
      host: proxy.hostname,
      port: proxy.port || (proxy.protocol === 'https:' ? 443 : 80),
      method: 'CONNECT',
      path: authority,
      headers,
      agent: false,
    });
    request.setTimeout(timeout, () =>
      request.destroy(Object.assign(new Error('it took longer than allowed'), { code: 'ETIMEDOUT' })),
    );
    request.once('error', (error) => reject(broke(proxy, error)));
    request.once('connect', (response, socket) => {
      if (response.statusCode === 200) return resolve(socket);
      socket.destroy();
      reject(new Error(`The proxy ${proxy.host} answered ${response.statusCode} to CONNECT ${authority}`));
    });
    request.end();
  });
}
