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

/** Reads exactly so many bytes at a time, and rejects once the other side has gone. */
function reader(socket: Socket) {
  let held = Buffer.alloc(0);
  let ended = false;
  let wake: () => void = () => {};
  const data = (chunk: Buffer) => {
    held = Buffer.concat([held, chunk]);
    wake();
  };
  const end = () => {
    ended = true;
    wake();
  };
  socket.on('data', data).on('end', end).on('close', end);
  return {
    take: async (size: number): Promise<Buffer> => {
      while (held.length < size) {
        if (ended) throw new Error('the other side has gone');
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      const taken = held.subarray(0, size);
      held = held.subarray(size);
      return taken;
    },
    /** Leaves the rest to others. */
    release: () => {
      socket.off('data', data).off('end', end).off('close', end).pause();
      if (held.length > 0) socket.unshift(held);
    },
  };
}

/** A SOCKS 5 server (RFC 1928, with RFC 1929 where a login is wanted) that sends everybody to one port. */
function socksServer(target: number, asked: string[], login?: string): Server {
  return createServer((socket) => {
    socket.on('error', () => {});
    const { take, release } = reader(socket);
    void (async () => {
      const [, methods] = await take(2);
      await take(methods ?? 0);
      socket.write(Buffer.from([5, login === undefined ? 0 : 2]));
      if (login !== undefined) {
        const [, userLength] = await take(2);
        const user = (await take(userLength ?? 0)).toString();
        const [passwordLength] = await take(1);
        const password = (await take(passwordLength ?? 0)).toString();
        const right = `${user}:${password}` === login;
        socket.write(Buffer.from([1, right ? 0 : 1]));
        if (!right) return socket.end();
      }
      const [, , , type] = await take(4);
      const length = type === 3 ? ((await take(1))[0] ?? 0) : 4;
      const name = await take(length);
      const port = (await take(2)).readUInt16BE(0);
      asked.push(`${type === 3 ? name.toString() : [...name].join('.')}:${port}`);
      const up = connect(target, '127.0.0.1', () => {
        socket.write(Buffer.from([5, 0, 0, 1, 127, 0, 0, 1, 0, 0]));
        release();
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
    expect((await reader(stream as Socket).take(14)).toString()).toBe('greeting hello');
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
