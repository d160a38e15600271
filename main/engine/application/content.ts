import { readFile, realpath, stat } from 'node:fs/promises';
import { extname, join, sep } from 'node:path';

const types: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.mjs': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.json': 'application/json; charset=utf-8',
  '.map': 'application/json; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.ico': 'image/x-icon',
  '.woff': 'font/woff',
  '.woff2': 'font/woff2',
  '.wasm': 'application/wasm',
};

export interface Content {
  readonly body: Buffer;
  readonly type: string;
  /** Named by its content's hash, so it may be kept for ever. */
  readonly immutable: boolean;
}

/**
 * Reads one file of the built renderer. `path` is a URL path ("/" is index.html). Undefined when there is none, when it
 * leaves the directory (by dots or by a link), or when its type is not one that the renderer is made of.
 */
export async function readContent(directory: string, path: string): Promise<Content | undefined> {
  let decoded: string;
  try {
    decoded = decodeURIComponent(path);
  } catch {
    return undefined;
  }
  if (decoded.includes('\0') || decoded.includes('\\')) return undefined;
  const name = decoded === '/' ? '/index.html' : decoded;
  const type = types[extname(name)];
  if (!type) return undefined;
  try {
    const root = await realpath(directory);
    const file = await realpath(join(root, name));
    if (!file.startsWith(root + sep) || !(await stat(file)).isFile()) return undefined;
    return { body: await readFile(file), type, immutable: /-[\w-]{8,}\.\w+$/.test(name) && type !== types['.html'] };
  } catch {
    return undefined;
  }
}

/**
 * Headers that every answer to the renderer carries. `connect` lists what it may connect to besides its own origin.
 * `style-src` has 'unsafe-inline' because xterm, CodeMirror and Mantine write style elements and attributes at run time
 * and offer a nonce for only some of them; styles alone cannot run code, and no other source may be inline.
 */
export function securityHeaders(connect: readonly string[], development = false): Readonly<Record<string, string>> {
  const policy = [
    "default-src 'none'",
    // The development server's hot reload writes one inline script.
    `script-src 'self'${development ? " 'unsafe-inline'" : ''}`,
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data:",
    "font-src 'self' data:",
    `connect-src ${["'self'", ...connect].join(' ')}`,
    "worker-src 'self'",
    "manifest-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ];
  return {
    'content-security-policy': policy.join('; '),
    'x-content-type-options': 'nosniff',
    'x-frame-options': 'DENY',
    'referrer-policy': 'no-referrer',
    'cross-origin-opener-policy': 'same-origin',
    'cross-origin-resource-policy': 'same-origin',
    'permissions-policy': 'camera=(), microphone=(), geolocation=(), usb=(), serial=(), payment=()',
  };
}
