import type { Duplex } from 'node:stream';
import type { Result } from '../../../contract/failure.ts';

/** Asked when a host's key is in no known_hosts file; a changed or revoked key never gets this far. */
export interface HostKeyQuestion {
  readonly host: string;
  readonly algorithm: string;
  /** "SHA256:…" as ssh prints it. */
  readonly fingerprint: string;
}

export interface SshShell {
  readonly stream: Duplex;
  readonly resize: (columns: number, rows: number) => void;
  readonly exit: Promise<{ readonly code: number | null; readonly signal: string | null }>;
  readonly close: () => void;
}

export interface SshCommandResult {
  readonly code: number | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** An authenticated connection to one machine, through as many hops as its configuration names. */
export interface SshSession {
  readonly host: string;
  readonly run: (
    command: string,
    options?: { readonly input?: NodeJS.ReadableStream; readonly signal?: AbortSignal },
  ) => Promise<Result<SshCommandResult>>;
  readonly shell: (columns: number, rows: number) => Promise<Result<SshShell>>;
  /** Copies a local file to the machine. */
  readonly upload: (
    localPath: string,
    remotePath: string,
    progress?: (bytes: number, total: number) => void,
  ) => Promise<Result<void>>;
  readonly streamTo: (host: string, port: number) => Promise<Result<Duplex>>;
  readonly close: () => void;
}

export interface SshConnector {
  /** Host aliases of the user's configuration. */
  readonly hosts: () => Promise<Result<readonly string[]>>;
  /** The alias by which a Kubernetes node can be reached: its name, or an alias whose HostName is its address. */
  readonly aliasFor: (node: { readonly name: string; readonly address: string }) => Promise<string | undefined>;
  readonly connect: (
    alias: string,
    options?: { readonly askHostKey?: (question: HostKeyQuestion) => Promise<boolean>; readonly signal?: AbortSignal },
  ) => Promise<Result<SshSession>>;
}
