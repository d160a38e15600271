import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Cluster } from '../../../contract/clusters.ts';
import type { AgentStatuses } from '../agents/index.ts';
import { openAuditLog } from '../application/audit.ts';
import { type ApiServer, findHyperkube, startApiServer } from '../kube/testing/api-server.ts';
import { silent } from '../log.ts';
import { createSshConnector } from '../ssh/connector.ts';
import { parseFiles } from '../ssh/remote-files.ts';
import { openFixture, type SshFixture, sshd, type TestServer } from '../ssh/testing.ts';
import { createClusters } from './index.ts';

const noAgents: AgentStatuses = { forCluster: () => new Map(), onChange: () => ({ [Symbol.dispose]() {} }) };
const context = (signal = new AbortController().signal) => ({ signal, connection: 'test' });

describe('what a machine says of its files', () => {
  it('is read by its lengths, whatever the files hold', () => {
    const body = Buffer.from('FILE 3 /fake\nabc\n\u0000 end');
    const output = Buffer.concat([
      Buffer.from(`FILE ${body.length} /etc/kubernetes/admin.conf\n`),
      body,
      Buffer.from('\nFILE 2 /a b\nxy\n'),
    ]);
    expect(parseFiles(output).map(({ path, content }) => [path, content.toString()])).toEqual([
      ['/etc/kubernetes/admin.conf', body.toString()],
      ['/a b', 'xy'],
    ]);
  });
  it('is not guessed at where it is cut off or something else', () => {
    expect(parseFiles(Buffer.from('FILE 100 /x\nshort'))).toEqual([]);
    expect(parseFiles(Buffer.from('Welcome to this machine\n'))).toEqual([]);
    for (let seed = 1; seed < 300; seed++) {
      const bytes = Buffer.from(Array.from({ length: seed % 40 }, (_, index) => (seed * 7919 + index * 104729) % 251));
      for (const { content } of parseFiles(Buffer.concat([Buffer.from('FILE 5 /x\n'), bytes])))
        expect(content).toHaveLength(5);
    }
  });
});

const hyperkube = findHyperkube();
const possible = sshd !== undefined && hyperkube !== undefined;
describe.skipIf(!possible)(
  `a cluster behind two SSH hops${possible ? '' : ' (skipped: openssh-server or the lab’s Kubernetes is missing)'}`,
  () => {
    let fixture: SshFixture;
    let bastion: TestServer;
    let machine: TestServer;
    let api: ApiServer;
    let home: string;
    /** Connections to the first hop, so that a test can cut them. */
    const wires = new Set<Socket>();
    let wire: Server;
    beforeAll(async () => {
      fixture = openFixture();
      bastion = await fixture.start();
      machine = await fixture.start();
      wire = createServer((near) => {
        const far = connect(bastion.port, '127.0.0.1');
        wires.add(near);
        near.on('close', () => {
          wires.delete(near);
          far.destroy();
        });
        for (const socket of [near, far]) socket.on('error', () => {});
        far.on('close', () => near.destroy());
        near.pipe(far).pipe(near);
      });
      await new Promise<void>((resolve) => wire.listen(0, '127.0.0.1', resolve));
      api = await startApiServer();
      home = join(fixture.directory, 'home');
      mkdirSync(home);
    }, 60_000);
    afterAll(async () => {
      wire?.close();
      await api?.stop();
      await fixture?.close();
    });

    const wirePort = () => {
      const address = wire.address();
      return typeof address === 'object' && address ? address.port : 0;
    };
    function open(known = `jump ${bastion.hostKey}\n[127.0.0.1]:${machine.port} ${machine.hostKey}\n`) {
      const state = join(fixture.directory, `state-${Math.random()}`);
      mkdirSync(state);
      const configPath = fixture.file(
        'config',
        `Host jump\n  HostName 127.0.0.1\n  Port ${wirePort()}\n  HostKeyAlias jump\nHost control\n  HostName 127.0.0.1\n  Port ${machine.port}\n  ProxyJump jump\nHost *\n  User ${userInfo().username}\n  IdentityFile ${fixture.identity}\n  IdentityAgent none\n  UserKnownHostsFile ${fixture.file('known', known)}\n  GlobalKnownHostsFile /dev/null\n`,
      );
      const connector = createSshConnector({ configPath, stateDirectory: state, log: silent });
      const start = () => {
        const clusters = createClusters({
          stateDirectory: state,
          log: silent,
          audit: openAuditLog(state, silent),
          kubeconfigs: [fixture.file('empty', 'clusters: []')],
          ssh: () => connector,
        });
        return { clusters, implementation: clusters.implementation(noAgents) };
      };
      return { state, start };
    }

    async function until(
      implementation: ReturnType<ReturnType<typeof open>['start']>['implementation'],
      condition: (cluster: Cluster) => boolean,
    ): Promise<Cluster> {
      const stop = new AbortController();
      return await new Promise<Cluster>((resolve) => {
        void implementation.watch(
          {},
          {
            async push(items) {
              const found = (items.at(-1)?.clusters as readonly Cluster[] | undefined)?.find(condition);
              if (!found) return;
              stop.abort();
              resolve(found);
            },
          },
          context(stop.signal),
        );
      });
    }

    it('is found, read into memory, remembered without a secret, and reached through both hops', async () => {
      const path = join(home, 'admin.conf');
      writeFileSync(path, readFileSync(api.kubeconfig));
      const { state, start } = open();
      const first = start();
      const added = await first.implementation.addSsh({ host: 'control', path }, context());
      if (!added.ok) throw new Error(added.failure.why);
      expect(added.value.added.length).toBeGreaterThan(0);
      const admin = await until(first.implementation, (cluster) => cluster.name === 'admin');
      expect(admin).toMatchObject({ source: 'ssh', state: 'idle', origin: 'control', route: ['ssh control'] });
      expect(await first.implementation.connect({ cluster: admin.id }, context())).toEqual({ ok: true, value: {} });
      const online = await until(first.implementation, (cluster) => cluster.state === 'online');
      expect(online).toMatchObject({ id: admin.id, route: ['ssh jump', 'ssh control'] });
      expect(online.serverVersion).toMatch(/^v1\./);
      const remembered = readFileSync(join(state, 'clusters.json'), 'utf8');
      expect(remembered).toContain('admin.conf');
      expect(remembered).not.toMatch(/token|certificate-authority-data|client-key/);

      // The session is lost: it is made again by itself, nobody is asked, and the cluster stays.
      for (const socket of wires) socket.destroy();
      const connection = await first.clusters.connections.get(admin.id);
      if (!connection.ok) throw new Error(connection.failure.why);
      await until(first.implementation, (cluster) => cluster.state === 'online');
      expect((await connection.value.raw('/version')).ok).toBe(true);
      expect(wires.size).toBe(1);
      first.clusters[Symbol.dispose]();

      const second = start();
      const again = await until(second.implementation, (cluster) => cluster.name === 'admin');
      expect(again).toMatchObject({ id: admin.id, state: 'idle', source: 'ssh' });
      await second.implementation.forget({ cluster: admin.id }, context());
      const third = start();
      const names: string[] = [];
      const stop = new AbortController();
      await third.implementation.watch(
        {},
        {
          async push(items) {
            for (const cluster of items.at(-1)?.clusters ?? []) names.push(cluster.name);
            stop.abort();
          },
        },
        context(stop.signal),
      );
      expect(names).not.toContain('admin');
      for (const { clusters } of [second, third]) clusters[Symbol.dispose]();
    });

    it('reads certificates that lie beside the kubeconfig there', async () => {
      const path = join(home, 'relative.conf');
      writeFileSync(join(home, 'my token'), 'admin\n');
      writeFileSync(
        path,
        JSON.stringify({
          clusters: [{ name: 'c', cluster: { server: api.url, 'insecure-skip-tls-verify': true } }],
          users: [{ name: 'u', user: { tokenFile: 'my token' } }],
          contexts: [{ name: 'by-file', context: { cluster: 'c', user: 'u' } }],
        }),
      );
      const { start } = open();
      using opened = start().clusters;
      const implementation = opened.implementation(noAgents);
      const added = await implementation.addSsh({ host: 'control', path }, context());
      if (!added.ok) throw new Error(added.failure.why);
      const id = added.value.added[0] ?? '';
      expect(await implementation.connect({ cluster: id }, context())).toEqual({ ok: true, value: {} });
      const connection = await opened.connections.get(id);
      const { resources } = await import('../kube/cluster-connection.ts');
      const listed = connection.ok ? await connection.value.list(resources.namespaces) : connection;
      expect(listed.ok && listed.value.length).toBeGreaterThan(0);
    });

    it('refuses what it will not do, and says where the kubeconfig could not be found', async () => {
      const { start } = open();
      using opened = start().clusters;
      const implementation = opened.implementation(noAgents);
      const path = join(home, 'exec.conf');
      const marker = join(home, 'ran');
      writeFileSync(
        path,
        JSON.stringify({
          clusters: [{ name: 'c', cluster: { server: api.url } }],
          users: [{ name: 'u', user: { exec: { command: '/bin/sh', args: ['-c', `touch ${marker}`] } } }],
          contexts: [{ name: 'program', context: { cluster: 'c', user: 'u' } }],
        }),
      );
      const added = await implementation.addSsh({ host: 'control', path }, context());
      const id = added.ok ? (added.value.added[0] ?? '') : '';
      expect(await implementation.connect({ cluster: id }, context())).toMatchObject({
        ok: false,
        failure: { code: 'ssh.remote-login-program' },
      });
      expect(() => readFileSync(marker)).toThrow();
      expect(await implementation.addSsh({ host: 'control', path: join(home, 'none') }, context())).toMatchObject({
        ok: false,
        failure: { code: 'ssh.no-kubeconfig' },
      });
      for (const host of ['-oProxyCommand=x', ' ', 'a b'])
        expect(await implementation.addSsh({ host }, context())).toMatchObject({
          ok: false,
          failure: { code: 'ssh.bad-host' },
        });
    });

    it('stops at a changed host key of the way', async () => {
      const { start } = open(`jump ${machine.hostKey}\n`);
      using opened = start().clusters;
      expect(await opened.implementation(noAgents).addSsh({ host: 'control' }, context())).toMatchObject({
        ok: false,
        failure: { code: 'ssh.host-key-changed' },
      });
    });
  },
);
