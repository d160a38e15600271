import { X509Certificate } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import { connect, createServer, type TLSSocket } from 'node:tls';
import { expect, test } from 'vitest';
import { createAuthority, createCertificates, issue, pairProblem, serverNameOf, serverNames } from './certificates.ts';

test('an agent and the console know each other by them, and nobody else', async () => {
  const { authority, server, client } = await createCertificates('default');
  const stranger = await issue(await createAuthority(), { commonName: 'stranger', names: [], usage: 'client' });
  const listener = createServer({
    ca: authority.certificate,
    cert: server.certificate,
    key: server.key,
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: 'TLSv1.3',
  });
  listener.on('secureConnection', (socket) => socket.end('hello'));
  listener.on('tlsClientError', () => undefined);
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const { port } = listener.address() as AddressInfo;
  const talk = (pair: { certificate: string; key: string }, servername: string) =>
    new Promise<string>((resolve) => {
      const socket: TLSSocket = connect({
        port,
        host: '127.0.0.1',
        servername,
        ca: authority.certificate,
        cert: pair.certificate,
        key: pair.key,
      });
      let text = '';
      socket.on('data', (data: Buffer) => {
        text += data.toString();
      });
      socket.on('error', (error) => resolve(`error: ${error.message}`));
      socket.on('close', () => resolve(text));
    });
  try {
    expect(await talk(client, serverNameOf('node1.example.org', 'default'))).toBe('hello');
    // Agents call each other with the certificate that they serve with.
    expect(await talk(server, serverNameOf('node2', 'default'))).toBe('hello');
    expect(await talk(client, serverNameOf('node1', 'other'))).toContain('error');
    expect(await talk(stranger, serverNameOf('node1', 'default'))).not.toBe('hello');
  } finally {
    listener.close();
  }
});

test('says why a stored pair cannot be used on', async () => {
  const { authority, server } = await createCertificates('default');
  const stored = { certificate: server.certificate, key: server.key, authority: authority.certificate };
  expect(pairProblem(stored, serverNames('default'))).toBeUndefined();
  expect(pairProblem(stored, serverNames('renamed'))).toContain('does not name');
  expect(pairProblem({ ...stored, key: authority.key }, [])).toContain('key');
  expect(pairProblem({ ...stored, authority: (await createAuthority()).certificate }, [])).toContain('authority');
  expect(pairProblem(stored, [], Date.now() + 1090 * 24 * 3600 * 1000)).toContain('expires');
  expect(pairProblem({ ...stored, certificate: 'nonsense' }, [])).toContain('cannot be read');
});

test('an authority outlives renewal, and no leaf outlives its authority', async () => {
  const authority = await createAuthority();
  const renewed = await createCertificates('default', authority);
  expect(renewed.authority).toBe(authority);
  const old = await createAuthority(Date.now() - 3600 * 24 * 3600 * 1000);
  const leaf = await issue(old, { commonName: 'x', names: [], usage: 'client' });
  const until = (pem: string) => new X509Certificate(pem).validToDate.getTime();
  expect(until(leaf.certificate)).toBeLessThanOrEqual(until(old.certificate));
});
