import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import { type Action, actionSchema, type RightsReview } from '../../../contract/rights.ts';
import type { Connections } from '../capability.ts';
import type { ClusterConnection, KubeObject, ResourceType } from '../kube/cluster-connection.ts';
import { type Need, needsOf } from './needs.ts';
import { grants, type ResourceRule } from './rules.ts';

/** A question in the form of an object, which is answered and stored nowhere. */
const question = (group: string, plural: string, kind: string): ResourceType => ({
  group,
  version: 'v1',
  plural,
  kind,
  namespaced: false,
});
const accessReviews = question('authorization.k8s.io', 'selfsubjectaccessreviews', 'SelfSubjectAccessReview');
const rulesReviews = question('authorization.k8s.io', 'selfsubjectrulesreviews', 'SelfSubjectRulesReview');
const subjectReviews = question('authentication.k8s.io', 'selfsubjectreviews', 'SelfSubjectReview');

interface Access extends KubeObject {
  readonly status?: { readonly allowed?: boolean; readonly reason?: string };
}
interface Rules extends KubeObject {
  readonly status?: { readonly resourceRules?: readonly ResourceRule[]; readonly incomplete?: boolean };
}
interface Subject extends KubeObject {
  readonly status?: { readonly userInfo?: { readonly username?: string } };
}

/** How long an answer is good for, in milliseconds: rights change rarely, and the API server decides in the end. */
const freshFor = 30_000;

/** What one user of one cluster is allowed, asked as needed and kept for a while. */
class Asker {
  readonly #connection: ClusterConnection;
  readonly #answers = new Map<string, { readonly at: number; readonly answer: Promise<Result<unknown>> }>();
  readonly #now: () => number;
  constructor(connection: ClusterConnection, now: () => number) {
    this.#connection = connection;
    this.#now = now;
  }

  /** Forgets everything. */
  forget(): void {
    this.#answers.clear();
  }

  #ask<T extends KubeObject>(type: ResourceType, spec: object | undefined): Promise<Result<T>> {
    const key = `${type.kind} ${JSON.stringify(spec)}`;
    const known = this.#answers.get(key);
    if (known && this.#now() - known.at < freshFor) return known.answer as Promise<Result<T>>;
    const answer = this.#connection.create<T>(type, {
      apiVersion: `${type.group}/${type.version}`,
      kind: type.kind,
      metadata: {},
      ...(spec ? { spec } : {}),
    } as unknown as KubeObject);
    this.#answers.set(key, { at: this.#now(), answer });
    // A failure is no answer: the next question asks again.
    void answer.then((result) => {
      if (!result.ok) this.#answers.delete(key);
    });
    return answer;
  }

  /** The user's name as the API server has it; older servers do not say. */
  async user(): Promise<string> {
    const answer = await this.#ask<Subject>(subjectReviews, undefined);
    return answer.ok ? (answer.value.status?.userInfo?.username ?? '') : '';
  }

  /** Whether a right is there; `namespace` is the one that is asked about, "" for all. */
  async has(need: Need, namespace: string): Promise<Result<{ readonly allowed: boolean; readonly reason: string }>> {
    const where = need.where === 'cluster' ? '' : need.where === 'given' ? namespace : need.where.namespace;
    const { verb, type, subresource } = need;
    if (where !== '') {
      const listed = await this.#ask<Rules>(rulesReviews, { namespace: where });
      if (listed.ok) {
        const { resourceRules = [], incomplete = false } = listed.value.status ?? {};
        if (grants(resourceRules, { verb, group: type.group, plural: type.plural, subresource }))
          return ok({ allowed: true, reason: '' });
        // An authorizer that cannot list what it allows may allow this too.
        if (!incomplete) return ok({ allowed: false, reason: '' });
      } else if (listed.failure.code !== 'kube.forbidden' && listed.failure.code !== 'kube.not-found') return listed;
    }
    const access = await this.#ask<Access>(accessReviews, {
      resourceAttributes: {
        verb,
        group: type.group,
        resource: type.plural,
        ...(subresource ? { subresource } : {}),
        ...(where === '' ? {} : { namespace: where }),
      },
    });
    if (!access.ok) return access;
    return ok({ allowed: access.value.status?.allowed === true, reason: access.value.status?.reason ?? '' });
  }
}

const resourceName = ({ type, subresource }: Need) =>
  `${type.plural}${subresource ? `/${subresource}` : ''}${type.group ? `.${type.group}` : ''}`;

const and = (words: readonly string[]) =>
  words.length < 2 ? words.join('') : `${words.slice(0, -1).join(', ')} and ${words.at(-1)}`;

/** What is missing, in a sentence, and what to ask for. */
export function explain(user: string, missing: readonly Need[], namespace: string): string {
  const place = (need: Need) =>
    need.where === 'cluster'
      ? ' in the whole cluster'
      : need.where === 'given'
        ? namespace === ''
          ? ' in every namespace'
          : ` in namespace ${namespace}`
        : ` in namespace ${need.where.namespace}`;
  const groups = new Map<string, { readonly of: string; readonly verbs: string[] }>();
  for (const need of missing) {
    const of = `${resourceName(need)}${place(need)}`;
    const group = groups.get(of) ?? { of, verbs: [] };
    if (!group.verbs.includes(need.verb)) group.verbs.push(need.verb);
    groups.set(of, group);
  }
  const all = [...groups.values()];
  const shown = all.slice(0, 3).map(({ of, verbs }) => `${and(verbs)} ${of}`);
  const more = all.length > 3 ? `, and ${all.length - 3} more` : '';
  const who = user === '' ? 'Your user' : `Your user “${user}”`;
  return `${who} may not ${shown.join('; ')}${more}. Ask whoever runs the cluster for ${all.length === 1 ? 'this right' : 'these rights'}, or use a context that has ${all.length === 1 ? 'it' : 'them'}.`;
}

export interface RightsOptions {
  readonly connections: Connections;
  readonly now?: () => number;
}

/** What the user of each cluster may do. */
export function createRights({ connections, now = Date.now }: RightsOptions): CapabilityImplementation<'rights'> & {
  /** What was answered may not hold any more: the cluster has come back, or has refused something. */
  readonly forget: (connection: ClusterConnection) => void;
} {
  const askers = new WeakMap<ClusterConnection, Asker>();
  return {
    forget: (connection) => askers.get(connection)?.forget(),
    async review({ cluster, namespace, anew }) {
      const connection = await connections.get(cluster);
      if (!connection.ok) return connection;
      const asker = askers.get(connection.value) ?? new Asker(connection.value, now);
      askers.set(connection.value, asker);
      if (anew) asker.forget();
      const [user, ...answers] = await Promise.all([
        asker.user(),
        ...actionSchema.options.map(async (action) => {
          const needs = needsOf(action);
          const results = await Promise.all(needs.map((need) => asker.has(need, namespace)));
          return { action, needs, results };
        }),
      ]);
      const rights: { action: Action; allowed: boolean; reason: string }[] = [];
      for (const { action, needs, results } of answers) {
        const broken = results.find((result): result is { ok: false; failure: Failure } => !result.ok);
        if (broken) return failed(broken.failure);
        const missing = needs.filter((_, index) => {
          const result = results[index];
          return result?.ok && !result.value.allowed;
        });
        const said = results.flatMap((result) => (result.ok && result.value.reason ? [result.value.reason] : []));
        const allowed = missing.length === 0;
        rights.push({
          action,
          allowed,
          reason: allowed ? '' : `${explain(user, missing, namespace)}${said[0] && !allowed ? ` (${said[0]})` : ''}`,
        });
      }
      return ok({ user, rights } satisfies RightsReview);
    },
  };
}
