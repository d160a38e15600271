import { isMap, isScalar, isSeq, LineCounter, type Node, parseDocument } from 'yaml';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import { proxySchemes } from './proxy.ts';

/** Something that lies in the file itself (base64) or in another file. */
export type Material = { readonly data: Buffer } | { readonly file: string };

export interface ClusterEntry {
  readonly name: string;
  readonly server: string;
  readonly certificateAuthority: Material | undefined;
  readonly insecure: boolean;
  readonly tlsServerName: string | undefined;
  readonly proxyUrl: string | undefined;
}

/** A program that logs in. It runs only after the user has allowed exactly this one. */
export interface ExecEntry {
  readonly apiVersion: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly env: readonly { readonly name: string; readonly value: string }[];
  readonly installHint: string;
  readonly provideClusterInfo: boolean;
  readonly interactive: boolean;
}

export interface UserEntry {
  readonly name: string;
  readonly certificate: Material | undefined;
  readonly key: Material | undefined;
  readonly token: string | undefined;
  readonly tokenFile: string | undefined;
  readonly basic: { readonly username: string; readonly password: string } | undefined;
  readonly exec: ExecEntry | undefined;
  /** Name of a legacy auth provider ("oidc", "gcp", …) with its settings. */
  readonly authProvider: { readonly name: string; readonly config: Readonly<Record<string, string>> } | undefined;
  readonly impersonate: { readonly user: string; readonly groups: readonly string[] } | undefined;
}

export interface ContextEntry {
  readonly name: string;
  readonly cluster: string;
  readonly user: string;
  readonly namespace: string;
}

/** One parsed file. Paths in it are as written: relative ones are relative to the file's directory. */
export interface Kubeconfig {
  readonly path: string;
  readonly currentContext: string;
  readonly contexts: readonly ContextEntry[];
  readonly clusters: ReadonlyMap<string, ClusterEntry>;
  readonly users: ReadonlyMap<string, UserEntry>;
}

/** A context with what it refers to. */
export interface ResolvedContext {
  readonly name: string;
  readonly path: string;
  readonly cluster: ClusterEntry;
  readonly user: UserEntry;
}

const record = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Readonly<Record<string, unknown>>)
    : {};
const list = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);
const text = (value: unknown): string | undefined =>
  typeof value === 'string' && value !== '' ? value : typeof value === 'number' ? String(value) : undefined;

function material(data: unknown, file: unknown): Material | undefined {
  const inline = text(data);
  if (inline !== undefined) return { data: Buffer.from(inline, 'base64') };
  const path = text(file);
  return path === undefined ? undefined : { file: path };
}

function execEntry(value: unknown): ExecEntry | undefined {
  const exec = record(value);
  const command = text(exec.command);
  if (command === undefined) return undefined;
  return {
    apiVersion: text(exec.apiVersion) ?? 'client.authentication.k8s.io/v1',
    command,
    args: list(exec.args).map(String),
    env: list(exec.env).map((entry) => ({
      name: String(record(entry).name ?? ''),
      value: String(record(entry).value ?? ''),
    })),
    installHint: text(exec.installHint) ?? '',
    provideClusterInfo: exec.provideClusterInfo === true,
    interactive: exec.interactiveMode === 'Always',
  };
}

function userEntry(name: string, value: unknown): UserEntry {
  const user = record(value);
  const provider = record(user['auth-provider']);
  const providerName = text(provider.name);
  const username = text(user.username);
  const as = text(user.as);
  return {
    name,
    certificate: material(user['client-certificate-data'], user['client-certificate']),
    key: material(user['client-key-data'], user['client-key']),
    token: text(user.token),
    tokenFile: text(user.tokenFile),
    basic: username === undefined ? undefined : { username, password: text(user.password) ?? '' },
    exec: execEntry(user.exec),
    authProvider:
      providerName === undefined
        ? undefined
        : {
            name: providerName,
            config: Object.fromEntries(
              Object.entries(record(provider.config)).map(([key, entry]) => [key, String(entry)]),
            ),
          },
    impersonate: as === undefined ? undefined : { user: as, groups: list(user['as-groups']).map(String) },
  };
}

/** "line 3, column 5 of config" for a place in the text. */
function place(lines: LineCounter, offset: number | undefined, path: string): string {
  const name = path.slice(path.lastIndexOf('/') + 1);
  if (offset === undefined) return name;
  const { line, col } = lines.linePos(offset);
  return `line ${line}, column ${col} of ${name}`;
}

/** Reads a kubeconfig's text. What is wrong is told with its line and column; values of secrets never appear in it. */
export function parseKubeconfig(source: string, path: string): Result<Kubeconfig> {
  const lines = new LineCounter();
  // Merge keys (<<) as kubectl's own reader takes them.
  const document = parseDocument(source, { lineCounter: lines, logLevel: 'silent', prettyErrors: false, merge: true });
  const malformed = (why: string, offset?: number): Result<Kubeconfig> =>
    failed({
      code: 'kubeconfig.malformed',
      what: `The kubeconfig ${path} cannot be read.`,
      why: `${place(lines, offset, path)}: ${why}`,
      fix: 'Correct the file, or compare it with the output of kubectl config view.',
    });
  const error = document.errors[0];
  if (error) return malformed(error.message, error.pos[0]);
  const root = document.contents;
  if (root === null) return malformed('the file is empty.');
  if (!isMap(root))
    return malformed('it must be a mapping with apiVersion, kind, clusters, contexts and users.', root.range?.[0]);
  const at = (node: unknown) => (node as Node | undefined)?.range?.[0];
  const kind = document.get('kind');
  if (kind !== undefined && kind !== 'Config')
    return malformed(`kind is “${String(kind)}”, not “Config”.`, at(document.get('kind', true)));
  for (const key of ['clusters', 'contexts', 'users']) {
    const node = document.get(key, true);
    if (node === undefined || (isScalar(node) && node.value === null)) continue;
    if (!isSeq(node)) return malformed(`“${key}” must be a list.`, at(node));
    for (const item of node.items) {
      if (!isMap(item) || typeof item.get('name') !== 'string')
        return malformed(`each entry of “${key}” needs a name.`, at(item));
    }
  }

  let data: Readonly<Record<string, unknown>>;
  try {
    // Limits the work that aliases can cause ("billion laughs").
    data = record(document.toJS({ maxAliasCount: 100 }));
  } catch (thrown) {
    return malformed(thrown instanceof Error ? thrown.message : String(thrown));
  }
  const clusters = new Map<string, ClusterEntry>();
  for (const [index, entry] of list(data.clusters).entries()) {
    const { name, cluster } = record(entry) as { readonly name: string; readonly cluster: unknown };
    const value = record(cluster);
    const server = text(value.server) ?? '';
    const node =
      document.getIn(['clusters', index, 'cluster', 'server'], true) ?? document.getIn(['clusters', index], true);
    if (!URL.canParse(server) || !/^https?:$/.test(new URL(server).protocol)) {
      return malformed(`the server of cluster “${name}” must be a URL such as https://host:6443.`, at(node));
    }
    const proxy = text(value['proxy-url']);
    if (proxy !== undefined && (!URL.canParse(proxy) || !proxySchemes.has(new URL(proxy).protocol))) {
      return malformed(
        `the proxy-url of cluster “${name}” must be a URL such as http://proxy:3128 or socks5://proxy:1080.`,
        at(node),
      );
    }
    if (!clusters.has(name)) {
      clusters.set(name, {
        name,
        server,
        certificateAuthority: material(value['certificate-authority-data'], value['certificate-authority']),
        insecure: value['insecure-skip-tls-verify'] === true,
        tlsServerName: text(value['tls-server-name']),
        proxyUrl: text(value['proxy-url']),
      });
    }
  }
  const users = new Map<string, UserEntry>();
  for (const entry of list(data.users)) {
    const { name, user } = record(entry) as { readonly name: string; readonly user: unknown };
    if (!users.has(name)) users.set(name, userEntry(name, user));
  }
  const contexts = new Map<string, ContextEntry>();
  for (const entry of list(data.contexts)) {
    const { name, context } = record(entry) as { readonly name: string; readonly context: unknown };
    const value = record(context);
    if (!contexts.has(name)) {
      contexts.set(name, {
        name,
        cluster: text(value.cluster) ?? '',
        user: text(value.user) ?? '',
        namespace: text(value.namespace) ?? '',
      });
    }
  }
  return ok({
    path,
    currentContext: text(data['current-context']) ?? '',
    contexts: [...contexts.values()],
    clusters,
    users,
  });
}

const nobody: UserEntry = {
  name: '',
  certificate: undefined,
  key: undefined,
  token: undefined,
  tokenFile: undefined,
  basic: undefined,
  exec: undefined,
  authProvider: undefined,
  impersonate: undefined,
};

/** Finds what a context refers to, in its own file first and then in the others (KUBECONFIG merges its files). */
export function resolveContext(
  context: ContextEntry,
  own: Kubeconfig,
  others: readonly Kubeconfig[],
): Result<ResolvedContext> {
  const files = [own, ...others.filter((file) => file !== own)];
  const dangling = (kind: 'cluster' | 'user', name: string, known: readonly string[]): Failure => ({
    code: `kubeconfig.unknown-${kind}`,
    what: `The context “${context.name}” cannot be used.`,
    why: name
      ? `It names the ${kind} “${name}”, which the kubeconfig does not have.${known.length > 0 ? ` It has: ${known.join(', ')}.` : ''}`
      : `It names no ${kind}.`,
    fix: `Correct it with: kubectl config set-context '${context.name}' --${kind}=NAME`,
  });
  const cluster = files.map((file) => file.clusters.get(context.cluster)).find((entry) => entry !== undefined);
  if (!cluster)
    return failed(
      dangling(
        'cluster',
        context.cluster,
        files.flatMap((file) => [...file.clusters.keys()]),
      ),
    );
  if (context.user === '') return ok({ name: context.name, path: own.path, cluster, user: nobody });
  const user = files.map((file) => file.users.get(context.user)).find((entry) => entry !== undefined);
  if (!user)
    return failed(
      dangling(
        'user',
        context.user,
        files.flatMap((file) => [...file.users.keys()]),
      ),
    );
  return ok({ name: context.name, path: own.path, cluster, user });
}
