import type { Result } from '../../../contract/failure.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import {
  type Certificates,
  createCertificates,
  type KeyPair,
  pairProblem,
  relayNames,
  serverNames,
} from './certificates.ts';
import type { ReadOnlyConnection } from './facts.ts';
import {
  agentNamespace,
  authoritySecret,
  clientSecret,
  clusterNameAnnotation,
  labels,
  relaySecret,
  serverSecret,
} from './names.ts';

interface Secret extends KubeObject {
  readonly type?: string;
  readonly data?: Readonly<Record<string, string>>;
}

/** Names of the secrets that there always are, and of the relay's. */
const secretNames = [authoritySecret, serverSecret, clientSecret, relaySecret] as const;

function decode(secret: Secret | undefined, key: string): string {
  return Buffer.from(secret?.data?.[key] ?? '', 'base64').toString('utf8');
}

/** Reads a TLS secret as certificate, key and authority, all PEM. */
export function readPair(secret: Secret): {
  readonly certificate: string;
  readonly key: string;
  readonly authority: string;
} {
  return {
    certificate: decode(secret, 'tls.crt'),
    key: decode(secret, 'tls.key'),
    authority: decode(secret, 'ca.crt'),
  };
}

/** The secrets as they are, and why they have to be made anew; undefined where they may stay. */
export interface SecretState {
  readonly live: ReadonlyMap<string, KubeObject>;
  readonly renew: string | undefined;
  readonly authority: KeyPair | undefined;
}

/** Looks whether the stored certificates can be used on for this cluster name. */
export async function readSecrets(
  connection: ReadOnlyConnection,
  clusterName: string,
  relay: boolean,
): Promise<Result<SecretState>> {
  const live = new Map<string, Secret>();
  for (const name of secretNames) {
    const found = await connection.get<Secret>(resources.secrets, name, agentNamespace);
    if (found.ok) live.set(name, found.value);
    else if (!isNotFound(found.failure.code)) return found;
  }
  const authority = live.get(authoritySecret);
  const pair = authority ? { certificate: decode(authority, 'tls.crt'), key: decode(authority, 'tls.key') } : undefined;
  const usable = pair && pairProblem({ ...pair, authority: pair.certificate }, []) === undefined ? pair : undefined;
  let renew: string | undefined = usable ? undefined : 'there is no authority yet';
  for (const [name, names] of [
    [serverSecret, serverNames(clusterName)],
    [clientSecret, []],
    ...(relay ? ([[relaySecret, relayNames]] as const) : []),
  ] as const) {
    const secret = live.get(name);
    renew ??= secret ? pairProblem(readPair(secret), names) : `${name} is missing`;
  }
  return { ok: true, value: { live, renew, authority: usable } };
}

/** Is this failure's code "there is no such object"? */
export function isNotFound(code: string): boolean {
  return /not-?found/i.test(code);
}

function secret(name: string, clusterName: string, data: Readonly<Record<string, string>>): KubeObject {
  const encoded = Object.fromEntries(
    Object.entries(data).map(([key, text]) => [key, Buffer.from(text, 'utf8').toString('base64')]),
  );
  return {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: {
      name,
      namespace: agentNamespace,
      labels,
      annotations: { [clusterNameAnnotation]: clusterName },
    },
    type: 'Opaque',
    data: encoded,
  } as KubeObject;
}

function asSecrets(certificates: Certificates, clusterName: string): readonly KubeObject[] {
  const { authority, server, client, relay } = certificates;
  const leaf = (pair: KeyPair) => ({
    'tls.crt': pair.certificate,
    'tls.key': pair.key,
    'ca.crt': authority.certificate,
  });
  return [
    secret(authoritySecret, clusterName, { 'tls.crt': authority.certificate, 'tls.key': authority.key }),
    secret(serverSecret, clusterName, leaf(server)),
    secret(clientSecret, clusterName, leaf(client)),
    ...(relay ? [secret(relaySecret, clusterName, leaf(relay))] : []),
  ];
}

/** Makes the secrets, keeping a usable authority. */
export async function makeSecrets(
  clusterName: string,
  authority: KeyPair | undefined,
  relay = false,
): Promise<readonly KubeObject[]> {
  return asSecrets(await createCertificates(clusterName, authority, relay), clusterName);
}

/** What a plan shows of secrets that will be made: their names and keys. */
export function secretPlaceholders(clusterName: string, relay = false): readonly KubeObject[] {
  const none = { certificate: '', key: '' };
  return asSecrets({ authority: none, server: none, client: none, relay: relay ? none : undefined }, clusterName);
}
