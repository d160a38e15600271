import { ConnectError } from '@connectrpc/connect';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import { relayServerName } from '../install/certificates.ts';
import { agentNamespace, clientSecret, relayName, relayPort, relaySelector } from '../install/names.ts';
import { readPair } from '../install/secrets.ts';
import { type ClusterConnection, type KubeObject, resources } from '../kube/cluster-connection.ts';
import { createAgentClient } from './agent-client.ts';
import { NodeState } from './gen/relay/relay_pb.ts';

/** What the relay says of itself and of the nodes that it asks. */
export interface RelayAnswer {
  readonly version: string;
  readonly peers: readonly {
    readonly name: string;
    readonly address: string;
    readonly connected: boolean;
    readonly flows: bigint;
  }[];
}

interface Pod extends KubeObject {
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

function silent(why: string): Failure {
  return {
    code: 'relay.silent',
    what: 'The relay does not answer.',
    why,
    fix: `Look at kubectl -n ${agentNamespace} describe deployment ${relayName} and at the log of its pod.`,
  };
}

/** Asks the relay who it is and whom it reaches, as the hubble command does, through the API server's port-forward. */
export async function askRelay(connection: ClusterConnection, signal: AbortSignal): Promise<Result<RelayAnswer>> {
  const secret = await connection.get<KubeObject>(resources.secrets, clientSecret, agentNamespace);
  if (!secret.ok) return secret;
  const pods = await connection.list<Pod>(resources.pods, { namespace: agentNamespace, labelSelector: relaySelector });
  if (!pods.ok) return pods;
  const pod = pods.value.find(
    ({ metadata, status }) =>
      !metadata.deletionTimestamp && status?.conditions?.some((one) => one.type === 'Ready' && one.status === 'True'),
  );
  if (!pod) return failed(silent('No pod of it is Ready.'));
  const opened = await connection.portForward(agentNamespace, pod.metadata.name, relayPort);
  if (!opened.ok) return opened;
  const { certificate, key, authority } = readPair(secret.value);
  using client = createAgentClient(() => opened.value, {
    ca: authority,
    cert: certificate,
    key,
    serverName: relayServerName,
  });
  try {
    const [status, { nodes }] = await Promise.all([
      client.observer.serverStatus({}, { signal }),
      client.observer.getNodes({}, { signal }),
    ]);
    return ok({
      version: status.version,
      peers: nodes.map(({ name, address, state, seenFlows }) => ({
        name,
        address,
        connected: state === NodeState.NODE_CONNECTED,
        flows: seenFlows,
      })),
    });
  } catch (error) {
    return failed(silent(ConnectError.from(error).rawMessage));
  } finally {
    opened.value.destroy();
  }
}
