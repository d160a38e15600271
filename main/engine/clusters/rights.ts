import { ok, type Result } from '../../../contract/failure.ts';
import { type ResourceType, resources } from '../kube/cluster-connection.ts';
import type { OwnedConnection } from '../kube/connection.ts';

interface Need {
  readonly verb: string;
  readonly type: Pick<ResourceType, 'group' | 'plural'>;
  readonly subresource?: string;
}

const write = (type: ResourceType): readonly Need[] => ['create', 'patch', 'delete'].map((verb) => ({ verb, type }));

/** What each of the console's actions needs of the API server; named as in the contract. */
const actions: Readonly<Record<string, readonly Need[]>> = {
  'clusters.inventory': [
    resources.nodes,
    resources.pods,
    resources.services,
    resources.namespaces,
    resources.endpointSlices,
  ].map((type) => ({ verb: 'list', type })),
  'clusters.deletePod': [{ verb: 'delete', type: resources.pods }],
  'flows.watch': [{ verb: 'create', type: resources.pods, subresource: 'portforward' }],
  'terminals.open': [{ verb: 'create', type: resources.pods, subresource: 'exec' }],
  'policies.apply': [
    { verb: 'patch', type: resources.ciliumNetworkPolicies },
    { verb: 'patch', type: resources.networkPolicies },
  ],
  'policies.remove': [
    { verb: 'delete', type: resources.ciliumNetworkPolicies },
    { verb: 'delete', type: resources.networkPolicies },
  ],
  'install.apply': [
    resources.customResourceDefinitions,
    resources.clusterRoles,
    resources.clusterRoleBindings,
    resources.serviceAccounts,
    resources.daemonSets,
    resources.secrets,
    resources.configMaps,
  ].flatMap(write),
};

/** Asks the API server what this user may do (SelfSubjectAccessReview); one lacking right denies the action and is named. */
export async function askRights(
  connection: OwnedConnection,
): Promise<Result<readonly { readonly action: string; readonly allowed: boolean; readonly reason: string }[]>> {
  const asked = new Map<string, ReturnType<OwnedConnection['may']>>();
  const rights: { action: string; allowed: boolean; reason: string }[] = [];
  for (const [action, needs] of Object.entries(actions)) {
    const answers = await Promise.all(
      needs.map(async (need) => {
        const key = JSON.stringify(need);
        const answer =
          asked.get(key) ??
          connection.may(need.verb, need.type, need.subresource === undefined ? {} : { subresource: need.subresource });
        asked.set(key, answer);
        return { need, result: await answer };
      }),
    );
    const broken = answers.find(({ result }) => !result.ok)?.result;
    if (broken && !broken.ok) return broken;
    const denied = answers.find(({ result }) => result.ok && !result.value.allowed);
    const detail = denied?.result.ok ? denied.result.value.reason : '';
    rights.push({
      action,
      allowed: denied === undefined,
      reason: denied
        ? `You may not ${denied.need.verb} ${denied.need.type.plural}${denied.need.subresource ? `/${denied.need.subresource}` : ''} in this cluster${detail ? `: ${detail}` : '.'}`
        : '',
    });
  }
  return ok(rights);
}
