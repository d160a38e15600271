import type { Duplex } from 'node:stream';
import type { Result } from '../../../contract/failure.ts';

/** Asked when a host's key is in no known_hosts file; a changed or revoked key never gets this far. */
export interface HostKeyQuestion {
  readonly host: string;
  readonly algorithm: string;
  /** "SHA256:…" as ssh prints it. */
  readonly fingerprint: string;
}

/** Texts that a login needs from the person at the console: a passphrase, a password, a code. */
export interface SecretQuestion {
  /** user@host:port that asks. */
  readonly about: string;
  readonly title: string;
  readonly instructions: string;
  readonly prompts: readonly { readonly label: string; readonly hidden: boolean }[];
}

export interface ConnectOptions {
  readonly askHostKey?: (question: HostKeyQuestion) => Promise<boolean>;
  readonly askSecrets?: (question: SecretQuestion) => Promise<readonly string[] | undefined>;
  readonly signal?: AbortSignal;
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
  /** Every hop, nearest first, the host itself last. */
  readonly route: readonly string[];
  /** Aborted when any hop's connection has ended. */
  readonly closed: AbortSignal;
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
  readonly connect: (alias: string, options?: ConnectOptions) => Promise<Result<SshSession>>;
  /**
   * The same configuration, seen from behind a host: what it does not name is reached through that host, by its address.
   * For the machines of a cluster of which only one is known.
   */
  readonly behind: (host: string) => SshConnector;
}
