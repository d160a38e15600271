import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type ClusterConnection, type KubeObject, type LiveCollection, resources } from './cluster-connection.ts';
import { createConnection, type OwnedConnection } from './connection.ts';
import { loadCredentials } from './credentials.ts';
import { describeExec } from './exec-plugin.ts';
import { parseKubeconfig, type ResolvedContext, resolveContext } from './kubeconfig.ts';
import { type ApiServer, findHyperkube, startApiServer } from './testing/api-server.ts';
import { makeCertificate } from './testing/certificates.ts';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

function contextOf(text: string, name: string, path = '/tmp/kubeconfig'): ResolvedContext {
  const parsed = parseKubeconfig(text, path);
  if (!parsed.ok) throw new Error(parsed.failure.why);
  const context = parsed.value.contexts.find((entry) => entry.name === name);
  if (!context) throw new Error(`no context ${name}`);
  const resolved = resolveContext(context, parsed.value, []);
  if (!resolved.ok) throw new Error(resolved.failure.why);
  return resolved.value;
}

const signal = new AbortController().signal;

async function open(
  context: ResolvedContext,
  allowed: (hash: string) => boolean = () => false,
): Promise<OwnedConnection> {
  const credentials = await loadCredentials(context, { allowed, signal });
  if (!credentials.ok) throw new Error(credentials.failure.code);
  const connection = createConnection({
    cluster: 'c',
    contextName: context.name,
    server: context.cluster.server,
    credentials: credentials.value,
    log: () => {},
    timing: { backoff: [20, 100], missing: 100, silence: 60_000 },
    ...(context.cluster.proxyUrl === undefined ? {} : { proxyUrl: context.cluster.proxyUrl }),
  });
  cleanups.push(() => connection.close());
  return connection;
}

function kubeconfig(server: string, user: object, cluster: object = {}): string {
  return JSON.stringify({
    clusters: [{ name: 'c', cluster: { server, ...cluster } }],
    users: [{ name: 'u', user }],
    contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
  });
}

async function codeOf(
  result: Promise<{ ok: boolean; failure?: { code: string; what: string; why: string; fix: string } }>,
): Promise<string> {
  const { failure } = await result;
  // Every failure tells what, why and fix.
  if (failure) for (const text of [failure.what, failure.why, failure.fix]) expect(text.length).toBeGreaterThan(5);
  return failure?.code ?? 'ok';
}

function listening(server: {
  listen: (port: number, host: string, done: () => void) => unknown;
  address: () => unknown;
  close: () => unknown;
}): Promise<number> {
  cleanups.push(() => server.close());
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port)));
}

describe('servers that cannot be used', () => {
  const self = makeCertificate('server', 30);
  const stranger = makeCertificate('stranger', 30);
  const old = makeCertificate('old', 0);
  const ca = { 'certificate-authority-data': self.certificate.toString('base64') };

  it('names a refused connection', async () => {
    const port = await listening(createServer());
    await cleanups.pop()?.();
    expect(
      await codeOf((await open(contextOf(kubeconfig(`https://127.0.0.1:${port}`, {}), 'x'))).raw('/version')),
    ).toBe('cluster.unreachable');
  });
  it('names an unknown host', async () => {
    expect(
      await codeOf((await open(contextOf(kubeconfig('https://no-such-host.invalid:6443', {}), 'x'))).raw('/version')),
    ).toBe('cluster.unknown-host');
  });
  it('names an unknown authority, a wrong name and an expired certificate of the server', async () => {
    const answer = (key: { certificate: Buffer; key: Buffer }) =>
      listening(createHttpsServer({ cert: key.certificate, key: key.key }, (_, response) => response.end('{}')));
    const good = await answer(self);
    expect(
      await codeOf((await open(contextOf(kubeconfig(`https://127.0.0.1:${good}`, {}, ca), 'x'))).raw('/version')),
    ).toBe('ok');
    const unknown = await answer(stranger);
    expect(
      await codeOf((await open(contextOf(kubeconfig(`https://127.0.0.1:${unknown}`, {}, ca), 'x'))).raw('/version')),
    ).toBe('cluster.unknown-authority');
    expect(
      await codeOf(
        (
          await open(
            contextOf(kubeconfig(`https://127.0.0.1:${unknown}`, {}, { 'insecure-skip-tls-verify': true }), 'x'),
          )
        ).raw('/version'),
      ),
    ).toBe('ok');
    const wrongName = { ...ca, 'tls-server-name': 'other.example' };
    expect(
      await codeOf(
        (await open(contextOf(kubeconfig(`https://127.0.0.1:${good}`, {}, wrongName), 'x'))).raw('/version'),
      ),
    ).toBe('cluster.wrong-server-name');
    await new Promise((resolve) => setTimeout(resolve, 1100)); // the certificate was valid for the second it was made in
    const expired = await answer(old);
    const trusted = { 'certificate-authority-data': old.certificate.toString('base64') };
    expect(
      await codeOf(
        (await open(contextOf(kubeconfig(`https://127.0.0.1:${expired}`, {}, trusted), 'x'))).raw('/version'),
      ),
    ).toBe('cluster.server-certificate-expired');
  });
  it('names what is not an API server', async () => {
    const port = await listening(createServer((socket) => socket.end('SSH-2.0-OpenSSH_9.2\r\n')));
    expect(
      await codeOf((await open(contextOf(kubeconfig(`https://127.0.0.1:${port}`, {}), 'x'))).raw('/version')),
    ).toBe('cluster.protocol');
  });
  it('goes through an HTTP proxy, and names one that refuses', async () => {
    const seen: string[] = [];
    const { createServer: createHttpServer } = await import('node:http');
    const { connect } = await import('node:net');
    const target = await listening(
      createHttpsServer({ cert: self.certificate, key: self.key }, (_, response) =>
        response.end('{"gitVersion":"v1"}'),
      ),
    );
    const proxy = createHttpServer();
    proxy.on('connect', (request, socket) => {
      seen.push(request.url ?? '');
      if (request.headers['proxy-authorization'] !== `Basic ${Buffer.from('me:secret').toString('base64')}`)
        return socket.end('HTTP/1.1 407 No\r\n\r\n');
      const up = connect(target, '127.0.0.1', () => {
        socket.write('HTTP/1.1 200 OK\r\n\r\n');
        up.pipe(socket).pipe(up);
      });
      up.on('error', () => socket.destroy());
      socket.on('error', () => up.destroy());
    });
    const port = await listening(proxy);
    expect(
      await codeOf(
        (
          await open(
            contextOf(
              kubeconfig('https://127.0.0.1:6443', {}, { ...ca, 'proxy-url': `http://me:secret@127.0.0.1:${port}` }),
              'x',
            ),
          )
        ).raw('/version'),
      ),
    ).toBe('ok');
    expect(seen).toEqual(['127.0.0.1:6443']);
    const refused = (
      await open(contextOf(kubeconfig('https://127.0.0.1:6443', {}, { 'proxy-url': `http://127.0.0.1:${port}` }), 'x'))
    ).raw('/version');
    expect(await codeOf(refused)).toBe('cluster.unreachable');
    expect(JSON.stringify(await refused)).toContain('407');
  });
});

describe('credentials', () => {
  const now = () => Date.now() + 5000;
  it('names an expired client certificate before connecting', async () => {
    const { certificate, key } = makeCertificate('old-admin', 0);
    const context = contextOf(
      kubeconfig('https://127.0.0.1:1', {
        'client-certificate-data': certificate.toString('base64'),
        'client-key-data': key.toString('base64'),
      }),
      'x',
    );
    const result = await loadCredentials(context, { allowed: () => false, signal, now });
    expect(result).toMatchObject({ ok: false, failure: { code: 'cluster.certificate-expired' } });
    if (!result.ok) expect(result.failure.why).toContain('CN=old-admin');
  });
  it('names an unreadable certificate and a missing file', async () => {
    const bad = contextOf(
      kubeconfig('https://127.0.0.1:1', { 'client-certificate-data': 'AAAA', 'client-key-data': 'AAAA' }),
      'x',
    );
    expect(await loadCredentials(bad, { allowed: () => false, signal })).toMatchObject({
      ok: false,
      failure: { code: 'kubeconfig.bad-certificate' },
    });
    const missing = contextOf(
      kubeconfig('https://127.0.0.1:1', { 'client-certificate': 'nope.pem' }),
      'x',
      '/tmp/some/config',
    );
    const result = await loadCredentials(missing, { allowed: () => false, signal });
    expect(result).toMatchObject({ ok: false, failure: { code: 'kubeconfig.missing-file' } });
    if (!result.ok) expect(result.failure.why).toContain('/tmp/some/nope.pem');
  });
  it('does not send a token over plain http', async () => {
    const context = contextOf(kubeconfig('http://127.0.0.1:1', { token: 't' }), 'x');
    expect(await loadCredentials(context, { allowed: () => false, signal })).toMatchObject({
      ok: false,
      failure: { code: 'kubeconfig.plain-http' },
    });
  });

  function plugin(script: string): { readonly context: ResolvedContext; readonly ran: () => string } {
    const directory = mkdtempSync(join(tmpdir(), 'fairlead-exec-'));
    cleanups.push(() => rmSync(directory, { recursive: true, force: true }));
    const file = join(directory, 'login');
    writeFileSync(file, `#!/bin/sh\necho ran >> "${directory}/ran"\n${script}\n`);
    chmodSync(file, 0o755);
    const user = {
      exec: {
        apiVersion: 'client.authentication.k8s.io/v1',
        command: './login',
        args: ['a'],
        env: [{ name: 'X', value: 'y' }],
        provideClusterInfo: true,
      },
    };
    return {
      context: contextOf(kubeconfig('https://127.0.0.1:1', user), 'x', join(directory, 'config')),
      ran: () => {
        try {
          return readFileSync(join(directory, 'ran'), 'utf8');
        } catch {
          return '';
        }
      },
    };
  }
  const credential = (token: string) =>
    `echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"${token}"}}'`;

  it('never runs a login program that has not been allowed', async () => {
    const { context, ran } = plugin(credential('t'));
    expect(await loadCredentials(context, { allowed: () => false, signal })).toMatchObject({
      ok: false,
      failure: { code: 'cluster.login-not-allowed' },
    });
    expect(ran()).toBe('');
  });
  it('runs the allowed one once, with its environment, and uses its token', async () => {
    const { context, ran } = plugin(
      `[ "$X" = y ] && echo "$KUBERNETES_EXEC_INFO" | grep -q '"server":"https://127.0.0.1:1"' && ${credential('t0ken')}`,
    );
    const hash = context.user.exec ? describeExec(context.user.exec, context.path).hash : '';
    const result = await loadCredentials(context, { allowed: (asked) => asked === hash, signal });
    if (!result.ok) throw new Error(result.failure.why);
    expect(await result.value.headers()).toEqual({ ok: true, value: { authorization: 'Bearer t0ken' } });
    expect(ran()).toBe('ran\n');
  });
  it('has another hash for other arguments or another environment', () => {
    const { context } = plugin('');
    const exec = context.user.exec;
    if (!exec) throw new Error('no exec');
    const { hash } = describeExec(exec, context.path);
    expect(describeExec({ ...exec, args: ['b'] }, context.path).hash).not.toBe(hash);
    expect(describeExec({ ...exec, env: [] }, context.path).hash).not.toBe(hash);
    expect(describeExec(exec, '/elsewhere/config').hash).not.toBe(hash);
  });
  it.each([
    ['echo broken >&2; exit 3', 'exit code 3. It said: broken'],
    ['echo not json', 'not JSON'],
    ['echo "{}"', 'neither a token'],
  ])('tells why %j gave no credentials', async (script, why) => {
    const { context } = plugin(script);
    const result = await loadCredentials(context, { allowed: () => true, signal });
    expect(result).toMatchObject({ ok: false, failure: { code: 'cluster.login-failed' } });
    if (!result.ok) expect(result.failure.why).toContain(why);
  });
});

const hyperkube = findHyperkube();
describe.skipIf(!hyperkube)(
  `a real API server${hyperkube ? '' : ' (skipped: the lab’s Kubernetes has not been built)'}`,
  () => {
    let server: ApiServer;
    beforeAll(async () => {
      server = await startApiServer();
    }, 60_000);
    afterAll(() => server?.stop());
    const as = (user: string) => open(contextOf(readFileSync(server.kubeconfig, 'utf8'), user, server.kubeconfig));
    const configMap = (name: string, data: Record<string, string>, extra: object = {}): KubeObject =>
      ({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, namespace: 'default', ...extra }, data }) as KubeObject;

    function changed<T extends KubeObject>(
      collection: LiveCollection<T>,
      condition: (items: ReadonlyMap<string, T>) => boolean,
    ): Promise<void> {
      return new Promise((resolve) => {
        const look = () => {
          if (!condition(collection.items())) return;
          registration[Symbol.dispose]();
          resolve();
        };
        const registration = collection.onChange(look);
        look();
      });
    }

    it('measures, reads and tells of 401, 403 and 404', async () => {
      const admin = await as('admin');
      const measured = await admin.measure();
      expect(measured).toMatchObject({ ok: true });
      if (measured.ok) expect(measured.value.version).toMatch(/^v1\./);
      expect(await codeOf((await as('nobody')).raw('/version'))).toBe('cluster.unauthorized');
      expect(await codeOf((await as('viewer')).list(resources.pods))).toBe('kube.forbidden');
      expect(await codeOf(admin.get(resources.configMaps, 'nope', 'default'))).toBe('kube.not-found');
      expect(await codeOf(admin.list(resources.ciliumNodes))).toBe('kube.not-found');
    });

    it('tells of actions that are refused, and not of what may not be read or asked', async () => {
      const viewer = await as('viewer');
      const refused: true[] = [];
      viewer.onRefused(() => void refused.push(true));
      expect(await codeOf(viewer.list(resources.pods))).toBe('kube.forbidden');
      expect(refused).toHaveLength(0);
      expect(await codeOf(viewer.remove(resources.pods, 'p', 'default'))).toBe('kube.forbidden');
      expect(refused).toHaveLength(1);
      const target = { namespace: 'default', pod: 'p', container: 'c', command: ['true'], tty: false };
      expect(await codeOf(viewer.exec(target))).toBe('kube.forbidden');
      expect(refused).toHaveLength(2);
    });

    it('applies server-side, names the conflicting manager, dry-runs, replaces and removes', async () => {
      const admin = await as('admin');
      expect(await codeOf(admin.apply(resources.configMaps, configMap('a', { k: '1' }), { dryRun: true }))).toBe('ok');
      expect(await codeOf(admin.get(resources.configMaps, 'a', 'default'))).toBe('kube.not-found');
      expect(await codeOf(admin.apply(resources.configMaps, configMap('a', { k: '1' })))).toBe('ok');
      const conflict = await admin.apply(resources.configMaps, configMap('a', { k: '2' }), { fieldManager: 'other' });
      expect(conflict).toMatchObject({ ok: false, failure: { code: 'kube.conflict' } });
      if (!conflict.ok) expect(conflict.failure.why).toContain('fairlead');
      expect(
        await codeOf(
          admin.apply(resources.configMaps, configMap('a', { k: '2' }), { fieldManager: 'other', force: true }),
        ),
      ).toBe('ok');
      expect(await codeOf(admin.create(resources.configMaps, configMap('a', {})))).toBe('kube.exists');
      expect(await codeOf(admin.replace(resources.configMaps, configMap('a', {}, { resourceVersion: '1' })))).toBe(
        'kube.conflict',
      );
      expect(
        await codeOf(admin.apply(resources.configMaps, { ...configMap('b', {}), wrong: 1 } as KubeObject)),
      ).not.toBe('ok');
      expect(await codeOf(admin.remove(resources.configMaps, 'a', 'default'))).toBe('ok');
      expect(await codeOf(admin.remove(resources.configMaps, 'a', 'default'))).toBe('kube.not-found');
    });

    it('lists page by page without managedFields', async () => {
      const admin = await as('admin');
      const many = 1100;
      for (let i = 0; i < many; i += 50) {
        await Promise.all(
          Array.from({ length: 50 }, (_, j) =>
            admin.create(resources.configMaps, configMap(`page-${i + j}`, {}, { labels: { set: 'page' } })),
          ),
        );
      }
      const all = await admin.list<KubeObject>(resources.configMaps, {
        namespace: 'default',
        labelSelector: 'set=page',
      });
      if (!all.ok) throw new Error(all.failure.why);
      expect(all.value).toHaveLength(many);
      expect(JSON.stringify(all.value)).not.toContain('managedFields');
    }, 60_000);

    it('shares one watch, follows changes, and closes it with its last user', async () => {
      const admin = await as('admin');
      const first = admin.watch(resources.configMaps, { labelSelector: 'set=watch' });
      const second = admin.watch(resources.configMaps, { labelSelector: 'set=watch' });
      expect(admin.watching()).toBe(1);
      expect(await first.ready()).toEqual({ ok: true, value: undefined });
      const created = changed(second, (items) => items.has('default/w1'));
      await admin.create(resources.configMaps, configMap('w1', { v: '1' }, { labels: { set: 'watch' } }));
      await created;
      expect(first.items()).toBe(second.items());
      const updated = changed(
        first,
        (items) => (items.get('default/w1') as { data?: { v?: string } } | undefined)?.data?.v === '2',
      );
      await admin.apply(resources.configMaps, configMap('w1', { v: '2' }), { force: true });
      await updated;
      const removed = changed(first, (items) => items.size === 0);
      await admin.remove(resources.configMaps, 'w1', 'default');
      await removed;
      first[Symbol.dispose]();
      first[Symbol.dispose]();
      expect(admin.watching()).toBe(1);
      second[Symbol.dispose]();
      expect(admin.watching()).toBe(0);
    });

    it('notices a kind that is installed later', async () => {
      const admin = await as('admin');
      const nodes = admin.watch(resources.ciliumNodes);
      cleanups.push(() => nodes[Symbol.dispose]());
      expect(await nodes.ready()).toMatchObject({ ok: false, failure: { code: 'kube.not-found' } });
      const synced = new Promise<void>((resolve) => nodes.onChange(() => nodes.synced() && resolve()));
      await admin.create(resources.customResourceDefinitions, {
        apiVersion: 'apiextensions.k8s.io/v1',
        kind: 'CustomResourceDefinition',
        metadata: { name: 'ciliumnodes.cilium.io' },
        spec: {
          group: 'cilium.io',
          scope: 'Cluster',
          names: { plural: 'ciliumnodes', singular: 'ciliumnode', kind: 'CiliumNode', listKind: 'CiliumNodeList' },
          versions: [
            {
              name: 'v2',
              served: true,
              storage: true,
              schema: { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } },
            },
          ],
        },
      } as KubeObject);
      await synced;
      expect(nodes.failure()).toBeUndefined();
    });

    it('keeps one connection for many requests', async () => {
      const admin = await as('admin');
      await admin.measure();
      const before = performance.now();
      for (let i = 0; i < 100; i++) await admin.raw('/version');
      const each = (performance.now() - before) / 100;
      console.log(`kube: ${each.toFixed(2)} ms per GET over a kept connection`);
      // A TLS handshake per request takes well over 10 ms here.
      expect(each).toBeLessThan(10);
    });

    it('leaves nothing behind after opening and closing fifty times', async () => {
      const handles = () => process.getActiveResourcesInfo().filter((name) => /TCP|TLS|Timeout/.test(name)).length;
      const once = async () => {
        const connection: ClusterConnection & { close: () => void } = await as('admin');
        const pods = connection.watch(resources.pods);
        await pods.ready();
        connection.close();
      };
      await once();
      await new Promise((resolve) => setTimeout(resolve, 50));
      const before = handles();
      for (let i = 0; i < 50; i++) await once();
      await new Promise((resolve) => setTimeout(resolve, 100));
      expect(handles()).toBeLessThanOrEqual(before + 2);
    });

    it('goes through a server that goes away and comes back', async () => {
      // A TCP relay stands for the network: cut it, mend it.
      const { connect, createServer: createTcpServer } = await import('node:net');
      const port = Number(new URL(server.url).port);
      const sockets = new Set<{ destroy: () => void }>();
      const relay = createTcpServer((client) => {
        const up = connect(port, '127.0.0.1');
        for (const socket of [client, up]) {
          sockets.add(socket);
          socket.on('error', () => {});
          socket.on('close', () => sockets.delete(socket));
        }
        client.pipe(up).pipe(client);
      });
      const relayPort = await listening(relay);
      const text = readFileSync(server.kubeconfig, 'utf8').replace(`:${port}`, `:${relayPort}`);
      const connection = await open(contextOf(text, 'admin'));
      const maps = connection.watch(resources.configMaps, { labelSelector: 'set=gone' });
      await maps.ready();
      const failing = new Promise<string>((resolve) =>
        maps.onChange(() => maps.failure() && resolve(maps.failure()?.code ?? '')),
      );
      relay.close();
      for (const socket of sockets) socket.destroy();
      expect(['cluster.gone', 'cluster.unreachable']).toContain(await failing);
      expect(maps.synced()).toBe(true);
      const direct = await as('admin');
      await direct.create(resources.configMaps, configMap('back', {}, { labels: { set: 'gone' } }));
      const back = changed(maps, (items) => items.has('default/back'));
      await new Promise<void>((resolve) => relay.listen(relayPort, '127.0.0.1', () => resolve()));
      await back;
      expect(maps.failure()).toBeUndefined();
      maps[Symbol.dispose]();
      for (const socket of sockets) socket.destroy();
    });
  },
);
