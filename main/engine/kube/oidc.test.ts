import { createHash, generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ok } from '../../../contract/failure.ts';
import { keptSecret, type SecretStore } from '../secrets.ts';
import { createConnection } from './connection.ts';
import { loadCredentials } from './credentials.ts';
import { parseKubeconfig, resolveContext } from './kubeconfig.ts';

import { createOidcLogin, type OidcSettings, readOidcSettings, type ShowLogin } from './oidc.ts';
import { type ApiServer, findHyperkube, startApiServer } from './testing/api-server.ts';
import { makeCertificate } from './testing/certificates.ts';

/** An issuer that really checks what RFC 6749, RFC 7636 and OpenID Connect ask of a client. */
class Issuer {
  readonly #server: Server;
  readonly #keys = generateKeyPairSync('rsa', { modulusLength: 2048 });
  readonly ca: Buffer;
  readonly #codes = new Map<
    string,
    { readonly challenge: string; readonly nonce: string; readonly redirect: string }
  >();
  readonly refreshTokens = new Set<string>();
  url = '';
  lifetime = 3600;
  grants: string[] = [];
  constructor() {
    const { certificate, key } = makeCertificate('issuer', 1);
    this.ca = certificate;
    this.#server = createServer({ cert: certificate, key }, (request, response) => {
      const url = new URL(request.url ?? '/', this.url);
      let body = '';
      request.on('data', (chunk: Buffer) => {
        body += chunk.toString();
      });
      request.on('end', () => {
        response.setHeader('content-type', 'application/json');
        if (url.pathname === '/.well-known/openid-configuration')
          return response.end(
            JSON.stringify({
              issuer: this.url,
              authorization_endpoint: `${this.url}/authorize`,
              token_endpoint: `${this.url}/token`,
              jwks_uri: `${this.url}/keys`,
              response_types_supported: ['code'],
              subject_types_supported: ['public'],
              id_token_signing_alg_values_supported: ['RS256'],
              code_challenge_methods_supported: ['S256'],
            }),
          );
        if (url.pathname === '/keys') {
          const jwk = this.#keys.publicKey.export({ format: 'jwk' });
          return response.end(JSON.stringify({ keys: [{ ...jwk, kid: 'k', use: 'sig', alg: 'RS256' }] }));
        }
        if (url.pathname === '/authorize') {
          const ask = (name: string) => url.searchParams.get(name) ?? '';
          const back = new URL(ask('redirect_uri'));
          back.searchParams.set('state', ask('state'));
          if (
            ask('code_challenge_method') !== 'S256' ||
            !ask('scope').includes('openid') ||
            back.hostname !== 'localhost'
          )
            back.searchParams.set('error', 'invalid_request');
          else {
            const code = randomBytes(8).toString('hex');
            const redirect = ask('redirect_uri');
            this.#codes.set(code, { challenge: ask('code_challenge'), nonce: ask('nonce'), redirect });
            back.searchParams.set('code', code);
          }
          response.statusCode = 302;
          return response.setHeader('location', back.href).end();
        }
        const form = new URLSearchParams(body);
        this.grants.push(form.get('grant_type') ?? '');
        const refuse = () => {
          response.statusCode = 400;
          response.end(JSON.stringify({ error: 'invalid_grant', error_description: 'not any more' }));
        };
        if (form.get('grant_type') === 'refresh_token')
          return this.refreshTokens.has(form.get('refresh_token') ?? '') ? response.end(this.#tokens('')) : refuse();
        const code = this.#codes.get(form.get('code') ?? '');
        this.#codes.delete(form.get('code') ?? '');
        const challenge = createHash('sha256')
          .update(form.get('code_verifier') ?? '')
          .digest('base64url');
        if (!code || code.challenge !== challenge || code.redirect !== form.get('redirect_uri')) return refuse();
        response.end(this.#tokens(code.nonce));
      });
    });
  }
  #tokens(nonce: string): string {
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const now = Math.floor(Date.now() / 1000);
    const claims = {
      iss: this.url,
      aud: 'console',
      sub: 'anna',
      iat: now,
      exp: now + this.lifetime,
      ...(nonce ? { nonce } : {}),
    };
    const text = `${part({ alg: 'RS256', kid: 'k' })}.${part(claims)}`;
    const refresh = randomBytes(8).toString('hex');
    this.refreshTokens.add(refresh);
    return JSON.stringify({
      access_token: 'a',
      token_type: 'Bearer',
      expires_in: this.lifetime,
      id_token: `${text}.${sign('sha256', Buffer.from(text), this.#keys.privateKey).toString('base64url')}`,
      refresh_token: refresh,
    });
  }
  async start(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    this.url = `https://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }
  stop(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

describe('OpenID Connect', () => {
  const issuer = new Issuer();
  beforeAll(() => issuer.start());
  afterAll(() => issuer.stop());
  const settings = (more: Partial<OidcSettings> = {}): OidcSettings => ({
    issuer: issuer.url,
    clientId: 'console',
    clientSecret: undefined,
    scopes: ['openid', 'email'],
    ca: issuer.ca.toString(),
    idToken: undefined,
    refreshToken: undefined,
    ...more,
  });
  /** What a browser does with the login page: goes to the issuer and follows it back. */
  const browser =
    (shown: string[] = [], spoil: (back: URL) => URL = (back) => back): ShowLogin =>
    (url, signal) => {
      shown.push(url);
      void (async () => {
        const { fetch, Agent } = await import('undici');
        const dispatcher = new Agent({ connect: { ca: issuer.ca } });
        const answer = await fetch(url, { dispatcher, redirect: 'manual' });
        await answer.body?.cancel();
        const back = spoil(new URL(answer.headers.get('location') ?? ''));
        // The name is resolved by the browser; the listener is on version 4.
        back.hostname = '127.0.0.1';
        await (await fetch(back)).text();
      })();
      return { signal, [Symbol.dispose]() {} };
    };
  const forever = new AbortController().signal;

  it('logs in in the browser with PKCE, keeps the token, and renews it without asking', async () => {
    const shown: string[] = [];
    issuer.grants = [];
    let now = Date.now();
    const login = createOidcLogin(settings(), 'prod', browser(shown), forever, () => now);
    const [first, second] = await Promise.all([login.token(true), login.token(true)]);
    if (!first.ok) throw new Error(first.failure.why);
    expect(second).toEqual(first);
    expect(shown).toHaveLength(1);
    expect(new URL(shown[0] ?? '').searchParams.get('scope')).toBe('openid email');
    expect(await login.token(false)).toEqual(first);
    now += 2 * 3600_000;
    const renewed = await login.token(false);
    expect(renewed.ok).toBe(true);
    expect(issuer.grants).toEqual(['authorization_code', 'refresh_token']);
    expect(shown).toHaveLength(1);
    issuer.refreshTokens.clear();
    now += 2 * 3600_000;
    expect(await login.token(false)).toMatchObject({
      ok: false,
      failure: { code: 'cluster.login-failed', why: expect.stringContaining('invalid_grant') },
    });
  });

  it('uses a refresh token of the kubeconfig, and asks nobody then', async () => {
    issuer.refreshTokens.add('from-file');
    const shown: string[] = [];
    const login = createOidcLogin(settings({ refreshToken: 'from-file' }), 'prod', browser(shown), forever);
    expect((await login.token(true)).ok).toBe(true);
    expect(shown).toEqual([]);
  });

  it('takes up a login of an earlier launch from the store, and forgets one that is refused', async () => {
    const held = new Map<string, string>();
    const store: SecretStore = {
      get: (name) => ok(held.get(name)),
      set(name, secret) {
        held.set(name, secret);
        return ok(undefined);
      },
      remove: (name) => void held.delete(name),
    };
    const of = [issuer.url, 'console'];
    const shown: string[] = [];
    const start = () => createOidcLogin(settings(), 'prod', browser(shown), forever, Date.now, keptSecret(store, of));
    expect(await start().token(true)).toMatchObject({ ok: true });
    expect(shown).toHaveLength(1);
    expect(held.size).toBe(1);
    // The next launch asks nobody: it renews what was kept.
    expect(await start().token(false)).toMatchObject({ ok: true });
    expect(shown).toHaveLength(1);
    // The issuer takes it back: it is not kept any longer, and a person logs in again.
    issuer.refreshTokens.clear();
    expect(await start().token(false)).toMatchObject({ ok: false });
    expect(held.size).toBe(0);
    expect(await start().token(true)).toMatchObject({ ok: true });
    expect(shown).toHaveLength(2);
    expect(held.size).toBe(1);
  });
  it('takes no answer that is not of this login', async () => {
    const abort = new AbortController();
    const strange = browser([], (back) => {
      back.searchParams.set('state', 'guessed');
      return back;
    });
    const login = createOidcLogin(
      settings(),
      'prod',
      (url, signal, kept) => {
        setTimeout(() => abort.abort(), 500);
        strange(url, signal, kept);
        return { signal: abort.signal, [Symbol.dispose]() {} };
      },
      forever,
    );
    expect(await login.token(true)).toMatchObject({ ok: false, failure: { code: 'cluster.login-failed' } });
    const refused = createOidcLogin(
      settings(),
      'prod',
      browser([], (back) => {
        back.searchParams.delete('code');
        back.searchParams.set('error', 'access_denied');
        return back;
      }),
      forever,
    );
    expect(await refused.token(true)).toMatchObject({
      ok: false,
      failure: { why: expect.stringContaining('access_denied') },
    });
  });

  it('checks the issuer’s certificate, and tells what a kubeconfig lacks', async () => {
    const login = createOidcLogin(settings({ ca: undefined }), 'prod', browser(), forever);
    expect(await login.token(true)).toMatchObject({
      ok: false,
      failure: { why: expect.stringMatching(/certificate/i) },
    });
    expect(readOidcSettings({ 'idp-issuer-url': 'https://x' })).toMatchObject({
      ok: false,
      failure: { why: expect.stringContaining('client-id') },
    });
    expect(readOidcSettings({ 'idp-issuer-url': 'http://x', 'client-id': 'c' }).ok).toBe(false);
  });

  const hyperkube = findHyperkube();
  it.skipIf(!hyperkube)(
    `gets into a real API server that trusts the issuer${hyperkube ? '' : ' (skipped: the lab’s Kubernetes has not been built)'}`,
    { timeout: 60_000 },
    async () => {
      const directory = mkdtempSync(join(tmpdir(), 'fairlead-oidc-'));
      const ca = join(directory, 'ca.pem');
      writeFileSync(ca, issuer.ca);
      let server: ApiServer | undefined;
      try {
        server = await startApiServer([
          `--oidc-issuer-url=${issuer.url}`,
          '--oidc-client-id=console',
          `--oidc-ca-file=${ca}`,
          '--oidc-username-prefix=oidc:',
        ]);
        const text = JSON.stringify({
          clusters: [{ name: 'c', cluster: { server: server.url, 'insecure-skip-tls-verify': true } }],
          users: [
            {
              name: 'u',
              user: {
                'auth-provider': {
                  name: 'oidc',
                  config: {
                    'idp-issuer-url': issuer.url,
                    'client-id': 'console',
                    'idp-certificate-authority-data': issuer.ca.toString('base64'),
                  },
                },
              },
            },
          ],
          contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
        });
        const parsed = parseKubeconfig(text, '/x');
        if (!parsed.ok) throw new Error(parsed.failure.why);
        const [entry] = parsed.value.contexts;
        if (!entry) throw new Error('no context');
        const context = resolveContext(entry, parsed.value, []);
        if (!context.ok) throw new Error(context.failure.why);
        const credentials = await loadCredentials(context.value, {
          allowed: () => false,
          signal: forever,
          showLogin: browser(),
        });
        if (!credentials.ok) throw new Error(credentials.failure.why);
        const connection = createConnection({
          cluster: 'c',
          contextName: 'x',
          server: server.url,
          credentials: credentials.value,
          log: () => {},
        });
        // The API server fetches the issuer's keys by itself after it has started.
        let who: unknown;
        for (let round = 0; round < 100 && who === undefined; round++) {
          const review = await connection.create(
            {
              group: 'authentication.k8s.io',
              version: 'v1',
              plural: 'selfsubjectreviews',
              kind: 'SelfSubjectReview',
              namespaced: false,
            },
            { apiVersion: 'authentication.k8s.io/v1', kind: 'SelfSubjectReview', metadata: {} } as never,
          );
          if (review.ok) who = (review.value as { readonly status?: { readonly userInfo?: unknown } }).status?.userInfo;
          else await new Promise((resolve) => setTimeout(resolve, 200));
        }
        expect(who).toMatchObject({ username: 'oidc:anna' });
        connection.close();
      } finally {
        await server?.stop();
        rmSync(directory, { recursive: true, force: true });
      }
    },
  );
});
