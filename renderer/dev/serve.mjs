// Serves a built renderer on loopback with the headers that the product sends, for pictures and tests of the interface.
import { createServer } from 'node:http';
import { readContent, securityHeaders } from '../../main/engine/application/content.ts';

/** Starts serving `directory` on a free port of 127.0.0.1; returns its address and a way to end it. */
export async function serveContent(directory) {
  const headers = securityHeaders([]);
  const server = createServer(async (request, response) => {
    const content = await readContent(directory, new URL(request.url ?? '/', 'http://x').pathname);
    response.writeHead(content ? 200 : 404, { ...headers, ...(content ? { 'content-type': content.type } : {}) });
    response.end(content?.body ?? 'There is nothing here.\n');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    close: () => new Promise((resolve) => server.close(resolve)),
  };
}
