import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';

/** Why a request was turned away. */
export interface Refusal {
  readonly status: 401 | 403;
  readonly code: 'serve.no-token' | 'serve.wrong-token' | 'serve.wrong-host' | 'serve.wrong-origin';
  readonly what: string;
  readonly why: string;
  readonly fix: string;
}

export interface Access {
  /** Secret of this launch, part of the printed address. */
  readonly token: string;
  /** Undefined when Host and Origin are ours. A WebSocket must name its origin; a plain request may leave it out. */
  readonly checkOrigin: (request: IncomingMessage, originRequired: boolean) => Refusal | undefined;
  /** Undefined when the request carries the cookie. */
  readonly checkCookie: (request: IncomingMessage) => Refusal | undefined;
  /** The Set-Cookie header when `token` is the right one. */
  readonly exchange: (token: string) => string | undefined;
}

/** Compares without telling by its duration how much was right. */
function same(a: string, b: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

function cookies(header: string | undefined): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const part of (header ?? '').split(';')) {
    const equals = part.indexOf('=');
    if (equals > 0) found.set(part.slice(0, equals).trim(), part.slice(equals + 1).trim());
  }
  return found;
}

const fix = 'Open the address that Fairlead printed when it started, with its ?token=… part.';

/**
 * Decides who may talk to a server on loopback. Any program on this machine, and any page in the user's browser, can
 * reach the port: the Host check stops DNS rebinding, the Origin check other pages, the token other programs and users.
 */
export function createAccess(port: number, token = randomBytes(32).toString('base64url')): Access {
  const hosts = new Set([`127.0.0.1:${port}`, `localhost:${port}`]);
  const cookie = `fairlead-${port}`;
  const session = randomBytes(32).toString('base64url');
  return {
    token,
    checkOrigin(request, originRequired) {
      const host = request.headers.host ?? '';
      if (!hosts.has(host)) {
        return {
          status: 403,
          code: 'serve.wrong-host',
          what: 'Fairlead did not answer this request.',
          why: `It was addressed to “${host.slice(0, 100)}”, which is not this server. A page elsewhere may be trying to reach it by a name of its own.`,
          fix: `Use http://127.0.0.1:${port}/ or http://localhost:${port}/. Through an SSH forward, use the same port on both ends.`,
        };
      }
      const origin = request.headers.origin;
      if ((originRequired || origin !== undefined) && origin !== `http://${host}`) {
        return {
          status: 403,
          code: 'serve.wrong-origin',
          what: 'Fairlead did not answer this request.',
          why: `It came from ${origin ? `the page “${origin.slice(0, 100)}”` : 'a program that names no origin'}, and only Fairlead’s own page may talk to it.`,
          fix: 'If you did not expect this, close that page.',
        };
      }
      return undefined;
    },
    checkCookie(request) {
      const given = cookies(request.headers.cookie).get(cookie);
      if (given !== undefined && same(given, session)) return undefined;
      return {
        status: 401,
        code: 'serve.no-token',
        what: 'This browser has not been let in.',
        why: given
          ? 'Its permission is of an earlier launch.'
          : 'The address lacks the token of this launch, which keeps other programs and users of this machine out.',
        fix,
      };
    },
    exchange(offered) {
      return same(offered, token) ? `${cookie}=${session}; HttpOnly; SameSite=Strict; Path=/` : undefined;
    },
  };
}

/** The refusal for a token that is not of this launch. */
export const wrongToken: Refusal = {
  status: 401,
  code: 'serve.wrong-token',
  what: 'This browser has not been let in.',
  why: 'The token in the address is not of this launch: Fairlead makes a new one each time it starts.',
  fix,
};

const escapeText = (text: string) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

/** A page that needs no script, no style sheet and no session. */
export function refusalPage(refusal: Refusal): string {
  const line = (label: string, text: string) => `<dt>${label}</dt><dd>${escapeText(text)}</dd>`;
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>Fairlead: not let in</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem;color-scheme:light dark}dt{font-weight:600}dd{margin:0 0 1rem}</style>
<h1>${escapeText(refusal.what)}</h1><dl>${line('Why', refusal.why)}${line('Fix', refusal.fix)}${line('Code', refusal.code)}</dl></html>
`;
}
