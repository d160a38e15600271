import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import { openExec, openPortForward } from './channels.ts';
import type {
  ApplyOptions,
  ClusterConnection,
  KubeObject,
  LiveCollection,
  ResourceType,
} from './cluster-connection.ts';
import type { Credentials } from './credentials.ts';
import { FailureError, failureOf, type Place, StatusError } from './failures.ts';
import { Collection, defaultTiming, lean, type Timing } from './live-collection.ts';
import { createTransport, type Request, type RequestHeaders, readBody, type TransportOptions } from './transport.ts';

export interface ConnectionOptions {
  readonly cluster: string;
  readonly contextName: string;
  readonly server: string;
  readonly credentials: Credentials;
  readonly proxyUrl?: string;
  readonly dial?: TransportOptions['dial'];
  readonly log: (text: string) => void;
  readonly timing?: Timing;
}

/** The connection as its owner sees it. */
export interface OwnedConnection extends ClusterConnection {
  /** One small request; the round trip in milliseconds. */
  readonly measure: () => Promise<Result<{ readonly milliseconds: number; readonly version: string }>>;
  /** Called whenever a change or a command is refused for want of a right; reading is not meant, nor asking what is allowed. */
  readonly onRefused: (listener: () => void) => void;
  /** Ends every request, watch, exec and port-forward. */
  readonly close: () => void;
  /** Collections being watched; for tests of leaks. */
  readonly watching: () => number;
}

const requestTimeout = 20_000;
const pageSize = 500;

/** Path of a collection or of one object in it. */
export function pathOf(type: ResourceType, namespace?: string, name?: string): string {
  const root = type.group === '' ? `/api/${type.version}` : `/apis/${type.group}/${type.version}`;
  const scope =
    namespace === undefined || namespace === '' || !type.namespaced
      ? ''
      : `/namespaces/${encodeURIComponent(namespace)}`;
  return `${root}${scope}/${type.plural}${name === undefined ? '' : `/${encodeURIComponent(name)}`}`;
}

function query(parameters: Readonly<Record<string, string | undefined>>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters))
    if (value !== undefined && value !== '') search.set(name, value);
  const text = search.toString();
  return text ? `?${text}` : '';
}

const subject = (type: ResourceType, namespace?: string, name?: string) =>
  `${type.kind}${name === undefined ? 's' : ` ${namespace ? `${namespace}/` : ''}${name}`}${name === undefined && namespace ? ` in ${namespace}` : ''}`;

/** Opens nothing by itself: the first request connects. */
export function createConnection(options: ConnectionOptions): OwnedConnection {
  const { credentials } = options;
  const abort = new AbortController();
  const signal = abort.signal;
  const transport = createTransport({
    server: options.server,
    tls: credentials.tls,
    ...(options.proxyUrl === undefined ? {} : { proxyUrl: options.proxyUrl }),
    ...(options.dial === undefined ? {} : { dial: options.dial }),
  });
  let refused: () => void = () => {};

  const headers = async (): Promise<RequestHeaders> => {
    const result = await credentials.headers();
    if (!result.ok) throw new FailureError(result.failure);
    return result.value;
  };
  const send = async (
    request: Omit<Request, 'headers' | 'signal' | 'timeout'> & {
      readonly type?: string;
      readonly signal?: AbortSignal;
      readonly timeout?: number;
    },
  ) => {
    const attempt = async () =>
      transport.request({
        method: request.method,
        path: request.path,
        headers: { ...(await headers()), ...(request.type === undefined ? {} : { 'content-type': request.type }) },
        ...(request.body === undefined ? {} : { body: request.body }),
        signal: request.signal ?? signal,
        timeout: request.timeout ?? requestTimeout,
      });
    try {
      return await attempt();
    } catch (error) {
      // A token that expired between two requests: log in once more, then let the answer stand.
      if (!(error instanceof StatusError) || error.status !== 401) throw error;
      credentials.invalidate();
      return attempt();
    }
  };
  const asFailure = (error: unknown, place: Partial<Place>): Failure => {
    return failureOf(error, { context: options.contextName, server: options.server, ...place });
  };
  /** Looks at the answer to what somebody wanted done. Reading is tried again by itself and may be refused for ever; that says nothing new. */
  const told = <T>(result: Result<T>): Result<T> => {
    if (!result.ok && result.failure.code === 'kube.forbidden') refused();
    return result;
  };
  const json = async <T>(request: Parameters<typeof send>[0], doing: string): Promise<Result<T>> => {
    try {
      return ok(JSON.parse(await readBody(await send(request))) as T);
    } catch (error) {
      // Who may not even ask what is allowed has not been refused an action.
      const asking = request.method === 'GET' || /^\/apis\/auth(entication|orization)\.k8s\.io\//.test(request.path);
      const result = failed(asFailure(error, { path: request.path, doing }));
      return asking ? result : told(result);
    }
  };

  const listPages = async (
    type: ResourceType,
    namespace: string | undefined,
    selectors: { readonly labelSelector?: string | undefined; readonly fieldSelector?: string | undefined },
    listSignal: AbortSignal,
  ) => {
    for (let restarts = 0; ; restarts++) {
      const items: KubeObject[] = [];
      let next: string | undefined;
      let resourceVersion = '';
      try {
        do {
          const path = `${pathOf(type, namespace)}${query({ ...selectors, limit: String(pageSize), continue: next })}`;
          const body = await readBody(await send({ method: 'GET', path, signal: listSignal }));
          const page = JSON.parse(body) as {
            readonly metadata: { readonly continue?: string; readonly resourceVersion?: string };
            readonly items: readonly KubeObject[] | null;
          };
          for (const item of page.items ?? []) items.push(lean(item));
          next = page.metadata.continue || undefined;
          resourceVersion = page.metadata.resourceVersion ?? '';
        } while (next !== undefined);
        return { items, resourceVersion };
      } catch (error) {
        // A continue token outlived by compaction: start over, but not for ever.
        if (!(error instanceof StatusError) || error.status !== 410 || restarts >= 2) throw error;
      }
    }
  };

  const shared = new Map<string, { readonly collection: Collection; users: number }>();
  const socket = async (path: string, doing: string) => ({
    transport,
    path,
    headers: await headers(),
    place: { context: options.contextName, server: options.server, path, doing },
    signal,
  });

  return {
    cluster: options.cluster,
    contextName: options.contextName,
    signal,
    get: (type, name, namespace) =>
      json({ method: 'GET', path: pathOf(type, namespace, name) }, `Reading ${subject(type, namespace, name)}`).then(
        (result) => (result.ok ? ok(lean(result.value as KubeObject) as never) : result),
      ),
    async list<T extends KubeObject>(
      type: ResourceType,
      selection: { readonly namespace?: string; readonly labelSelector?: string; readonly fieldSelector?: string } = {},
    ) {
      try {
        const { labelSelector, fieldSelector } = selection;
        return ok(
          (await listPages(type, selection.namespace, { labelSelector, fieldSelector }, signal))
            .items as readonly KubeObject[] as readonly T[],
        );
      } catch (error) {
        return failed(
          asFailure(error, {
            path: pathOf(type, selection.namespace),
            doing: `Listing ${subject(type, selection.namespace)}`,
          }),
        );
      }
    },
    apply<T extends KubeObject>(type: ResourceType, object: KubeObject, apply: ApplyOptions = {}) {
      const { name, namespace } = object.metadata;
      const path = `${pathOf(type, namespace, name)}${query({ fieldManager: apply.fieldManager ?? 'fairlead', force: apply.force ? 'true' : undefined, dryRun: apply.dryRun ? 'All' : undefined, fieldValidation: 'Strict' })}`;
      return json<T>(
        { method: 'PATCH', path, body: JSON.stringify(object), type: 'application/apply-patch+yaml' },
        `Applying ${subject(type, namespace, name)}`,
      );
    },
    create<T extends KubeObject>(type: ResourceType, object: KubeObject, create: { readonly dryRun?: boolean } = {}) {
      const { name, namespace } = object.metadata;
      const path = `${pathOf(type, namespace)}${query({ fieldManager: 'fairlead', dryRun: create.dryRun ? 'All' : undefined, fieldValidation: 'Strict' })}`;
      return json<T>(
        { method: 'POST', path, body: JSON.stringify(object), type: 'application/json' },
        `Creating ${subject(type, namespace, name)}`,
      );
    },
    replace<T extends KubeObject>(type: ResourceType, object: KubeObject, replace: { readonly dryRun?: boolean } = {}) {
      const { name, namespace } = object.metadata;
      const path = `${pathOf(type, namespace, name)}${query({ fieldManager: 'fairlead', dryRun: replace.dryRun ? 'All' : undefined, fieldValidation: 'Strict' })}`;
      return json<T>(
        { method: 'PUT', path, body: JSON.stringify(object), type: 'application/json' },
        `Updating ${subject(type, namespace, name)}`,
      );
    },
    patch<T extends KubeObject>(
      type: ResourceType,
      name: string,
      namespace: string,
      subresource: string,
      part: object,
    ) {
      const path = `${pathOf(type, namespace, name)}/${subresource}${query({ fieldManager: 'fairlead', fieldValidation: 'Strict' })}`;
      return json<T>(
        { method: 'PATCH', path, body: JSON.stringify(part), type: 'application/strategic-merge-patch+json' },
        `Changing ${subresource} of ${subject(type, namespace, name)}`,
      );
    },
    async remove(type, name, namespace, remove = {}) {
      const path = `${pathOf(type, namespace, name)}${query({ propagationPolicy: remove.propagation })}`;
      const result = await json<unknown>({ method: 'DELETE', path }, `Deleting ${subject(type, namespace, name)}`);
      return result.ok ? ok(undefined) : result;
    },
    async raw(path) {
      try {
        const body = await readBody(await send({ method: 'GET', path }));
        try {
          return ok(JSON.parse(body) as unknown);
        } catch {
          return ok(body);
        }
      } catch (error) {
        return failed(asFailure(error, { path, doing: `Reading ${path}` }));
      }
    },
    async stream(path, streamSignal) {
      const ended = AbortSignal.any([signal, streamSignal]);
      try {
        return ok(await send({ method: 'GET', path, signal: ended }));
      } catch (error) {
        return failed(asFailure(error, { path, doing: `Reading ${path.split('?')[0]}` }));
      }
    },
    watch<T extends KubeObject>(
      type: ResourceType,
      selection: { readonly namespace?: string; readonly labelSelector?: string } = {},
    ) {
      const { labelSelector } = selection;
      const base = pathOf(type, selection.namespace);
      const key = `${base}?${labelSelector ?? ''}`;
      let entry = shared.get(key);
      if (!entry) {
        const collection = new Collection(
          {
            list: (collectionSignal) => listPages(type, selection.namespace, { labelSelector }, collectionSignal),
            watch: (resourceVersion, watchSignal) => {
              // The server ends each watch itself, spread out so that a restart does not make all of them come at once.
              const timeoutSeconds = String(Math.round(280 + Math.random() * 120));
              return send({
                method: 'GET',
                path: `${base}${query({ labelSelector, watch: 'true', allowWatchBookmarks: 'true', resourceVersion, timeoutSeconds })}`,
                signal: watchSignal,
              });
            },
            failure: (error) =>
              asFailure(error, { path: base, doing: `Watching ${subject(type, selection.namespace)}` }),
            log: (text) => options.log(`watching ${subject(type, selection.namespace)}: ${text}`),
          },
          signal,
          options.timing ?? defaultTiming,
        );
        entry = { collection, users: 0 };
        shared.set(key, entry);
      }
      const { collection } = entry;
      const counted = entry;
      counted.users += 1;
      let held = true;
      const mine = new Set<Disposable>();
      const handle: LiveCollection<KubeObject> & Disposable = {
        items: () => collection.items(),
        synced: () => collection.synced(),
        failure: () => collection.failure(),
        ready: () => collection.ready(),
        onChange(listener) {
          if (!held) return { [Symbol.dispose]() {} };
          const registration = collection.onChange(listener);
          mine.add(registration);
          return {
            [Symbol.dispose]() {
              mine.delete(registration);
              registration[Symbol.dispose]();
            },
          };
        },
        [Symbol.dispose]() {
          if (!held) return;
          held = false;
          for (const registration of mine) registration[Symbol.dispose]();
          counted.users -= 1;
          if (counted.users > 0) return;
          shared.delete(key);
          collection.close();
        },
      };
      return handle as LiveCollection<T> & Disposable;
    },
    async portForward(namespace, pod, port) {
      const doing = `Connecting to port ${port} of pod ${namespace}/${pod}`;
      try {
        const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods/${encodeURIComponent(pod)}/portforward?ports=${port}`;
        return await openPortForward(await socket(path, doing), port);
      } catch (error) {
        return failed(asFailure(error, { doing }));
      }
    },
    async exec(target) {
      const doing = `Running a command in pod ${target.namespace}/${target.pod}`;
      const search = new URLSearchParams({
        container: target.container,
        stdin: 'true',
        stdout: 'true',
        stderr: target.tty ? 'false' : 'true',
        tty: String(target.tty),
      });
      for (const word of target.command) search.append('command', word);
      try {
        const path = `/api/v1/namespaces/${encodeURIComponent(target.namespace)}/pods/${encodeURIComponent(target.pod)}/exec?${search}`;
        return told(await openExec(await socket(path, doing)));
      } catch (error) {
        return failed(asFailure(error, { doing }));
      }
    },
    async measure() {
      const before = performance.now();
      const result = await json<{ readonly gitVersion?: string }>(
        { method: 'GET', path: '/version', timeout: 10_000 },
        'Reading /version',
      );
      return result.ok
        ? ok({
            milliseconds: Math.round((performance.now() - before) * 10) / 10,
            version: result.value.gitVersion ?? '',
          })
        : result;
    },
    onRefused(listener) {
      refused = listener;
    },
    watching: () => shared.size,
    close() {
      abort.abort();
      for (const { collection } of shared.values()) collection.close();
      shared.clear();
      transport.close();
    },
  };
}
