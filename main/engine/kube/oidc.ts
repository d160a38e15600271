import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import * as client from 'openid-client';
import { Agent, fetch as fetchWith } from 'undici';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import { type KeptSecret, keptSecret } from '../secrets.ts';

/** What a kubeconfig says of an OpenID Connect login (auth-provider oidc). */
export interface OidcSettings {
  readonly issuer: string;
  readonly clientId: string;
  readonly clientSecret: string | undefined;
  readonly scopes: readonly string[];
  /** PEM of an authority that the issuer's certificate is checked against. */
  readonly ca: string | undefined;
  readonly idToken: string | undefined;
  readonly refreshToken: string | undefined;
}

/** Shows the address of the login page while a login goes on; its signal ends when the person gives up. */
export type ShowLogin = (
  url: string,
  signal: AbortSignal,
  /** Where what the login gives is kept, in a sentence. */
  kept: string,
) => Disposable & { readonly signal: AbortSignal };

export interface OidcLogin {
  /** A token that is valid for a while yet: kept, renewed, or had by a login in the browser if somebody may be asked. */
  readonly token: (ask: boolean) => Promise<Result<string>>;
  /** The server did not take the token: it is renewed before the next request. */
  readonly invalidate: () => void;
}

/** Ports that kubelogin made usual: where an issuer lists redirect addresses, these are in its list. */
const usualPorts = [8000, 18000, 0];
/** A person needs time for passwords and second factors; a forgotten window is not waited for for ever. */
const loginTimeout = 10 * 60_000;
const requestTimeout = 15_000;
/** A token is not used in its last seconds: the request has to arrive as well. */
const spare = 30_000;

/** Reads the settings of an auth-provider section; what is missing is told. `caFile` is the content of the authority that it names by path. */
export function readOidcSettings(config: Readonly<Record<string, string>>, caFile?: Buffer): Result<OidcSettings> {
  const missing = ['idp-issuer-url', 'client-id'].filter((name) => !config[name]);
  const issuer = config['idp-issuer-url'] ?? '';
  if (missing.length > 0 || !URL.canParse(issuer) || new URL(issuer).protocol !== 'https:')
    return failed({
      code: 'kubeconfig.oidc-incomplete',
      what: 'The OIDC login of this kubeconfig cannot be used.',
      why:
        missing.length > 0 ? `It has no ${missing.join(' and no ')}.` : `Its issuer “${issuer}” is no https address.`,
      fix: 'Complete the auth-provider section of the kubeconfig, or use an exec program (kubelogin).',
    });
  const data = config['idp-certificate-authority-data'];
  return ok({
    issuer,
    clientId: config['client-id'] ?? '',
    clientSecret: config['client-secret'] || undefined,
    scopes: [
      'openid',
      ...(config['extra-scopes'] ?? '').split(',').filter((scope) => scope !== '' && scope !== 'openid'),
    ],
    ca: data ? Buffer.from(data, 'base64').toString('utf8') : caFile?.toString('utf8'),
    idToken: config['id-token'] || undefined,
    refreshToken: config['refresh-token'] || undefined,
  });
}

/** When a JSON Web Token ends, in Unix milliseconds; 0 where it cannot be read. It is not verified: the server does that. */
export function expiryOf(token: string): number {
  try {
    const payload = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString('utf8')) as {
      readonly exp?: unknown;
    };
    return typeof payload.exp === 'number' ? payload.exp * 1000 : 0;
  } catch {
    return 0;
  }
}

const page = (title: string, text: string) =>
  `<!doctype html><meta charset="utf-8"><title>${title}</title><style>body{font:16px system-ui;margin:15vh auto;max-width:32em;padding:0 1em}</style><h1>${title}</h1><p>${text}</p>`;

interface Redirect extends Disposable {
  readonly address: string;
  /** The address that the browser came back to. */
  readonly returned: Promise<URL>;
}

/**
 * Waits for the browser to come back, on loopback and for this one login only (RFC 8252, section 7.3). Whoever else asks
 * this port gets nothing; `state` and PKCE make a foreign answer useless.
 */
async function openRedirect(state: string): Promise<Redirect> {
  const { promise, resolve } = Promise.withResolvers<URL>();
  let address = '';
  const answer = (request: IncomingMessage, response: ServerResponse) => {
    const url = new URL(request.url ?? '/', address);
    response.setHeader('content-type', 'text/html; charset=utf-8');
    response.setHeader('content-security-policy', "default-src 'none'; style-src 'unsafe-inline'");
    response.setHeader('connection', 'close');
    if (request.method !== 'GET' || url.searchParams.get('state') !== state) {
      response.statusCode = 404;
      return response.end();
    }
    const bad = url.searchParams.has('error');
    response.end(
      bad
        ? page('The login was refused', 'Fairlead shows why. You can close this window.')
        : page('You are logged in', 'Go back to Fairlead; you can close this window.'),
    );
    resolve(url);
  };
  for (const port of usualPorts) {
    const server: Server = createServer(answer);
    const listening = await new Promise<boolean>((settle) => {
      server.once('error', () => settle(false));
      server.listen(port, '127.0.0.1', () => settle(true));
    });
    if (!listening) continue;
    const bound = server.address();
    address = `http://localhost:${typeof bound === 'object' && bound ? bound.port : port}`;
    return {
      address,
      returned: promise,
      [Symbol.dispose]() {
        server.close();
        server.closeAllConnections();
      },
    };
  }
  throw new Error('no port of this machine is free for the answer of the browser');
}

/** Logs in with OpenID Connect: authorization code with PKCE in the system's browser, then refresh tokens. */
export function createOidcLogin(
  settings: OidcSettings,
  context: string,
  show: ShowLogin,
  signal: AbortSignal,
  now: () => number = Date.now,
  /** Keeps the refresh token over launches, where the system can; ID tokens are short-lived and only held. */
  kept: KeptSecret = keptSecret(undefined, []),
): OidcLogin {
  let idToken = settings.idToken;
  // What an earlier login gave is newer than what the kubeconfig says: issuers rotate these.
  let refreshToken = kept.load() ?? settings.refreshToken;
  let discovered: Promise<client.Configuration> | undefined;
  let working: Promise<Result<string>> | undefined;

  const loginFailed = (why: string, fix: string): Failure => ({
    code: 'cluster.login-failed',
    what: `The login of “${context}” with ${new URL(settings.issuer).host} did not succeed.`,
    why,
    fix,
  });
  const why = (error: unknown): string => {
    if (error instanceof client.ResponseBodyError || error instanceof client.AuthorizationResponseError)
      return `The issuer answered: ${error.error}${error.error_description ? ` (${error.error_description})` : ''}.`;
    const cause = error instanceof Error && error.cause instanceof Error ? ` (${error.cause.message})` : '';
    return `${error instanceof Error ? error.message : String(error)}${cause}`;
  };

  const discover = (): Promise<client.Configuration> => {
    discovered ??= (async () => {
      const dispatcher = new Agent(settings.ca === undefined ? {} : { connect: { ca: settings.ca } });
      return await client.discovery(
        new URL(settings.issuer),
        settings.clientId,
        undefined,
        settings.clientSecret === undefined ? client.None() : client.ClientSecretPost(settings.clientSecret),
        {
          timeout: requestTimeout / 1000,
          [client.customFetch]: (url, options) => {
            // Issuers compare the redirect address to the letter with the one that was registered and sent before
            // (http://localhost:8000); the library works with URLs, which cannot be without the last slash.
            const body: unknown = options.body;
            if (body instanceof URLSearchParams && body.has('redirect_uri'))
              body.set('redirect_uri', (body.get('redirect_uri') ?? '').replace(/\/$/, ''));
            return fetchWith(url, { ...(options as object), dispatcher } as never) as unknown as Promise<Response>;
          },
        },
      );
    })().catch((error: unknown) => {
      discovered = undefined;
      throw error;
    });
    return discovered;
  };

  const keep = (tokens: { readonly id_token?: string; readonly refresh_token?: string }): Result<string> => {
    if (!tokens.id_token)
      return failed(loginFailed('The issuer gave no ID token.', 'Allow the scope openid for this client.'));
    idToken = tokens.id_token;
    refreshToken = tokens.refresh_token ?? refreshToken;
    kept.save(refreshToken);
    return ok(idToken);
  };

  const inBrowser = async (): Promise<Result<string>> => {
    const configuration = await discover();
    const verifier = client.randomPKCECodeVerifier();
    const state = client.randomState();
    const nonce = client.randomNonce();
    using redirect = await openRedirect(state);
    const url = client.buildAuthorizationUrl(configuration, {
      redirect_uri: redirect.address,
      scope: settings.scopes.join(' '),
      code_challenge: await client.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
      state,
      nonce,
    });
    using shown = show(url.href, AbortSignal.any([signal, AbortSignal.timeout(loginTimeout)]), kept.where);
    const gaveUp = new Promise<undefined>((resolve) => {
      if (shown.signal.aborted) resolve(undefined);
      shown.signal.addEventListener('abort', () => resolve(undefined), { once: true });
    });
    const returned = await Promise.race([redirect.returned, gaveUp]);
    if (!returned)
      return failed(loginFailed('Nobody finished it in the browser.', 'Connect again and finish the login there.'));
    return keep(
      await client.authorizationCodeGrant(configuration, returned, {
        pkceCodeVerifier: verifier,
        expectedState: state,
        expectedNonce: nonce,
        idTokenExpected: true,
      }),
    );
  };

  const work = async (ask: boolean): Promise<Result<string>> => {
    if (idToken !== undefined && expiryOf(idToken) > now() + spare) return ok(idToken);
    let refused = '';
    if (refreshToken !== undefined) {
      try {
        return keep(await client.refreshTokenGrant(await discover(), refreshToken));
      } catch (error) {
        // An issuer that is away may come back; one that refuses the token wants a new login.
        if (!(error instanceof client.ResponseBodyError))
          return failed(loginFailed(why(error), 'Check that this machine reaches the issuer, then connect again.'));
        refused = why(error);
        refreshToken = undefined;
        kept.save(undefined);
      }
    }
    if (!ask)
      return failed(
        loginFailed(`The login has expired.${refused ? ` ${refused}` : ''}`, 'Connect again to log in in the browser.'),
      );
    try {
      return await inBrowser();
    } catch (error) {
      return failed(loginFailed(why(error), 'Check the issuer and the client of the kubeconfig, then connect again.'));
    }
  };

  return {
    token(ask) {
      // Requests that come together wait for one login.
      working ??= work(ask).finally(() => {
        working = undefined;
      });
      return working;
    },
    invalidate() {
      idToken = undefined;
    },
  };
}
