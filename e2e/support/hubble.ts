import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { kubectl, must, on, root } from '../../lab/client.ts';

/** Builds the stock hubble command line where it is not yet; its path. The first build takes minutes. */
export async function buildHubble(): Promise<string> {
  const printed = await must(process.execPath, [join(root, 'scripts/build-hubble.mjs')], { seconds: 880 });
  return printed.trim().split('\n').at(-1) ?? '';
}

/** The files of the client's certificate, in a directory that goes with it. */
export class ClientCertificate implements Disposable {
  readonly #directory: string;
  private constructor(directory: string) {
    this.#directory = directory;
  }

  /** Out of the Secret that an installation makes for clients. */
  static async fromCluster(): Promise<ClientCertificate> {
    const secret = JSON.parse(
      await kubectl(['-n', 'kube-system', 'get', 'secret', 'fairlead-client-tls', '-o', 'json']),
    ) as { data: Record<string, string> };
    const directory = mkdtempSync(join(tmpdir(), 'fairlead-hubble-'));
    for (const name of ['ca.crt', 'tls.crt', 'tls.key'])
      writeFileSync(join(directory, name), Buffer.from(secret.data[name] ?? '', 'base64'), { mode: 0o600 });
    return new ClientCertificate(directory);
  }

  /** hubble's arguments for a server with TLS; with `certificate` off the client shows none of its own. */
  arguments(address: string, serverName: string, { certificate = true } = {}): readonly string[] {
    const file = (name: string) => join(this.#directory, name);
    return [
      '--server',
      address,
      '--tls',
      '--tls-server-name',
      serverName,
      '--tls-ca-cert-files',
      file('ca.crt'),
      ...(certificate ? ['--tls-client-cert-file', file('tls.crt'), '--tls-client-key-file', file('tls.key')] : []),
    ];
  }

  [Symbol.dispose](): void {
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** What a server without a client's certificate is told: the command's output, or why it failed. */
export function refusal(hubble: string, server: readonly string[]): Promise<string> {
  return on('node1', [hubble, 'status', ...server]).catch((error: Error) => error.message);
}
