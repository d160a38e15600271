import { protocol } from 'electron';
import { readContent, securityHeaders } from '../engine/application/content.ts';
import { isOwn, scheme } from './origin.ts';

/** Makes app:// a proper origin (storage, workers, module scripts); before the application is ready. */
export function registerScheme(): void {
  protocol.registerSchemesAsPrivileged([
    {
      scheme,
      privileges: {
        standard: true,
        secure: true,
        supportFetchAPI: true,
        corsEnabled: false,
        bypassCSP: false,
        allowServiceWorkers: false,
        stream: true,
      },
    },
  ]);
}

/** Answers one request of the page from the built renderer, with the content policy on every answer. */
export async function answer(
  directory: string,
  request: { readonly method: string; readonly url: string },
): Promise<Response> {
  const headers = securityHeaders([]);
  if (request.method !== 'GET' && request.method !== 'HEAD') return new Response(null, { status: 405, headers });
  if (!isOwn(request.url)) return new Response(null, { status: 403, headers });
  const content = await readContent(directory, new URL(request.url).pathname);
  if (!content)
    return new Response('There is nothing here.', {
      status: 404,
      headers: { ...headers, 'content-type': 'text/plain' },
    });
  return new Response(request.method === 'HEAD' ? null : new Uint8Array(content.body), {
    status: 200,
    headers: { ...headers, 'content-type': content.type },
  });
}

/** Serves the built renderer under app://; once the application is ready. */
export function serveContent(directory: string): void {
  protocol.handle(scheme, (request) => answer(directory, request));
}
