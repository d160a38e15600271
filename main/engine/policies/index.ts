import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import type { PolicyId, PolicyProblem } from '../../../contract/policies.ts';
import { type Agents, pause } from '../agents/agent-pool.ts';
import type { AuditLog, Connections } from '../capability.ts';
import { type ClusterConnection, type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { Log } from '../log.ts';
import { ClusterPolicies, EnforcementPoll } from './cluster-policies.ts';
import { parsePolicyText } from './document.ts';
import { policyTypes, withKind } from './kinds.ts';
import { policySchema } from './schema.ts';
import { carryOver, managerOf, sameContent, toText, withoutNoise } from './text.ts';
import { validatePolicy } from './validate.ts';
import { policyEngine } from './wasm/policy-engine.ts';

export interface PoliciesOptions {
  readonly connections: Connections;
  readonly agents: Agents;
  readonly audit: AuditLog;
  readonly log: Log;
}

/** Changes come in bursts; the list is sent at most this often, in milliseconds. */
const listInterval = 200;
/** Validation comes with every keystroke: what it looks at is kept a little longer than the last one. */
const linger = 30_000;

interface Shared {
  readonly view: ClusterPolicies;
  users: number;
  timer: ReturnType<typeof setTimeout> | undefined;
}

function engineMissing(error: unknown): Failure {
  return {
    code: 'policies.no-engine',
    what: 'The policy engine of this build cannot be loaded.',
    why: error instanceof Error ? error.message : String(error),
    fix: 'Build it with `node scripts/build-policy-wasm.mjs`, or install a complete build.',
  };
}

function problemFailure(problem: PolicyProblem): Failure {
  return {
    code: `policies.${problem.code}`,
    what: problem.line > 0 ? `Line ${problem.line}: ${problem.what}` : problem.what,
    why: problem.why,
    fix: problem.fix,
  };
}

/** Network policies of all three kinds: list, validation by the agents' own engine, dry run, apply, remove. */
export function createPolicies(options: PoliciesOptions): CapabilityImplementation<'policies'> & Disposable {
  const { connections, agents, audit, log } = options;
  const shared = new Map<string, Shared>();
  const end = new AbortController();

  const drop = (cluster: string, entry: Shared) => {
    clearTimeout(entry.timer);
    if (shared.get(cluster) === entry) shared.delete(cluster);
    entry.view[Symbol.dispose]();
  };

  const hold = async (cluster: string): Promise<Result<{ readonly view: ClusterPolicies } & Disposable>> => {
    const connection = await connections.get(cluster);
    if (!connection.ok) return connection;
    let entry = shared.get(cluster);
    if (entry && entry.view.connection !== connection.value) {
      drop(cluster, entry);
      entry = undefined;
    }
    if (!entry) {
      const made: Shared = { view: new ClusterPolicies(connection.value), users: 0, timer: undefined };
      connection.value.signal.addEventListener('abort', () => drop(cluster, made), { once: true });
      shared.set(cluster, made);
      entry = made;
    }
    const held = entry;
    clearTimeout(held.timer);
    held.users += 1;
    return ok({
      view: held.view,
      [Symbol.dispose]() {
        held.users -= 1;
        if (held.users === 0) held.timer = setTimeout(() => drop(cluster, held), linger).unref();
      },
    });
  };

  /** The document of a text that may be sent to the server, and what is stored under its name now. */
  const prepare = async (cluster: string, text: string) => {
    const connection = await connections.get(cluster);
    if (!connection.ok) return connection;
    const parsed = parsePolicyText(text);
    const [problem] = parsed.problems;
    if (problem) return failed<never>(problemFailure(problem));
    const { id } = parsed;
    if (!id)
      return failed<never>({
        code: 'policies.no-name',
        what: 'The policy has no name.',
        why: 'metadata.name is missing.',
        fix: 'Add a name.',
      });
    const value = parsed.value as KubeObject;
    const document = {
      ...value,
      metadata: { ...value.metadata, ...(id.namespace === '' ? {} : { namespace: id.namespace }) },
    } as KubeObject;
    const stored = await readStored(connection.value, id);
    if (!stored.ok) return stored;
    return ok({ connection: connection.value, id, document, stored: stored.value });
  };

  return {
    async watch({ cluster }, sink, context) {
      const engine = await policyEngine().catch(engineMissing);
      if ('code' in engine) return engine;
      const held = await hold(cluster);
      if (!held.ok) return held.failure;
      using lease = held.value;
      const { view } = lease;
      const signal = AbortSignal.any([context.signal, end.signal, view.connection.signal]);
      let changed = true;
      let wake: () => void = () => undefined;
      const mark = () => {
        changed = true;
        wake();
      };
      const opened = await EnforcementPoll.open(cluster, agents, mark);
      if (!opened.ok) return opened.failure;
      using enforcement = opened.value;
      const ready = await view.ready();
      if (!ready.ok) return ready.failure;
      using _registration = view.onChange(mark);
      signal.addEventListener('abort', mark, { once: true });
      let sent = '';
      while (!signal.aborted) {
        if (!changed)
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        if (signal.aborted) break;
        changed = false;
        const policies = view.summaries(engine, enforcement);
        const text = JSON.stringify(policies);
        if (text !== sent) {
          sent = text;
          await sink.push([{ policies: policies.map((policy) => ({ ...policy })) }]);
        }
        await pause(listInterval, signal);
      }
      return undefined;
    },

    async read({ cluster, id }) {
      const connection = await connections.get(cluster);
      if (!connection.ok) return connection;
      const found = await connection.value.get<KubeObject>(policyTypes[id.kind], id.name, id.namespace || undefined);
      if (!found.ok) return found;
      const object = withKind(found.value, id.kind);
      return ok({ text: toText(object), resourceVersion: object.metadata.resourceVersion ?? '' });
    },

    async validate({ cluster, text }) {
      const engine = await policyEngine().catch(engineMissing);
      if ('code' in engine) return failed(engine);
      const held = await hold(cluster);
      if (!held.ok) return held;
      using lease = held.value;
      await lease.view.ready();
      return ok(validatePolicy(text, engine, lease.view.surroundings()));
    },

    async dryRun({ cluster, text }) {
      const prepared = await prepare(cluster, text);
      if (!prepared.ok) return prepared;
      const { connection, id, document, stored } = prepared.value;
      const type = policyTypes[id.kind];
      const result = stored
        ? await connection.replace<KubeObject>(type, carryOver(document, stored, undefined), { dryRun: true })
        : await connection.create<KubeObject>(type, document, { dryRun: true });
      if (!result.ok) return result;
      const full = (object: KubeObject) => withKind(object, id.kind);
      const after = full(result.value);
      const manager = stored ? managerOf(stored) : '';
      return ok({
        action: !stored
          ? ('create' as const)
          : sameContent(full(stored), after)
            ? ('unchanged' as const)
            : ('update' as const),
        before: stored ? toText(full(stored)) : '',
        after: toText(after),
        resourceVersion: stored?.metadata.resourceVersion ?? '',
        warnings: manager ? [`${manager} looks after this policy and would revert what is changed here.`] : [],
      });
    },

    async apply({ cluster, text, resourceVersion }) {
      const writable = connections.writable(cluster);
      if (!writable.ok) return writable;
      const engine = await policyEngine().catch(engineMissing);
      if ('code' in engine) return failed(engine);
      const prepared = await prepare(cluster, text);
      if (!prepared.ok) return prepared;
      const { connection, id, document, stored } = prepared.value;
      // What the agents would not enforce must not be stored: it would look like protection and be none.
      const problem = engine.validate(document).problems.find((one) => one.severity === 'error');
      if (problem)
        return failed({
          code: `policies.${problem.code}`,
          what: `${problem.path ? `${problem.path}: ` : ''}${problem.what}`,
          why: problem.why,
          fix: problem.fix,
        });
      if (resourceVersion && !stored) return failed(goneFailure(id));
      if (resourceVersion !== undefined && stored && stored.metadata.resourceVersion !== resourceVersion)
        return failed(resourceVersion === '' ? appearedFailure(id) : await conflictFailure(connection, id));
      const type = policyTypes[id.kind];
      const subject = `${id.kind} ${id.namespace ? `${id.namespace}/` : ''}${id.name}`;
      const result = stored
        ? await connection.replace<KubeObject>(type, carryOver(document, stored, resourceVersion))
        : await connection.create<KubeObject>(type, document);
      const action = !stored ? 'create' : result.ok && unchanged(stored, result.value) ? 'unchanged' : 'update';
      audit.record({
        cluster: connection.contextName,
        action: `policies.${stored ? 'update' : 'create'}`,
        subject,
        result: result.ok ? (action === 'unchanged' ? 'unchanged' : 'done') : result.failure.what,
        before: stored ? toText(withKind(stored, id.kind)) : '',
        after: toText(withKind(result.ok ? result.value : document, id.kind)),
      });
      log.info('policies', `${subject}: ${result.ok ? action : result.failure.why}`);
      if (!result.ok && result.failure.code === 'kube.exists') return failed(appearedFailure(id));
      if (!result.ok && result.failure.code === 'kube.conflict') return failed(await conflictFailure(connection, id));
      return result.ok ? ok({ id, action }) : result;
    },

    async remove({ cluster, id }) {
      const writable = connections.writable(cluster);
      if (!writable.ok) return writable;
      const connection = await connections.get(cluster);
      if (!connection.ok) return connection;
      const stored = await connection.value.get<KubeObject>(policyTypes[id.kind], id.name, id.namespace || undefined);
      const removed = await connection.value.remove(policyTypes[id.kind], id.name, id.namespace || undefined);
      audit.record({
        cluster: connection.value.contextName,
        action: 'policies.remove',
        subject: `${id.kind} ${id.namespace ? `${id.namespace}/` : ''}${id.name}`,
        result: removed.ok ? 'done' : removed.failure.what,
        // Whoever wants it back finds it here.
        before: stored.ok ? toText(withKind(stored.value, id.kind)) : '',
      });
      return removed.ok ? ok({}) : removed;
    },

    schema: async ({ kind }) => ok({ schema: policySchema(kind) }),

    [Symbol.dispose]() {
      end.abort();
      for (const [cluster, entry] of [...shared]) drop(cluster, entry);
    },
  };
}

/** What is stored under a name; undefined when there is nothing. A missing kind is a failure of its own. */
async function readStored(connection: ClusterConnection, id: PolicyId): Promise<Result<KubeObject | undefined>> {
  const type = policyTypes[id.kind];
  const found = await connection.get<KubeObject>(type, id.name, id.namespace || undefined);
  if (found.ok) return found;
  if (found.failure.code !== 'kube.not-found') return found;
  if (type.group !== 'cilium.io') return ok(undefined);
  const definition = await connection.get<KubeObject>(
    resources.customResourceDefinitions,
    `${type.plural}.${type.group}`,
  );
  if (definition.ok || definition.failure.code !== 'kube.not-found') return ok(undefined);
  return failed({
    code: 'policies.kind-missing',
    what: `${id.kind} is not known in this cluster.`,
    why: 'Its custom resource definition is not installed.',
    fix: 'Install Fairlead (or Cilium) in this cluster, or write a NetworkPolicy.',
  });
}

function unchanged(before: KubeObject, after: KubeObject): boolean {
  return sameContent(withoutKind(before), withoutKind(after));
}

function withoutKind(object: KubeObject): KubeObject {
  const { kind: _kind, apiVersion: _version, ...rest } = withoutNoise(object);
  return rest as KubeObject;
}

function goneFailure(id: PolicyId): Failure {
  return {
    code: 'policies.gone',
    what: `${id.name} was deleted meanwhile.`,
    why: 'It was there when it was opened here, and is not any more.',
    fix: 'Save it as a new policy if it is still wanted: open a new editor with this text.',
  };
}

function appearedFailure(id: PolicyId): Failure {
  return {
    code: 'policies.conflict',
    what: `${id.name} exists meanwhile.`,
    why: 'There was no policy of this name when the server was asked what it would store; somebody has made one since.',
    fix: 'Look at the difference again and apply then, or choose another name.',
  };
}

interface ManagedField {
  readonly manager?: string;
  readonly operation?: string;
  readonly time?: string;
  readonly subresource?: string;
}

/** Says who changed a policy last, and when. */
async function conflictFailure(connection: ClusterConnection, id: PolicyId): Promise<Failure> {
  const { group, version, plural } = policyTypes[id.kind];
  const place = id.namespace ? `namespaces/${encodeURIComponent(id.namespace)}/` : '';
  const raw = await connection.raw(`/apis/${group}/${version}/${place}${plural}/${encodeURIComponent(id.name)}`);
  const fields = raw.ok
    ? ((raw.value as { readonly metadata?: { readonly managedFields?: readonly ManagedField[] } }).metadata
        ?.managedFields ?? [])
    : [];
  const last = fields
    .filter((field) => field.subresource !== 'status')
    .toSorted((a, b) => (b.time ?? '').localeCompare(a.time ?? ''))[0];
  return {
    code: 'policies.conflict',
    what: `${id.name} was changed by somebody else since it was opened here.`,
    why: last
      ? `${last.manager ?? 'Somebody'} changed it at ${last.time ?? 'an unknown time'}.`
      : 'Its version in the cluster is another one.',
    fix: 'Read it again, look at the difference, and apply your change to the new version.',
  };
}
