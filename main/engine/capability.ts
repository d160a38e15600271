import type { Result } from '../../contract/failure.ts';
import type { ClusterConnection } from './kube/cluster-connection.ts';
import type { SshConnector } from './ssh/ssh-connector.ts';

/** Finds connected clusters by their opaque id. Owned by clusters/; every other capability asks here. */
export interface Connections {
  /** The live connection, or why there is none (not connected, unknown, offline). Connects lazily when it is idle. */
  readonly get: (cluster: string) => Promise<Result<ClusterConnection>>;
  /** A failure when the cluster is protected: called before every write. */
  readonly writable: (cluster: string) => Result<void>;
  /** SSH to the machines of this cluster, as far as the user's configuration names them. */
  readonly ssh: (cluster: string) => SshConnector;
  /** True for recordings: nothing live behind it. */
  readonly isRecording: (cluster: string) => boolean;
}

/** Keeps one line per write that the console made. */
export interface AuditLog {
  readonly record: (entry: {
    readonly cluster: string;
    readonly action: string;
    readonly subject: string;
    readonly result: string;
    /** The object before and after, as YAML, where the write has one; never a Secret's. */
    readonly before?: string;
    readonly after?: string;
  }) => void;
}
