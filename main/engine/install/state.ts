import { z } from 'zod/mini';
import { ok, type Result } from '../../../contract/failure.ts';
import { type InstallProgress, type Values, valuesSchema } from '../../../contract/index.ts';
import { type ClusterConnection, type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { ReadOnlyConnection } from './facts.ts';
import { agentNamespace, fieldManager, labels, stateName } from './names.ts';
import { isNotFound } from './secrets.ts';

const stateSchema = z.object({
  action: z.enum(['install', 'upgrade', 'rollback', 'uninstall']),
  digest: z.string(),
  state: z.enum(['running', 'done', 'failed', 'stopped']),
  startedAt: z.number(),
  /** Renewed while it runs: an old one means that the console is gone. */
  updatedAt: z.number(),
  nodes: z.record(z.string(), z.enum(['waiting', 'running', 'done', 'failed'])),
  image: z.string(),
  values: valuesSchema,
  /** What was there before this application; absent when nothing was. */
  previous: z.optional(z.object({ image: z.string(), values: valuesSchema })),
});

/** How far the last application of a plan has come. It is kept in the cluster, so that any console can go on with it. */
export type InstallState = Readonly<z.infer<typeof stateSchema>>;

/** After this long without a sign of life the console that applied is taken for gone, in milliseconds. */
export const silence = 30_000;
const heartbeat = 10_000;

interface ConfigMap extends KubeObject {
  readonly data?: Readonly<Record<string, string>>;
}

/** Reads the state; undefined where there is none, or one that cannot be read. */
export async function readState(connection: ReadOnlyConnection): Promise<Result<InstallState | undefined>> {
  const found = await connection.get<ConfigMap>(resources.configMaps, stateName, agentNamespace);
  if (!found.ok) return isNotFound(found.failure.code) ? ok(undefined) : found;
  try {
    const parsed = stateSchema.safeParse(JSON.parse(found.value.data?.state ?? ''));
    return ok(parsed.success ? parsed.data : undefined);
  } catch {
    return ok(undefined);
  }
}

/** Is an application broken off: begun, not ended, and nobody is at it? */
export function isInterrupted(state: InstallState, now: number): boolean {
  return state.state === 'running' && now - state.updatedAt > silence;
}

/** What a rollback goes back to: what was there before the last application that changed anything. */
export function previousOf(
  state: InstallState | undefined,
): { readonly image: string; readonly values: Values } | undefined {
  return state?.previous;
}

/** How far each node is, out of the steps that concern it. Pure. */
export function nodeStates(progress: InstallProgress, nodes: readonly string[]): InstallState['nodes'] {
  return Object.fromEntries(
    nodes.map((node) => {
      const steps = progress.steps.filter((step) => step.node === node);
      const own = steps.find((step) => step.id === `agent:${node}` || step.id === `cleanup:${node}`);
      if (steps.some((step) => step.state === 'failed')) return [node, 'failed'] as const;
      if (own?.state === 'done' || own?.state === 'skipped') return [node, 'done'] as const;
      return [node, own?.state === 'running' ? 'running' : 'waiting'] as const;
    }),
  );
}

/** Keeps the state in the cluster while a plan is applied; one write at a time, the newest wins. */
export class StateKeeper implements Disposable {
  #state: InstallState;
  readonly #connection: Pick<ClusterConnection, 'apply'>;
  #writing: Promise<void> = Promise.resolve();
  #pending = false;
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(connection: Pick<ClusterConnection, 'apply'>, state: InstallState) {
    this.#connection = connection;
    this.#state = state;
    this.#timer = setInterval(() => void this.#write(), heartbeat);
    this.#timer.unref();
  }

  /** Writes the first state; a failure means that nothing may be begun. */
  async begin(): Promise<Result<void>> {
    const written = await this.#put();
    return written.ok ? ok(undefined) : written;
  }

  /** Takes over what has changed. */
  update(to: Pick<InstallState, 'nodes' | 'state'>): void {
    if (JSON.stringify(to.nodes) === JSON.stringify(this.#state.nodes) && to.state === this.#state.state) return;
    this.#state = { ...this.#state, ...to };
    void this.#write();
  }

  /** Resolves when everything is written. */
  async settled(): Promise<void> {
    await this.#writing;
  }

  #put() {
    const state: InstallState = { ...this.#state, updatedAt: Date.now() };
    const object = {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: stateName, namespace: agentNamespace, labels },
      data: { state: JSON.stringify(state) },
    } as KubeObject;
    return this.#connection.apply<KubeObject>(resources.configMaps, object, { fieldManager, force: true });
  }

  #write(): Promise<void> {
    if (this.#pending) return this.#writing;
    this.#pending = true;
    this.#writing = this.#writing
      .then(() => {
        this.#pending = false;
        return this.#put();
      })
      .then(() => undefined);
    return this.#writing;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}
