import { createHash } from 'node:crypto';
import { type FSWatcher, readFileSync, type Stats, statSync, watch } from 'node:fs';
import { homedir } from 'node:os';
import { basename, delimiter, dirname, join, resolve } from 'node:path';
import { type Failure, failed, type Result } from '../../../contract/failure.ts';
import {
  type Kubeconfig,
  type Material,
  parseKubeconfig,
  type ResolvedContext,
  resolveContext,
} from '../kube/kubeconfig.ts';
import type { RemoteCluster } from './remote.ts';

/** A context as found in a file; usable or with the reason why not. */
export interface FoundContext {
  /** Stable for a file and a context name; tells nothing of either. */
  readonly id: string;
  readonly name: string;
  readonly path: string;
  readonly source: 'kubeconfig' | 'lab' | 'ssh';
  readonly current: boolean;
  /** Of a cluster behind SSH nothing is known before it is connected: see `remote`. */
  readonly resolved: Result<ResolvedContext>;
  readonly remote?: RemoteCluster;
  /** Changes when anything that matters for connecting changes. */
  readonly fingerprint: string;
}

export interface Found {
  readonly contexts: readonly FoundContext[];
  readonly problems: readonly Failure[];
}

/** A group of files that kubectl would merge. `optional`: it is no problem when they are missing. */
export interface FileGroup {
  readonly paths: readonly string[];
  readonly source: 'kubeconfig' | 'lab';
  readonly optional: boolean;
}

/** The files of KUBECONFIG, or ~/.kube/config. */
export function defaultFiles(environment: NodeJS.ProcessEnv = process.env): FileGroup {
  const listed = (environment.KUBECONFIG ?? '').split(delimiter).filter((path) => path !== '');
  if (listed.length > 0) return { paths: listed.map((path) => resolve(path)), source: 'kubeconfig', optional: false };
  return { paths: [join(homedir(), '.kube', 'config')], source: 'kubeconfig', optional: true };
}

/** The opaque id of a context. */
export function clusterId(path: string, context: string): string {
  return createHash('sha256').update(`${path}\0${context}`).digest('hex').slice(0, 16);
}

/** Reads one file; what cannot be read is a failure in words. */
export function readKubeconfig(path: string): Result<Kubeconfig> {
  let text: string;
  try {
    const stats = statSync(path);
    // A pipe may never end, and a device has no end: reading one would take the engine with it.
    if (!stats.isFile()) throw new Error(stats.isDirectory() ? 'it is a directory' : 'it is no file');
    if (stats.size > 16 << 20) throw new Error('it is larger than 16 MiB');
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    return failed({
      code: missing ? 'kubeconfig.missing' : 'kubeconfig.unreadable',
      what: missing ? `There is no kubeconfig ${path}.` : `The kubeconfig ${path} cannot be read.`,
      why: missing ? 'The file does not exist.' : error instanceof Error ? error.message : String(error),
      fix: missing
        ? 'Name another file (--kubeconfig PATH or the KUBECONFIG variable), or add one in the Clusters view.'
        : 'Check who may read the file.',
    });
  }
  return parseKubeconfig(text, path);
}

/** A file's state; undefined when it is not there or may not be looked at. */
function statOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}

const hash = (value: unknown) => createHash('sha256').update(JSON.stringify(value)).digest('hex');

/** Every file that a context's credentials lie in; a change of one is a change of the context. */
function materialFiles(context: ResolvedContext): readonly string[] {
  const of = (material: Material | undefined) =>
    material && 'file' in material ? [resolve(dirname(context.path), material.file)] : [];
  return [...of(context.cluster.certificateAuthority), ...of(context.user.certificate), ...of(context.user.key)];
}

/** Reads groups of files. Nothing is ever written to them. `texts` are kubeconfigs without a file, by name. */
export function readAll(groups: readonly FileGroup[], texts: ReadonlyMap<string, Kubeconfig>): Found {
  const contexts: FoundContext[] = [];
  const problems: Failure[] = [];
  const collect = (files: readonly Kubeconfig[], source: FoundContext['source']) => {
    const seen = new Set<string>();
    const current = files.find((file) => file.currentContext !== '')?.currentContext ?? '';
    for (const file of files) {
      for (const context of file.contexts) {
        // As kubectl merges: the first file to name a context wins.
        if (seen.has(context.name)) continue;
        seen.add(context.name);
        const resolved = resolveContext(context, file, files);
        const stamps = resolved.ok ? materialFiles(resolved.value).map((path) => statOf(path)?.mtimeMs ?? 0) : [];
        contexts.push({
          id: clusterId(file.path, context.name),
          name: context.name,
          path: file.path,
          source,
          current: context.name === current,
          resolved,
          fingerprint: hash([resolved, stamps]),
        });
      }
    }
  };
  const done = new Set<string>();
  for (const group of groups) {
    const files: Kubeconfig[] = [];
    for (const path of group.paths) {
      if (done.has(path)) continue;
      done.add(path);
      const read = readKubeconfig(path);
      if (read.ok) files.push(read.value);
      else if (!(group.optional && read.failure.code === 'kubeconfig.missing')) problems.push(read.failure);
    }
    collect(files, group.source);
  }
  for (const file of texts.values()) collect([file], 'kubeconfig');
  return { contexts, problems };
}

/** A cluster behind SSH as an entry of the list; its kubeconfig is read when it is connected. */
export function remoteContext(remote: RemoteCluster): FoundContext {
  const path = `ssh:${remote.host}:${remote.path}`;
  return {
    id: clusterId(path, remote.context),
    name: remote.context,
    path,
    source: 'ssh',
    current: false,
    remote,
    resolved: failed({
      code: 'ssh.not-connected',
      what: `“${remote.context}” is not connected.`,
      why: `Its kubeconfig is on ${remote.host} and is read when it is connected.`,
      fix: 'Connect it.',
    }),
    fingerprint: hash(remote),
  };
}

/** Display name of a file: its name without its directory. */
export function originOf(path: string): string {
  return basename(path);
}

/**
 * Calls back when one of the files changes, appears or goes. Watches their directories, because editors and tools
 * replace files rather than write into them; looks every few seconds as well, because network file systems do not tell.
 */
export function watchFiles(
  paths: () => readonly string[],
  changed: () => void,
): Disposable & { readonly refresh: () => void } {
  const watchers = new Map<string, FSWatcher>();
  let timer: NodeJS.Timeout | undefined;
  let last = '';
  const stamp = () =>
    paths()
      .map((path) => {
        const stat = statOf(path);
        return `${path}:${stat?.mtimeMs}:${stat?.size}:${stat?.ino}`;
      })
      .join('\n');
  const look = () => {
    const now = stamp();
    if (now === last) return;
    last = now;
    changed();
  };
  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(look, 100);
  };
  const refresh = () => {
    const wanted = new Set(paths().map((path) => dirname(path)));
    for (const [directory, watcher] of watchers) {
      if (wanted.has(directory)) continue;
      watcher.close();
      watchers.delete(directory);
    }
    for (const directory of wanted) {
      if (watchers.has(directory)) continue;
      try {
        const watcher = watch(directory, { persistent: false }, soon);
        watcher.on('error', () => {
          watcher.close();
          watchers.delete(directory);
        });
        watchers.set(directory, watcher);
      } catch {
        // The directory does not exist yet: the regular look finds it.
      }
    }
    last = stamp();
  };
  refresh();
  const regular = setInterval(() => {
    look();
    if (watchers.size === 0) refresh();
  }, 5_000);
  regular.unref();
  return {
    refresh,
    [Symbol.dispose]() {
      clearTimeout(timer);
      clearInterval(regular);
      for (const watcher of watchers.values()) watcher.close();
      watchers.clear();
    },
  };
}
