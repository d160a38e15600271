import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type IncomingHttpHeaders, request } from 'node:http';
import { connect as connectTcp } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Packr } from 'msgpackr';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import WebSocket from 'ws';
import { contract } from '../../contract/index.ts';
import { createClient, createTransport } from '../../contract/rpc/client.ts';
import type { Log } from '../engine/log.ts';
import { refusingImplementation } from '../engine/testing.ts';
import { readOptions } from './options.ts';
import { type Serving, startServer } from './server.ts';

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
}

const logged: string[] = [];
const line = (level: string) => (area: string, text: string) => logged.push(`${level} ${area} ${text}`);
const log: Log = { debug: line('debug'), info: line('info'), warn: line('warn'), error: line('error') };
const implementation = refusingImplementation();
const token = 'a-token-of-at-least-16-characters';

let directory: string;
let serving: Serving;
beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'fairlead-serve-'));
  mkdirSync(join(directory, 'content', 'assets'), { recursive: true });
  writeFileSync(join(directory, 'content', 'index.html'), '<!doctype html><title>Fairlead</title>');
  writeFileSync(join(directory, 'content', 'assets', 'index-AbCdEf12.js'), 'export {};');
  writeFileSync(join(directory, 'secret.js'), 'outside');
  serving = await startServer({ implementation, log, content: join(directory, 'content'), port: 0, token });
});
afterAll(async () => {
  await serving.close();
  rmSync(directory, { recursive: true, force: true });
});

function ask(path: string, headers: Readonly<Record<string, string>> = {}, method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        host: '127.0.0.1',
        port: serving.port,
        path,
        method,
        headers: { accept: 'text/html', ...headers },
        agent: false,
      },
      (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (chunk: string) => {
          text += chunk;
        });
        response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, text }));
      },
    );
    sent.on('error', reject);
    sent.end();
  });
}

async function cookie(): Promise<string> {
  const { headers } = await ask(`/?token=${token}`);
  return headers['set-cookie']?.[0]?.split(';')[0] ?? '';
}

function upgrade(
  headers: Readonly<Record<string, string>>,
  path = '/rpc',
): Promise<{ readonly status: number; readonly socket?: WebSocket }> {
  return new Promise((resolve) => {
    const socket = new WebSocket(`ws://127.0.0.1:${serving.port}${path}`, { headers });
    socket.on('open', () => resolve({ status: 101, socket }));
    socket.on('unexpected-response', (_, response) => resolve({ status: response.statusCode ?? 0 }));
    socket.on('error', () => resolve({ status: 0 }));
  });
}
const own = () => `http://127.0.0.1:${serving.port}`;

describe('who is let in', () => {
  it('exchanges the token for a cookie and an address without it', async () => {
    const answer = await ask(`/?token=${token}`);
    expect(answer.status).toBe(303);
    expect(answer.headers.location).toBe('/');
    const set = answer.headers['set-cookie']?.[0] ?? '';
    for (const attribute of ['HttpOnly', 'SameSite=Strict', 'Path=/']) expect(set).toContain(attribute);
    expect(set).not.toContain(token);
    expect(serving.address).toBe(`${own()}/?token=${token}`);
  });
  it.each([
    ['no token', '/', {}, 401, 'serve.no-token'],
    ['a wrong token', '/?token=wrong', {}, 401, 'serve.wrong-token'],
    ['a wrong cookie', '/', { cookie: 'fairlead-1=x' }, 401, 'serve.no-token'],
    ['another host name', `/?token=${token}`, { host: 'evil.example' }, 403, 'serve.wrong-host'],
    ['a host name that resolves here', '/', { host: 'localtest.me:7420' }, 403, 'serve.wrong-host'],
    ['another page', `/?token=${token}`, { origin: 'https://evil.example' }, 403, 'serve.wrong-origin'],
    ['a page without an origin of its own', '/', { origin: 'null' }, 403, 'serve.wrong-origin'],
  ])('turns away %s with what, why and fix, and a line in the log', async (_, path, headers, status, code) => {
    logged.length = 0;
    const page = await ask(path, headers);
    expect(page.status).toBe(status);
    for (const word of ['Why', 'Fix', code]) expect(page.text).toContain(word);
    expect(page.headers['content-type']).toContain('text/html');
    expect(page.headers['content-security-policy']).toContain("default-src 'none'");
    expect(logged.join('\n')).toContain(code);
    expect(logged.join('\n')).not.toContain(token);
    const plain = await ask(path, { ...headers, accept: '*/*' });
    expect(plain.headers['content-type']).toContain('text/plain');
    expect(plain.text).toContain('Fix: ');
  });
  it('does not let what it is told become markup', async () => {
    const page = await ask('/', { host: '<script>alert(1)</script>' });
    expect(page.text).not.toContain('<script>');
  });
  it('checks WebSockets the same way, and wants their origin named', async () => {
    const session = await cookie();
    expect((await upgrade({ cookie: session })).status).toBe(403);
    expect((await upgrade({ cookie: session, origin: 'https://evil.example' })).status).toBe(403);
    expect((await upgrade({ cookie: session, origin: `http://127.0.0.1:${serving.port + 1}` })).status).toBe(403);
    expect((await upgrade({ origin: own() })).status).toBe(401);
    expect((await upgrade({ cookie: session, origin: own(), host: 'evil.example' })).status).toBe(403);
    expect((await upgrade({ cookie: session, origin: own() }, '/other')).status).toBe(0);
    const accepted = await upgrade({ cookie: session, origin: own() });
    expect(accepted.status).toBe(101);
    accepted.socket?.terminate();
  });
  it.each(['', 'Connection: Upgrade\r\nUpgrade: websocket\r\n'])(
    'survives a request target that is no path (%j)',
    async (lines) => {
      const answer = await new Promise<string>((resolve, reject) => {
        let text = '';
        const socket = connectTcp(serving.port, '127.0.0.1', () => {
          socket.write(`GET // HTTP/1.1\r\nHost: 127.0.0.1:${serving.port}\r\n${lines || 'Connection: close\r\n'}\r\n`);
        });
        socket.on('data', (data) => {
          text += data.toString();
        });
        socket.on('error', reject);
        socket.on('close', () => resolve(text));
      });
      expect(answer).toMatch(/^HTTP\/1\.1 4\d\d /);
      expect((await ask('/')).status).toBe(401);
    },
  );

  it('listens on 127.0.0.1 only', async () => {
    // Another loopback address stands for every other one: a server on all addresses would answer there too.
    const refused = await new Promise<boolean>((resolve) => {
      const socket = connectTcp({ host: '127.0.0.2', port: serving.port }, () => {
        socket.destroy();
        resolve(false);
      });
      socket.on('error', () => resolve(true));
    });
    expect(refused).toBe(true);
  });
});

describe('what is served', () => {
  it('is the page with its content policy', async () => {
    const page = await ask('/', { cookie: await cookie() });
    expect(page.status).toBe(200);
    expect(page.text).toContain('Fairlead');
    const policy = String(page.headers['content-security-policy']);
    expect(policy).toMatch(/script-src 'self'(;|$)/);
    for (const part of [
      "default-src 'none'",
      "frame-ancestors 'none'",
      "base-uri 'none'",
      `ws://127.0.0.1:${serving.port}`,
    ])
      expect(policy).toContain(part);
    expect(policy).not.toContain('unsafe-eval');
    expect(page.headers['x-content-type-options']).toBe('nosniff');
    expect(page.headers['referrer-policy']).toBe('no-referrer');
    expect(page.headers['cache-control']).toBe('no-cache');
  });
  it('is files of the build only, those with a hash in their name to keep', async () => {
    const session = { cookie: await cookie() };
    const asset = await ask('/assets/index-AbCdEf12.js', session);
    expect(asset.headers['content-type']).toContain('text/javascript');
    expect(asset.headers['cache-control']).toContain('immutable');
    for (const path of [
      '/nothing.js',
      '/../secret.js',
      '/..%2fsecret.js',
      '/%2e%2e/secret.js',
      '/%zz.js',
      '/assets',
      '/.env',
    ])
      expect((await ask(path, session)).status, path).toBe(404);
    expect((await ask('/', session, 'POST')).status).toBe(405);
  });
});

describe('the contract over a WebSocket', () => {
  it('answers, and refuses what is not of the protocol or too large', async () => {
    const { socket } = await upgrade({ cookie: await cookie(), origin: own() });
    if (!socket) throw new Error('no socket');
    const packr = new Packr({ useRecords: false });
    const transport = createTransport({
      send: (frame) => socket.send(packr.pack(frame)),
      onMessage: (listener) => socket.on('message', (data: Buffer) => listener(packr.unpack(data))),
      onClose: (listener) => socket.on('close', () => listener('')),
      close: () => socket.close(),
    });
    expect(await createClient(contract, transport).application.about({})).toMatchObject({
      ok: false,
      failure: { code: 'test.refused' },
    });
    const closed = new Promise((resolve) => socket.on('close', resolve));
    socket.send('text');
    expect(await closed).toBe(1003);
    const { socket: second } = await upgrade({ cookie: await cookie(), origin: own() });
    const ended = new Promise((resolve) => second?.on('close', resolve));
    second?.on('error', () => {});
    second?.send(Buffer.alloc(12 << 20));
    expect(await ended).toBe(1009);
  });
});

describe('the command line', () => {
  it('has defaults and says what makes no sense', () => {
    expect(readOptions([], {})).toMatchObject({
      port: 7420,
      portRequired: false,
      kubeconfigs: [],
      lab: false,
      open: true,
    });
    expect(
      readOptions(['--lab', '--keep-lab', '--no-open', '--port', '0', '--kubeconfig', '/a', '--kubeconfig', '/b'], {
        FAIRLEAD_TOKEN: token,
      }),
    ).toMatchObject({ lab: true, keepLab: true, open: false, port: 0, kubeconfigs: ['/a', '/b'], token });
    expect(() => readOptions(['--port', 'x'], {})).toThrow('--port takes a number');
    expect(() => readOptions(['--nonsense'], {})).toThrow('--nonsense');
    expect(() => readOptions([], { FAIRLEAD_TOKEN: 'short' })).toThrow('at least 16');
  });
});

it('takes another port when its own is taken, unless that one was asked for', async () => {
  const other = await startServer({ implementation, log, content: directory, port: serving.port });
  expect(other.port).not.toBe(serving.port);
  await other.close();
  await expect(
    startServer({ implementation, log, content: directory, port: serving.port, portRequired: true }),
  ).rejects.toThrow('EADDRINUSE');
});
