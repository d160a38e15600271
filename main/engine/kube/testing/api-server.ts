import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { get } from 'node:https';
import { createServer } from 'node:net';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';

/** A real etcd and kube-apiserver on loopback, for tests. */
export interface ApiServer {
  readonly directory: string;
  readonly url: string;
  readonly kubeconfig: string;
  /** Tokens: `admin` may do everything, `viewer` nothing. */
  readonly stop: () => Promise<void>;
}

/** The program that the lab builds: all of Kubernetes in one. Undefined when it has not been built on this machine. */
export function findHyperkube(): string | undefined {
  const cache = process.env.FAIRLEAD_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'fairlead');
  const builds = join(cache, 'lab', 'hyperkube');
  if (!existsSync(builds)) return undefined;
  return readdirSync(builds)
    .map((build) => join(builds, build))
    .find((build) => existsSync(join(build, 'kube-apiserver')) && existsSync(join(build, 'etcd')));
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() =>
        typeof address === 'object' && address ? resolve(address.port) : reject(new Error('no port')),
      );
    });
  });
}

function ready(url: string, ca: () => Buffer): Promise<boolean> {
  return new Promise((resolve) => {
    try {
      const request = get(
        `${url}/readyz`,
        { ca: ca(), headers: { authorization: 'Bearer admin' }, timeout: 1000 },
        (response) => {
          response.resume();
          resolve(response.statusCode === 200);
        },
      );
      request.on('error', () => resolve(false));
    } catch {
      resolve(false);
    }
  });
}

/** Starts both and waits until the API server is ready. `flags` are added to the API server's. */
export async function startApiServer(flags: readonly string[] = []): Promise<ApiServer> {
  const programs = findHyperkube();
  if (!programs) throw new Error('the lab’s Kubernetes has not been built: run lab/lab build');
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-api-'));
  const [port, etcdPort, etcdPeerPort] = await Promise.all([freePort(), freePort(), freePort()]);
  const url = `https://127.0.0.1:${port}`;
  const children: ChildProcess[] = [];
  const start = (name: string, args: readonly string[]) => {
    const child = spawn(join(programs, name), [...args], { stdio: ['ignore', 'ignore', 'pipe'] });
    child.stderr?.resume();
    children.push(child);
  };
  const stop = async () => {
    for (const child of children.reverse()) {
      const gone = new Promise((resolve) => child.once('exit', resolve));
      if (child.exitCode === null && child.kill('SIGKILL')) await gone;
    }
    rmSync(directory, { recursive: true, force: true });
  };
  writeFileSync(join(directory, 'tokens.csv'), 'admin,admin,1,system:masters\nviewer,viewer,2\n');
  execFileSync('openssl', ['genrsa', '-out', join(directory, 'sa.key'), '2048'], { stdio: 'ignore' });
  mkdirSync(join(directory, 'certs'));
  start('etcd', [
    `--data-dir=${join(directory, 'etcd')}`,
    '--unsafe-no-fsync',
    '--log-level=error',
    `--listen-client-urls=http://127.0.0.1:${etcdPort}`,
    `--advertise-client-urls=http://127.0.0.1:${etcdPort}`,
    `--listen-peer-urls=http://127.0.0.1:${etcdPeerPort}`,
    `--initial-advertise-peer-urls=http://127.0.0.1:${etcdPeerPort}`,
    `--initial-cluster=default=http://127.0.0.1:${etcdPeerPort}`,
  ]);
  start('kube-apiserver', [
    `--etcd-servers=http://127.0.0.1:${etcdPort}`,
    '--bind-address=127.0.0.1',
    '--advertise-address=127.0.0.1',
    `--secure-port=${port}`,
    `--cert-dir=${join(directory, 'certs')}`,
    `--token-auth-file=${join(directory, 'tokens.csv')}`,
    '--authorization-mode=RBAC',
    '--endpoint-reconciler-type=none',
    '--service-cluster-ip-range=10.99.0.0/24',
    '--service-account-issuer=https://test',
    `--service-account-key-file=${join(directory, 'sa.key')}`,
    `--service-account-signing-key-file=${join(directory, 'sa.key')}`,
    '--disable-admission-plugins=ServiceAccount',
    ...flags,
  ]);
  const ca = () => readFileSync(join(directory, 'certs', 'apiserver.crt'));
  const until = Date.now() + 30_000;
  while (!(await ready(url, ca))) {
    if (Date.now() > until || children.some((child) => child.exitCode !== null)) {
      await stop();
      throw new Error('the API server did not become ready');
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const user = (name: string) => ({ name, user: { token: name } });
  const context = (name: string) => ({ name, context: { cluster: 'test', user: name } });
  const kubeconfig = join(directory, 'kubeconfig');
  writeFileSync(
    kubeconfig,
    JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'test', cluster: { server: url, 'certificate-authority-data': ca().toString('base64') } }],
      users: [user('admin'), user('viewer'), user('nobody')],
      contexts: [context('admin'), context('viewer'), context('nobody')],
      'current-context': 'admin',
    }),
  );
  return { directory, url, kubeconfig, stop };
}
