import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { connectByProxy } from './proxy.ts';
import { makeCertificate } from './testing/certificates.ts';
import { createTransport, readBody } from './transport.ts';

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

async function listening(server: Server): Promise<number> {
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}

/** Reads exactly so many bytes. */
async function take(socket: Socket, size: number): Promise<Buffer> {
  for (;;) {
    const chunk = socket.read(size) as Buffer | null;
    if (chunk) return chunk;
    // At its end a stream is readable at once and for ever, with nothing to read.
    if (socket.readableEnded || socket.destroyed) throw new Error('the other side has gone');
    await new Promise<void>((resolve) => {
      const done = () => {
        socket.off('readable', done).off('close', done);
        resolve();
      };
      socket.once('readable', done).once('close', done);
    });
  }
}

/** A SOCKS 5 server (RFC 1928, with RFC 1929 where a login is wanted) that sends everybody to one port. */
function socksServer(target: number, asked: string[], login?: string): Server {
  return createServer((socket) => {
    socket.on('error', () => {});
    void (async () => {
      const [, methods] = await take(socket, 2);
      await take(socket, methods ?? 0);
      socket.write(Buffer.from([5, login === undefined ? 0 : 2]));
      if (login !== undefined) {
        const [, userLength] = await take(socket, 2);
        const user = (await take(socket, userLength ?? 0)).toString();
        const [passwordLength] = await take(socket, 1);
        const password = (await take(socket, passwordLength ?? 0)).toString();
        const right = `${user}:${password}` === login;
        socket.write(Buffer.from([1, right ? 0 : 1]));
        if (!right) return socket.end();
      }
      const [, , , type] = await take(socket, 4);
      const length = type === 3 ? ((await take(socket, 1))[0] ?? 0) : 4;
      const name = await take(socket, length);
      const port = (await take(socket, 2)).readUInt16BE(0);
      asked.push(`${type === 3 ? name.toString() : [...name].join('.')}:${port}`);
      const up = connect(target, '127.0.0.1', () => {
        socket.write(Buffer.from([5, 0, 0, 1, 127, 0, 0, 1, 0, 0]));
        up.pipe(socket).pipe(up);
      });
      up.on('error', () => socket.destroy());
    })().catch(() => socket.destroy());
  });
}

describe('proxies of SOCKS 5', () => {
  it('resolve the name themselves, and pass bytes both ways', async () => {
    const echo = await listening(
      createServer((socket) => {
        socket.on('error', () => {});
        socket.write('greeting ');
        socket.pipe(socket);
      }),
    );
    const asked: string[] = [];
    const port = await listening(socksServer(echo, asked));
    const stream = await connectByProxy(new URL(`socks5://127.0.0.1:${port}`), 'api.inside', 6443, 5000);
    stream.write('hello');
    expect((await take(stream as Socket, 14)).toString()).toBe('greeting hello');
    stream.destroy();
    expect(asked).toEqual(['api.inside:6443']);
  });

  it('carry the API: TLS to the server goes through', async () => {
    const { certificate, key } = makeCertificate('api.inside', 1);
    const server = createHttpsServer({ cert: certificate, key }, (_, response) => response.end('{"ok":true}'));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const port = await listening(socksServer((server.address() as AddressInfo).port, []));
    const transport = createTransport({
      server: 'https://api.inside:6443',
      proxyUrl: `socks5://127.0.0.1:${port}`,
      tls: { ca: certificate, cert: undefined, key: undefined, servername: 'localhost', insecure: true },
    });
    const { signal } = new AbortController();
    for (let round = 0; round < 2; round++) {
      const answer = await transport.request({ method: 'GET', path: '/x', headers: {}, signal, timeout: 5000 });
      expect(await readBody(answer)).toBe('{"ok":true}');
    }
    transport.close();
    server.close();
  });

  it('get the login that stands in their URL, and a wrong one is told', async () => {
    const port = await listening(
      socksServer(await listening(createServer((socket) => socket.end('in'))), [], 'me:s p'),
    );
    const stream = await connectByProxy(new URL(`socks5://me:s%20p@127.0.0.1:${port}`), '10.0.0.1', 1, 5000);
    let text = '';
    for await (const chunk of stream) text += String(chunk);
    expect(text).toBe('in');
    await expect(connectByProxy(new URL(`socks5://me:no@127.0.0.1:${port}`), '10.0.0.1', 1, 5000)).rejects.toThrow(
      /The proxy 127\.0\.0\.1/,
    );
  });

  it('that are not there are told by their name and not by their password', async () => {
    const server = createServer();
    const port = await listening(server);
    await new Promise((resolve) => server.close(resolve));
    const error = await connectByProxy(new URL(`socks5://me:secret@127.0.0.1:${port}`), 'x', 1, 2000).catch(String);
    expect(error).toContain(`127.0.0.1:${port}`);
    expect(error).not.toContain('secret');
  });
});
