import { request as httpRequest } from 'node:http';
import { expect, test } from '@playwright/test';
import { WebSocket } from 'ws';
import { labArguments, type RunningConsole, startConsole } from '../support/console.ts';

interface Answer {
  readonly status: number;
  readonly text: string;
}

function get(console: RunningConsole, path: string, headers: Readonly<Record<string, string>>): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(new URL(path, console.origin), { headers }, (response) => {
      let text = '';
      response.on('data', (data: Buffer) => {
        text += data.toString();
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
    });
    request.on('error', reject);
    request.end();
  });
}

function upgrade(console: RunningConsole, headers: Readonly<Record<string, string>>): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`${console.origin.replace('http', 'ws')}/rpc`, { headers });
    socket.on('open', () => {
      socket.close();
      resolve(101);
    });
    socket.on('unexpected-response', (_request, response) => resolve(response.statusCode ?? 0));
    socket.on('error', reject);
  });
}

test.describe('who may talk to the console in browser mode', () => {
  let running: RunningConsole;
  test.beforeAll(async () => {
    running = await startConsole(await labArguments());
  });
  test.afterAll(async () => {
    await running.close();
  });

  test('without a token: 401 with what, why and fix, and a line in the log', async () => {
    const answer = await get(running, '/', {});
    expect(answer.status).toBe(401);
    for (const word of ['Why', 'Fix', 'serve.no-token']) expect(answer.text).toContain(word);
    await expect.poll(() => running.output()).toContain('serve.no-token');
    expect(await upgrade(running, { Origin: running.origin })).toBe(401);
  });

  test('with a token of another launch: 401', async () => {
    const answer = await get(running, '/?token=0123456789abcdef0123456789abcdef', {});
    expect(answer.status).toBe(401);
    expect(answer.text).toContain('serve.wrong-token');
  });

  test('under another host name: 403', async () => {
    const answer = await get(running, '/', { Host: 'evil.test' });
    expect(answer.status).toBe(403);
    expect(answer.text).toContain('serve.wrong-host');
  });

  test("from another page's origin: 403, for requests and for the WebSocket", async () => {
    const answer = await get(running, '/', { Origin: 'http://evil.test' });
    expect(answer.status).toBe(403);
    expect(answer.text).toContain('serve.wrong-origin');
    expect(await upgrade(running, { Origin: 'http://evil.test' })).toBe(403);
  });

  test('with the printed address: the console, without the token in its address bar', async ({ page }) => {
    await page.goto(running.address);
    await expect(page.getByRole('navigation').first()).toBeVisible();
    expect(page.url()).not.toContain('token=');
    const cookies = await page.context().cookies();
    expect(cookies.every((cookie) => cookie.httpOnly && cookie.sameSite === 'Strict')).toBe(true);
  });
});
