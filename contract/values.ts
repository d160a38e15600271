import { z } from 'zod/mini';

const flag = (value: boolean) => z._default(z.boolean(), value);
const text = (value: string) => z._default(z.string(), value);
const count = (value: number) => z._default(z.number(), value);
const texts = () => z._default(z.readonly(z.array(z.string())), []);
/** A group of values: whatever is left out of it, or the whole group, has its default. */
const group = <S extends z.core.$ZodShape>(shape: S) => z.prefault(z.object(shape), {} as never);

/**
 * The values of an installation, with the names and units that Cilium's chart has for them. A value left out has its
 * default, which is the agent's own. What each means to an operator is in value-fields.ts.
 */
export const valuesSchema = z.object({
  debug: flag(false),
  cluster: group({ name: text('default') }),
  ipv4: group({ enabled: flag(true) }),
  ipv6: group({ enabled: flag(false) }),
  ipam: group({ mode: z._default(z.enum(['kubernetes']), 'kubernetes') }),
  k8sServiceHost: text(''),
  k8sServicePort: count(0),
  routingMode: z._default(z.enum(['tunnel', 'native']), 'tunnel'),
  tunnelProtocol: z._default(z.enum(['vxlan', 'geneve']), 'vxlan'),
  /** 0: the protocol's own (8472 or 6081). */
  tunnelPort: count(0),
  autoDirectNodeRoutes: flag(false),
  endpointRoutes: group({ enabled: flag(true) }),
  ipv4NativeRoutingCIDR: text(''),
  ipv6NativeRoutingCIDR: text(''),
  MTU: count(0),
  devices: texts(),
  enableIPv4Masquerade: flag(true),
  enableIPv6Masquerade: flag(true),
  bpf: group({
    masquerade: flag(true),
    monitorAggregation: z._default(z.enum(['medium', 'none']), 'medium'),
    mapDynamicSizeRatio: count(0.0025),
    /** 0: worked out from the node's memory. */
    ctTcpMax: count(0),
    natMax: count(0),
    lbMapMax: count(0),
    policyMapMax: count(0),
    ipcacheMax: count(0),
  }),
  conntrackGCInterval: text(''),
  ipMasqAgent: group({
    enabled: flag(false),
    config: group({ nonMasqueradeCIDRs: texts(), masqLinkLocal: flag(false), masqLinkLocalIPv6: flag(false) }),
  }),
  installNoConntrackIptablesRules: flag(false),
  bandwidthManager: group({ enabled: flag(false) }),
  healthChecking: flag(true),
  kubeProxyReplacement: flag(true),
  loadBalancer: group({
    mode: z._default(z.enum(['snat', 'dsr', 'hybrid']), 'snat'),
    algorithm: z._default(z.enum(['random', 'maglev']), 'random'),
    acceleration: z._default(z.enum(['disabled', 'native', 'best-effort']), 'best-effort'),
    // The other two are here so that they can be refused with the reason.
    dsrDispatch: z._default(z.enum(['opt', 'geneve', 'ipip']), 'opt'),
  }),
  maglev: group({ tableSize: count(16381), hashSeed: text('') }),
  nodePort: group({ range: text('30000,32767') }),
  externalIPs: group({ enabled: flag(true), fromPods: flag(false) }),
  hostPort: group({ enabled: flag(true) }),
  socketLB: group({ enabled: flag(true), hostNamespaceOnly: flag(false) }),
  sessionAffinity: flag(true),
  enableXDPPrefilter: flag(false),
  xdpPrefilter: group({ cidrs: texts(), cidrGroups: texts() }),
  policyEnforcementMode: z._default(z.enum(['default', 'always', 'never']), 'default'),
  policyCIDRMatchMode: texts(),
  policyAuditMode: flag(false),
  nodeSelectorLabels: flag(false),
  hostFirewall: group({ enabled: flag(false), auditMode: flag(false) }),
  l7Proxy: flag(true),
  dnsProxy: group({ minTtl: count(0), maxIPsPerHost: count(50), proxyResponseMaxDelay: text('100ms') }),
  l2announcements: group({
    enabled: flag(false),
    leaseDuration: text('15s'),
    leaseRenewDeadline: text('5s'),
    leaseRetryPeriod: text('2s'),
  }),
  hubble: group({
    enabled: flag(true),
    listenAddress: text(':4244'),
    eventBufferCapacity: count(4095),
    relay: group({ enabled: flag(false) }),
  }),
  prometheus: group({ enabled: flag(true), port: count(9962) }),
  cni: group({
    exclusive: flag(false),
    /** Where the node's container runtime looks; the console mounts these into the agent. */
    binPath: text('/opt/cni/bin'),
    confPath: text('/etc/cni/net.d'),
  }),
});
export type Values = Readonly<z.infer<typeof valuesSchema>>;

/** One value: a leaf of the schema. */
export type ValueLeaf = boolean | number | string | readonly string[];

type Tree = Readonly<Record<string, unknown>>;

function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Every value with its path ("bpf.masquerade"), in the order of the schema. */
export function valueLeaves(values: Values): readonly (readonly [string, ValueLeaf])[] {
  const walk = (tree: Tree, before: string): readonly (readonly [string, ValueLeaf])[] =>
    Object.entries(tree).flatMap(([key, value]) =>
      isTree(value) ? walk(value, `${before}${key}.`) : [[`${before}${key}`, value as ValueLeaf] as const],
    );
  return walk(values, '');
}

/** The value at a path; undefined where the schema has none. */
export function valueAt(values: Values, path: string): ValueLeaf | undefined {
  let at: unknown = values;
  for (const key of path.split('.')) at = isTree(at) ? at[key] : undefined;
  return isTree(at) ? undefined : (at as ValueLeaf | undefined);
}

function put(tree: Tree, [key, ...rest]: readonly string[], value: unknown): Tree {
  if (key === undefined) return tree;
  const below = tree[key];
  return { ...tree, [key]: rest.length === 0 ? value : put(isTree(below) ? below : {}, rest, value) };
}

/** The values with one of them changed. */
export function withValue(values: Values, path: string, value: ValueLeaf): Values {
  return put(values, path.split('.'), value) as unknown as Values;
}

/** All defaults. */
export const defaultValues: Values = valuesSchema.parse({});

/** Only what differs from the defaults, as a tree: what a values file needs to say. */
export function changedValues(values: Values): Tree {
  let out: Tree = {};
  for (const [path, value] of valueLeaves(values))
    if (JSON.stringify(value) !== JSON.stringify(valueAt(defaultValues, path))) out = put(out, path.split('.'), value);
  return out;
}
