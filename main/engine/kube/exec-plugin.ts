import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, statSync } from 'node:fs';
import { delimiter, dirname, isAbsolute, join, resolve } from 'node:path';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { ClusterEntry, ExecEntry } from './kubeconfig.ts';

/** What a context's login program is, exactly; `hash` stands for all of it. */
export interface ExecDescription {
  readonly command: string;
  /** Absolute path of what would run; "" when it was not found. */
  readonly resolved: string;
  readonly args: readonly string[];
  /** What is added to its environment, each "NAME=value". */
  readonly env: readonly string[];
  readonly hash: string;
}

/** What the program said. */
export interface ExecCredential {
  readonly token: string | undefined;
  readonly certificate: Buffer | undefined;
  readonly key: Buffer | undefined;
  /** Unix milliseconds; undefined: until refused. */
  readonly expiresAt: number | undefined;
}

const timeout = 60_000;
const largestOutput = 1 << 20;

function findProgram(command: string, kubeconfigPath: string): string {
  const executable = (path: string) => {
    try {
      accessSync(path, constants.X_OK);
      return statSync(path).isFile();
    } catch {
      return false;
    }
  };
  // As kubectl does: a path is relative to the kubeconfig's directory, a bare name is looked up in PATH.
  if (command.includes('/') || command.includes('\\')) {
    const path = isAbsolute(command) ? command : resolve(dirname(kubeconfigPath), command);
    return executable(path) ? path : '';
  }
  const endings = process.platform === 'win32' ? ['.exe', '.cmd', '.bat', ''] : [''];
  for (const directory of (process.env.PATH ?? '').split(delimiter)) {
    for (const ending of endings) {
      const path = join(directory, command + ending);
      if (isAbsolute(path) && executable(path)) return path;
    }
  }
  return '';
}

/** Describes the program without running it. A change of its path, arguments, environment or API version is another hash. */
export function describeExec(exec: ExecEntry, kubeconfigPath: string): ExecDescription {
  const resolved = findProgram(exec.command, kubeconfigPath);
  const exact = JSON.stringify([
    exec.command,
    resolved,
    exec.args,
    exec.env.map(({ name, value }) => [name, value]),
    exec.apiVersion,
  ]);
  return {
    command: exec.command,
    resolved,
    args: exec.args,
    env: exec.env.map(({ name, value }) => `${name}=${value}`),
    hash: createHash('sha256').update(exact).digest('hex'),
  };
}

function loginFailed(exec: ExecEntry, why: string, details = ''): Failure {
  return {
    code: 'cluster.login-failed',
    what: `The login program “${exec.command}” did not give credentials.`,
    why,
    fix: exec.installHint || 'Run it in a terminal to see what it needs (e.g. to log in again), then connect again.',
    ...(details ? { details: details.slice(0, 4000) } : {}),
  };
}

/** Runs the program as kubectl would, without a terminal. The caller has made sure that the user allowed it. */
export function runExec(
  exec: ExecEntry,
  kubeconfigPath: string,
  cluster: ClusterEntry,
  signal: AbortSignal,
): Promise<Result<ExecCredential>> {
  const { resolved } = describeExec(exec, kubeconfigPath);
  if (!resolved) return Promise.resolve(failed(loginFailed(exec, 'The program is not installed, or is not in PATH.')));
  if (exec.interactive)
    return Promise.resolve(
      failed(loginFailed(exec, 'It wants a terminal (interactiveMode: Always), which Fairlead does not give it.')),
    );
  const info: Record<string, unknown> = { interactive: false };
  if (exec.provideClusterInfo) {
    const authority = cluster.certificateAuthority;
    info.cluster = {
      server: cluster.server,
      'tls-server-name': cluster.tlsServerName,
      'insecure-skip-tls-verify': cluster.insecure || undefined,
      'certificate-authority-data': authority && 'data' in authority ? authority.data.toString('base64') : undefined,
      'proxy-url': cluster.proxyUrl,
    };
  }
  const environment: NodeJS.ProcessEnv = {
    ...process.env,
    ...Object.fromEntries(exec.env.map(({ name, value }) => [name, value])),
    KUBERNETES_EXEC_INFO: JSON.stringify({ apiVersion: exec.apiVersion, kind: 'ExecCredential', spec: info }),
  };
  return new Promise((settle) => {
    const child = spawn(resolved, [...exec.args], {
      env: environment,
      stdio: ['ignore', 'pipe', 'pipe'],
      signal,
      timeout,
      killSignal: 'SIGKILL',
    });
    let output = '';
    let errors = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      if (output.length > largestOutput) child.kill('SIGKILL');
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      if (errors.length < 16_384) errors += text;
    });
    child.on('error', (error) => settle(failed(loginFailed(exec, error.message))));
    child.on('close', (code, ended) => {
      if (code !== 0) {
        const why = ended
          ? `It was ended by ${ended} (it may take ${timeout / 1000} s).`
          : `It ended with exit code ${code}.`;
        return settle(
          failed(loginFailed(exec, errors.trim() ? `${why} It said: ${errors.trim().slice(0, 500)}` : why, errors)),
        );
      }
      settle(readCredential(exec, output));
    });
  });
}

function readCredential(exec: ExecEntry, output: string): Result<ExecCredential> {
  let status:
    | {
        readonly token?: unknown;
        readonly clientCertificateData?: unknown;
        readonly clientKeyData?: unknown;
        readonly expirationTimestamp?: unknown;
      }
    | undefined;
  try {
    status = (JSON.parse(output) as { readonly status?: typeof status }).status;
  } catch {
    return failed(loginFailed(exec, 'What it printed is not JSON.'));
  }
  const pem = (value: unknown) => (typeof value === 'string' && value ? Buffer.from(value) : undefined);
  const token = typeof status?.token === 'string' && status.token ? status.token : undefined;
  const certificate = pem(status?.clientCertificateData);
  const key = pem(status?.clientKeyData);
  if (token === undefined && (certificate === undefined || key === undefined)) {
    return failed(loginFailed(exec, 'What it printed has neither a token nor a certificate with its key.'));
  }
  const expires = typeof status?.expirationTimestamp === 'string' ? Date.parse(status.expirationTimestamp) : Number.NaN;
  return ok({ token, certificate, key, expiresAt: Number.isNaN(expires) ? undefined : expires });
}
