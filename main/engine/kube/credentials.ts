import { X509Certificate } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { dirname, isAbsolute, resolve } from 'node:path';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import { keptSecret, type SecretStore } from '../secrets.ts';
import { describeExec, type ExecCredential, runExec } from './exec-plugin.ts';
import type { Material, ResolvedContext } from './kubeconfig.ts';
import { createOidcLogin, type OidcLogin, type OidcSettings, readOidcSettings, type ShowLogin } from './oidc.ts';
import type { RequestHeaders, TlsSettings } from './transport.ts';

/** Who a cluster's requests are made as. */
export interface Credentials {
  readonly tls: TlsSettings;
  /** Headers for the next request; runs the login program when its answer has expired. */
  readonly headers: () => Promise<Result<RequestHeaders>>;
  /** Forgets what the login program said; the next request runs it again. */
  readonly invalidate: () => void;
}

export interface CredentialOptions {
  /** Whether the login program with this hash may run; `denied`: no program may, and nobody can allow one. */
  readonly allowed: (hash: string) => boolean | 'denied';
  readonly signal: AbortSignal;
  /** Shows a login page to the person at the console; without it nobody is asked. */
  readonly showLogin?: ShowLogin;
  /** The operating system's store, where there is one. */
  readonly secrets?: SecretStore;
  readonly now?: () => number;
}

/** Certificates, keys and tokens are small. */
const largestMaterial = 4 << 20;

async function load(
  material: Material | undefined,
  context: ResolvedContext,
  what: string,
): Promise<Result<Buffer | undefined>> {
  if (material === undefined) return ok(undefined);
  if ('data' in material) return ok(material.data);
  const path = isAbsolute(material.file) ? material.file : resolve(dirname(context.path), material.file);
  try {
    // A kubeconfig may name anything: a pipe that never ends, or a device that has none.
    const stats = await stat(path);
    if (!stats.isFile() || stats.size > largestMaterial) throw new Error('it is no file of a reasonable size');
    return ok(await readFile(path));
  } catch (error) {
    return failed({
      code: 'kubeconfig.missing-file',
      what: `The context “${context.name}” cannot be used.`,
      why: `Its ${what} ${path} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
      fix: 'Restore the file, or correct the path in the kubeconfig.',
    });
  }
}

/** Tells of a client certificate that is of no use, before anything is sent. */
export function checkClientCertificate(pem: Buffer, context: string, now: number): Failure | undefined {
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(pem);
  } catch (error) {
    return {
      code: 'kubeconfig.bad-certificate',
      what: `The context “${context}” cannot be used.`,
      why: `Its client certificate cannot be read: ${error instanceof Error ? error.message : String(error)}`,
      fix: 'Get a fresh kubeconfig from whoever runs the cluster.',
    };
  }
  const until = Date.parse(certificate.validTo);
  const from = Date.parse(certificate.validFrom);
  if (until < now) {
    return {
      code: 'cluster.certificate-expired',
      what: `The login of “${context}” has expired.`,
      why: `The client certificate in the kubeconfig (${certificate.subject.replaceAll('\n', ', ')}) was valid until ${new Date(until).toISOString().slice(0, 16).replace('T', ' ')} UTC.`,
      fix: 'Get a fresh kubeconfig from whoever runs the cluster, e.g. made with: kubeadm kubeconfig user',
    };
  }
  if (from > now + 300_000) {
    return {
      code: 'cluster.certificate-not-yet-valid',
      what: `The login of “${context}” is not valid yet.`,
      why: `The client certificate is valid from ${new Date(from).toISOString().slice(0, 16).replace('T', ' ')} UTC, and this machine’s clock says ${new Date(now).toISOString().slice(0, 16).replace('T', ' ')}.`,
      fix: 'Correct this machine’s clock.',
    };
  }
  return undefined;
}

/** What is said where login programs are switched off altogether. */
export function programsDenied(context: string): Failure {
  return {
    code: 'cluster.login-programs-denied',
    what: `“${context}” logs in with a program, and no login program may run here.`,
    why: 'Fairlead was started with --deny-login-programs, or FAIRLEAD_LOGIN_PROGRAMS=deny is set on this machine.',
    fix: 'Use a kubeconfig with a client certificate, a token or OIDC, or ask whoever manages this machine.',
  };
}

/** Prepares a context's credentials. A login program runs here, and only if the user has allowed it. */
export async function loadCredentials(
  context: ResolvedContext,
  options: CredentialOptions,
): Promise<Result<Credentials>> {
  const { user, cluster } = context;
  const now = options.now ?? Date.now;
  const ca = await load(cluster.certificateAuthority, context, 'certificate authority');
  if (!ca.ok) return ca;
  const certificate = await load(user.certificate, context, 'client certificate');
  if (!certificate.ok) return certificate;
  const key = await load(user.key, context, 'client key');
  if (!key.ok) return key;

  let said: ExecCredential | undefined;
  const login = async (): Promise<Result<ExecCredential | undefined>> => {
    if (!user.exec) return ok(undefined);
    if (said && (said.expiresAt === undefined || said.expiresAt > now() + 10_000)) return ok(said);
    const description = describeExec(user.exec, context.path);
    const allowed = options.allowed(description.hash);
    if (allowed === 'denied') return failed(programsDenied(context.name));
    if (!allowed) {
      return failed({
        code: 'cluster.login-not-allowed',
        what: `“${context.name}” logs in with a program on this machine that you have not allowed yet.`,
        why: `The kubeconfig wants to run: ${[description.resolved || description.command, ...description.args].join(' ')}`,
        fix: 'Look at the program; if you trust it, allow it. A changed program, argument or environment is asked for again.',
      });
    }
    const answer = await runExec(user.exec, context.path, cluster, options.signal);
    if (answer.ok) said = answer.value;
    return answer;
  };
  const first = await login();
  if (!first.ok) return first;

  const tls: TlsSettings = {
    ca: ca.value,
    cert: first.value?.certificate ?? certificate.value,
    key: first.value?.key ?? key.value,
    servername: cluster.tlsServerName,
    insecure: cluster.insecure,
  };
  if (tls.cert) {
    const problem = checkClientCertificate(tls.cert, context.name, now());
    if (problem) return failed(problem);
  }
  if (cluster.server.startsWith('http:') && (user.token || user.tokenFile || user.basic || user.exec)) {
    return failed({
      code: 'kubeconfig.plain-http',
      what: `The context “${context.name}” cannot be used.`,
      why: 'Its server is http://, so its token or password would cross the network in the clear.',
      fix: 'Use the https:// address of the API server.',
    });
  }

  const provider = await providerLogin(context, options);
  if (!provider.ok) return provider;
  // Connecting is what a person asked for, so a person may be asked now; a request later must not open windows.
  const entered = await provider.value?.token(true);
  if (entered && !entered.ok) return entered;

  return ok({
    tls,
    invalidate: () => {
      said = undefined;
      provider.value?.invalidate();
    },
    async headers() {
      const headers: Record<string, string | readonly string[]> = {};
      if (user.basic)
        headers.authorization = `Basic ${Buffer.from(`${user.basic.username}:${user.basic.password}`).toString('base64')}`;
      if (user.tokenFile) {
        // Read each time: projected tokens are renewed in place.
        const token = await load({ file: user.tokenFile }, context, 'token file');
        if (!token.ok) return token;
        if (token.value) headers.authorization = `Bearer ${token.value.toString('utf8').trim()}`;
      }
      if (user.token) headers.authorization = `Bearer ${user.token}`;
      const token = await provider.value?.token(false);
      if (token && !token.ok) return token;
      if (token) headers.authorization = `Bearer ${token.value}`;
      const credential = await login();
      if (!credential.ok) return credential;
      if (credential.value?.token) headers.authorization = `Bearer ${credential.value.token}`;
      if (user.impersonate) {
        headers['impersonate-user'] = user.impersonate.user;
        if (user.impersonate.groups.length > 0) headers['impersonate-group'] = user.impersonate.groups;
      }
      return ok(headers);
    },
  });
}

/** The OIDC login of a context; other auth providers were removed from Kubernetes itself. */
async function providerLogin(
  context: ResolvedContext,
  options: CredentialOptions,
): Promise<Result<OidcLogin | undefined>> {
  const provider = context.user.authProvider;
  if (!provider) return ok(undefined);
  if (provider.name !== 'oidc') {
    return failed({
      code: 'kubeconfig.auth-provider-removed',
      what: `The context “${context.name}” cannot be used.`,
      why: `It logs in with the auth provider “${provider.name}”, which Kubernetes removed in 1.26.`,
      fix: 'Get a kubeconfig that uses the cloud’s login program (exec) instead, e.g. gke-gcloud-auth-plugin or kubelogin.',
    });
  }
  const file = provider.config['idp-certificate-authority'];
  const authority = await load(file ? { file } : undefined, context, 'authority of the OIDC issuer');
  if (!authority.ok) return authority;
  const settings = readOidcSettings(provider.config, authority.value);
  if (!settings.ok) return settings;
  const nobody: ShowLogin = () => ({ signal: AbortSignal.abort(), [Symbol.dispose]() {} });
  return ok(
    createOidcLogin(
      settings.value,
      context.name,
      options.showLogin ?? nobody,
      options.signal,
      options.now ?? Date.now,
      keptSecret(options.secrets, loginName(context, settings.value)),
    ),
  );
}

/** What a kept login is good for: this client of this issuer, and this user of this file. */
function loginName({ path, user }: ResolvedContext, { issuer, clientId, scopes }: OidcSettings): readonly unknown[] {
  return [issuer, clientId, scopes, path, user.name];
}

/** Forgets what was kept of a context's login. */
export function forgetLogin(context: ResolvedContext, secrets: SecretStore | undefined): void {
  const { authProvider } = context.user;
  const settings = authProvider?.name === 'oidc' ? readOidcSettings(authProvider.config) : undefined;
  if (settings?.ok) keptSecret(secrets, loginName(context, settings.value)).save(undefined);
}
