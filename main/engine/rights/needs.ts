import type { Action } from '../../../contract/rights.ts';
import { agentNamespace } from '../install/names.ts';
import { neededRights } from '../install/read.ts';
import { type ResourceType, resources } from '../kube/cluster-connection.ts';

/** One right. `where`: the namespace that is asked about, one of its own, or the cluster. */
export interface Need {
  readonly verb: string;
  readonly type: Pick<ResourceType, 'group' | 'plural'>;
  readonly subresource?: string;
  readonly where: 'given' | 'cluster' | { readonly namespace: string };
}

const agents = { namespace: agentNamespace } as const;
const jobs = { group: 'batch', plural: 'jobs' } as const;

/** A WebSocket is opened with GET: older API servers ask for get, newer ones for create as well. */
const connect = (subresource: string, where: Need['where']): readonly Need[] =>
  ['get', 'create'].map((verb) => ({ verb, type: resources.pods, subresource, where }));
const pods = (verbs: readonly string[], where: Need['where']): readonly Need[] =>
  verbs.map((verb) => ({ verb, type: resources.pods, where }));

const installing = (action: 'install' | 'upgrade' | 'uninstall'): readonly Need[] =>
  neededRights(action).map(({ verb, type, namespace }) => ({
    verb,
    type,
    where: namespace === '' ? 'cluster' : { namespace },
  }));

const policy = (verb: string, type: ResourceType): readonly Need[] => [
  { verb, type, where: type.namespaced ? 'given' : 'cluster' },
];

const known = new Map<Action, readonly Need[]>();

/** Rights that an action needs beside those to read what it is about. */
export function needsOf(action: Action): readonly Need[] {
  const needs = known.get(action) ?? listNeeds(action);
  known.set(action, needs);
  return needs;
}

function listNeeds(action: Action): readonly Need[] {
  switch (action) {
    case 'clusters.deletePod':
      return pods(['delete'], 'given');
    case 'terminals.open':
      return connect('exec', 'given');
    case 'terminals.debug':
      return [
        { verb: 'patch', type: resources.pods, subresource: 'ephemeralcontainers', where: 'given' },
        ...connect('exec', 'given'),
      ];
    case 'terminals.nodePod':
      return [...pods(['create', 'delete'], agents), ...connect('exec', agents)];
    case 'agents.reach':
      return connect('portforward', agents);
    case 'connectivity.start':
      // The test's namespace has no name yet: what is done in it must be allowed everywhere.
      return [
        ...['create', 'delete'].map((verb): Need => ({ verb, type: resources.namespaces, where: 'cluster' })),
        ...[resources.pods, resources.services, jobs, resources.networkPolicies, resources.ciliumNetworkPolicies].map(
          (type): Need => ({ verb: 'create', type, where: 'cluster' }),
        ),
        ...connect('exec', 'cluster'),
      ];
    case 'install.install':
      return installing('install');
    case 'install.upgrade':
      return installing('upgrade');
    case 'install.uninstall':
      return installing('uninstall');
    case 'policies.create.CiliumNetworkPolicy':
      return policy('create', resources.ciliumNetworkPolicies);
    case 'policies.update.CiliumNetworkPolicy':
      return policy('update', resources.ciliumNetworkPolicies);
    case 'policies.remove.CiliumNetworkPolicy':
      return policy('delete', resources.ciliumNetworkPolicies);
    case 'policies.create.CiliumClusterwideNetworkPolicy':
      return policy('create', resources.ciliumClusterwideNetworkPolicies);
    case 'policies.update.CiliumClusterwideNetworkPolicy':
      return policy('update', resources.ciliumClusterwideNetworkPolicies);
    case 'policies.remove.CiliumClusterwideNetworkPolicy':
      return policy('delete', resources.ciliumClusterwideNetworkPolicies);
    case 'policies.create.NetworkPolicy':
      return policy('create', resources.networkPolicies);
    case 'policies.update.NetworkPolicy':
      return policy('update', resources.networkPolicies);
    case 'policies.remove.NetworkPolicy':
      return policy('delete', resources.networkPolicies);
  }
}
