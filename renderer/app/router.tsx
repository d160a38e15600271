import {
  createHashHistory,
  createRootRoute,
  createRoute,
  createRouter,
  lazyRouteComponent,
  redirect,
  retainSearchParams,
} from '@tanstack/react-router';
import { CrashCard, NotFound } from './crash.tsx';
import { Frame } from './frame.tsx';

type Raw = Readonly<Record<string, unknown>>;

/** A text from the address, or nothing: whatever else stands there is ignored. */
function text(raw: Raw, key: string): string | undefined {
  const value = raw[key];
  return typeof value === 'string' && value !== '' ? value : typeof value === 'number' ? String(value) : undefined;
}

/** Keeps only what is set, so that addresses stay short. */
function pick<K extends string>(raw: Raw, keys: readonly K[]): { readonly [P in K]?: string } {
  const found: { [P in K]?: string } = {};
  for (const key of keys) {
    const value = text(raw, key);
    if (value !== undefined) found[key] = value;
  }
  return found;
}

/** The part of a search string that stands in the hash. */
function ownSearch(search: string): string {
  const page = location.search;
  return page && search.endsWith(page) ? search.slice(0, -page.length) : search;
}

const rootRoute = createRootRoute({
  component: Frame,
  notFoundComponent: NotFound,
  errorComponent: CrashCard,
  validateSearch: (raw: Raw) => pick(raw, ['cluster']),
  search: { middlewares: [retainSearchParams(['cluster'])] },
});

const indexRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: '/',
  beforeLoad: () => {
    throw redirect({ to: '/clusters' });
  },
});

const clustersView = lazyRouteComponent(() => import('../views/clusters/clusters-view.tsx'), 'ClustersView');
const clustersRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: '/clusters',
  validateSearch: (raw: Raw) => pick(raw, ['tab', 'node']),
  component: clustersView,
});
const clusterRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: '/clusters/$id',
  validateSearch: (raw: Raw) => pick(raw, ['tab', 'node']),
  component: clustersView,
});

const topologyRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: '/topology',
  validateSearch: (raw: Raw) => pick(raw, ['scope', 'group', 'namespaces', 'find', 'select', 'view', 'hide']),
  component: lazyRouteComponent(() => import('../views/topology/topology-view.tsx'), 'TopologyView'),
});

const flowsRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: '/flows',
  validateSearch: (raw: Raw) => pick(raw, ['filter', 'since']),
  component: lazyRouteComponent(() => import('../views/flows/flows-view.tsx'), 'FlowsView'),
});

const policiesView = lazyRouteComponent(() => import('../views/policies/policies-view.tsx'), 'PoliciesView');
const policySearch = (raw: Raw) => pick(raw, ['find', 'edit', 'new', 'template']);
const policiesRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: '/policies',
  validateSearch: policySearch,
  component: policiesView,
});
const newPolicyRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: '/policies/new',
  validateSearch: policySearch,
  component: policiesView,
});
const policyRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: '/policies/$kind/$namespace/$name',
  validateSearch: policySearch,
  component: policiesView,
});

const terminalRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: '/terminal',
  validateSearch: (raw: Raw) => pick(raw, ['pod', 'node', 'container', 'debug']),
  component: lazyRouteComponent(() => import('../views/terminal/terminal-view.tsx'), 'TerminalView'),
});

const explainRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: '/explain',
  validateSearch: (raw: Raw) => pick(raw, ['from', 'to', 'protocol', 'family', 'port']),
  component: lazyRouteComponent(() => import('../views/explain/explain-view.tsx'), 'ExplainView'),
});

const logsRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: '/logs',
  validateSearch: (raw: Raw) => pick(raw, ['pods']),
  component: lazyRouteComponent(() => import('../views/logs/logs-view.tsx'), 'LogsView'),
});

const supportRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: '/support',
  component: lazyRouteComponent(() => import('../views/support/support-view.tsx'), 'SupportView'),
});

const auditRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: '/audit',
  component: lazyRouteComponent(() => import('../views/audit/audit-view.tsx'), 'AuditView'),
});

export const router = createRouter({
  routeTree: rootRoute.addChildren([
    indexRoute,
    clustersRoute,
    clusterRoute,
    topologyRoute,
    flowsRoute,
    policiesRoute,
    newPolicyRoute,
    policyRoute,
    terminalRoute,
    explainRoute,
    logsRoute,
    auditRoute,
    supportRoute,
  ]),
  history: createHashHistory(),
  defaultPreload: 'intent',
  defaultErrorComponent: CrashCard,
  // Plain words in addresses instead of JSON: every value is a text.
  // The hash history appends the page's own query; it is not ours to read.
  parseSearch: (search) => Object.fromEntries(new URLSearchParams(ownSearch(search))),
  stringifySearch: (search) => {
    const params = new URLSearchParams();
    for (const [key, value] of Object.entries(search))
      if (value !== undefined && value !== '') params.set(key, String(value));
    const string = params.toString();
    return string ? `?${string}` : '';
  },
});

declare module '@tanstack/react-router' {
  interface Register {
    router: typeof router;
  }
}
