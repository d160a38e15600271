import 'reflect-metadata';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import * as x509 from '@peculiar/x509';
import { agentNamespace, relayName } from './names.ts';

/** A certificate with its private key, both PEM. */
export interface KeyPair {
  readonly certificate: string;
  readonly key: string;
}

/** What the agents and the console need to know each other. */
export interface Certificates {
  readonly authority: KeyPair;
  /** Every agent's, as server and as client of other agents. */
  readonly server: KeyPair;
  /** Client side: the console, the stock hubble CLI. */
  readonly client: KeyPair;
  /** The relay's: it serves under its own name and is a client of the agents, without being taken for one of them. */
  readonly relay: KeyPair | undefined;
}

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const day = 24 * 60 * 60 * 1000;
const authorityDays = 3650;
const leafDays = 1095;
/** Clocks of nodes may be behind the console's. */
const backdate = 60 * 60 * 1000;

/** DNS names of the agents' server certificate, as Cilium's hubble has them. */
export function serverNames(clusterName: string): readonly string[] {
  return [`*.${clusterName}.hubble-grpc.cilium.io`];
}

/** Names of the relay's certificate: as Hubble's own tools ask for, and those of its service. */
export const relayNames: readonly string[] = [
  '*.hubble-relay.cilium.io',
  `${relayName}.${agentNamespace}.svc`,
  `${relayName}.${agentNamespace}.svc.cluster.local`,
];

/** Name that the console asks the relay for. */
export const relayServerName = 'console.hubble-relay.cilium.io';

/** Name that the console asks an agent for; covered by the wildcard of `serverNames`. */
export function serverNameOf(node: string, clusterName: string): string {
  return `${node.replaceAll('.', '-')}.${clusterName}.hubble-grpc.cilium.io`;
}

async function privateKeyPEM(key: CryptoKey): Promise<string> {
  const der = Buffer.from(await crypto.subtle.exportKey('pkcs8', key));
  return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
    .export({ format: 'pem', type: 'pkcs8' })
    .toString();
}

function serial(): string {
  // A leading 0 bit keeps the number positive (RFC 5280 4.1.2.2).
  const bytes = Buffer.from(crypto.getRandomValues(new Uint8Array(16)));
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toString('hex');
}

/** Makes an authority of its own for one cluster; ECDSA P-256, ten years. */
export async function createAuthority(now = Date.now()): Promise<KeyPair> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serial(),
    name: 'CN=Fairlead CA',
    notBefore: new Date(now - backdate),
    notAfter: new Date(now + authorityDays * day),
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate: certificate.toString('pem'), key: await privateKeyPEM(keys.privateKey) };
}

/** Issues a certificate for agents, which serve and call each other, or for a client; three years. */
export async function issue(
  authority: KeyPair,
  leaf: { readonly commonName: string; readonly names: readonly string[]; readonly usage: 'agent' | 'client' },
  now = Date.now(),
): Promise<KeyPair> {
  const issuer = new x509.X509Certificate(authority.certificate);
  const pkcs8 = createPrivateKey(authority.key).export({ format: 'der', type: 'pkcs8' });
  const signingKey = await crypto.subtle.importKey('pkcs8', new Uint8Array(pkcs8), algorithm, false, ['sign']);
  const keys = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serial(),
    subject: `CN=${leaf.commonName}`,
    issuer: issuer.subject,
    notBefore: new Date(now - backdate),
    notAfter: new Date(Math.min(now + leafDays * day, issuer.notAfter.getTime())),
    publicKey: keys.publicKey,
    signingKey,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension(
        leaf.usage === 'agent'
          ? [x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]
          : [x509.ExtendedKeyUsage.clientAuth],
      ),
      ...(leaf.names.length > 0
        ? [new x509.SubjectAlternativeNameExtension(leaf.names.map((value) => ({ type: 'dns' as const, value })))]
        : []),
      await x509.AuthorityKeyIdentifierExtension.create(issuer),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate: certificate.toString('pem'), key: await privateKeyPEM(keys.privateKey) };
}

/** A fresh set for one cluster, keeping the authority where there is a usable one. */
export async function createCertificates(
  clusterName: string,
  authority?: KeyPair,
  relay = false,
): Promise<Certificates> {
  const signer = authority ?? (await createAuthority());
  return {
    authority: signer,
    server: await issue(signer, {
      commonName: `agent.${clusterName}.hubble-grpc.cilium.io`,
      names: serverNames(clusterName),
      usage: 'agent',
    }),
    client: await issue(signer, { commonName: 'fairlead-console', names: [], usage: 'client' }),
    relay: relay ? await issue(signer, { commonName: 'fairlead-relay', names: relayNames, usage: 'agent' }) : undefined,
  };
}

/** Why a stored pair cannot be used on; undefined when it can (at least 30 days to go, key and certificate belong together). */
export function pairProblem(
  pair: { readonly certificate: string; readonly key: string; readonly authority: string },
  names: readonly string[],
  now = Date.now(),
): string | undefined {
  try {
    const certificate = new X509Certificate(pair.certificate);
    if (certificate.validToDate.getTime() < now + 30 * day) return `it expires on ${certificate.validTo}`;
    if (!certificate.verify(new X509Certificate(pair.authority).publicKey)) return 'its authority did not sign it';
    if (!certificate.checkPrivateKey(createPrivateKey(pair.key))) return 'its key is not its own';
    const missing = names.filter((name) => !(certificate.subjectAltName ?? '').includes(`DNS:${name}`));
    return missing.length > 0 ? `it does not name ${missing.join(', ')}` : undefined;
  } catch (error) {
    return `it cannot be read (${error instanceof Error ? error.message : String(error)})`;
  }
}
