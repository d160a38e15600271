import { defaultValues, type ValueLeaf, type Values, valueAt, valueLeaves, valuesSchema, withValue } from './values.ts';

/** What reading a values file gave. */
export interface ImportedValues {
  readonly values: Values;
  /** Paths that were taken over. */
  readonly taken: readonly string[];
  /** What has no equivalent here, and why. */
  readonly ignored: readonly { readonly path: string; readonly value: string; readonly why: string }[];
  /** What has an equivalent but not this value. */
  readonly problems: readonly { readonly path: string; readonly why: string }[];
}

/** Old names, and names of other charts' versions. */
const synonyms: Readonly<Record<string, string>> = {
  nativeRoutingCIDR: 'ipv4NativeRoutingCIDR',
  'global.cluster.name': 'cluster.name',
  'nodePort.mode': 'loadBalancer.mode',
  'nodePort.algorithm': 'loadBalancer.algorithm',
  'nodePort.acceleration': 'loadBalancer.acceleration',
  'bpf-lb-acceleration': 'loadBalancer.acceleration',
  'node-port-acceleration': 'loadBalancer.acceleration',
  'enable-xdp-prefilter': 'enableXDPPrefilter',
  'hostServices.enabled': 'socketLB.enabled',
  'hostServices.hostNamespaceOnly': 'socketLB.hostNamespaceOnly',
  'prometheus.serviceMonitor.enabled': '',
  masquerade: 'enableIPv4Masquerade',
};

/** Why whole parts of Cilium's chart have no equivalent; the first that matches counts. */
const reasons: readonly (readonly [RegExp, string])[] = [
  [/^operator(\.|$)/, 'There is no operator: the agents share its duties by leases.'],
  [
    /^(image|preflight|nodeinit|certgen|startupScriptImage|imagePullSecrets)(\.|$)/,
    'The console brings its own image.',
  ],
  [/^envoy|^gatewayAPI|^ingressController/, 'There is no Envoy: HTTP rules are served by the agent’s own proxy.'],
  [/^clustermesh|^cluster\.id|^etcd(\.|$)|^externalWorkloads/, 'Several clusters are not joined in this version.'],
  [/^encryption/, 'Traffic between nodes is not encrypted in this version.'],
  [
    /^hubble\.ui/,
    'The console itself is the interface; Hubble UI can be installed beside it and works with the relay.',
  ],
  [/^hubble\.tls/, 'Certificates are made by the console.'],
  [/^ipam\.operator|^eni|^azure|^alibabacloud|^gke/, 'Addresses come from the pod CIDR of each node.'],
  [/^bgp/, 'Routes are not announced by BGP in this version.'],
  [/^egressGateway/, 'There is no egress gateway in this version.'],
  [
    /(resources|tolerations|affinity|nodeSelector|podAnnotations|podLabels|securityContext|updateStrategy)(\.|$)/,
    'How the agent’s pods are made is set by the console.',
  ],
];

type Tree = Readonly<Record<string, unknown>>;
const isTree = (value: unknown): value is Tree => typeof value === 'object' && value !== null && !Array.isArray(value);

function leaves(tree: Tree, before = ''): readonly (readonly [string, unknown])[] {
  return Object.entries(tree).flatMap(([key, value]) =>
    isTree(value) && Object.keys(value).length > 0
      ? leaves(value, `${before}${key}.`)
      : [[`${before}${key}`, value] as const],
  );
}

/** Brings a value of a chart to the type that the schema has: charts write numbers and booleans as texts, too. */
function adapted(value: unknown, like: ValueLeaf): unknown {
  if (value === null) return like;
  if (typeof like === 'boolean' && typeof value === 'string') {
    if (['true', 'strict', 'enabled'].includes(value)) return true;
    if (['false', 'disabled', ''].includes(value)) return false;
  }
  if (typeof like === 'number' && typeof value === 'string' && /^\d+(\.\d+)?$/.test(value)) return Number(value);
  if (typeof like === 'string' && typeof value === 'number') return String(value);
  if (Array.isArray(like) && typeof value === 'string') return value.split(/[\s,]+/).filter(Boolean);
  return value;
}

/**
 * Takes over a values file of this installation or of Cilium's chart, already read as YAML. Nothing is lost silently:
 * what has no equivalent is listed with the reason.
 */
export function importValues(document: unknown, onto: Values = defaultValues): ImportedValues {
  let values = onto;
  const taken: string[] = [];
  const ignored: { path: string; value: string; why: string }[] = [];
  const problems: { path: string; why: string }[] = [];
  if (document !== null && document !== undefined && !isTree(document))
    return { values, taken, ignored, problems: [{ path: '', why: 'A values file is a map of names to values.' }] };
  const known = new Set(valueLeaves(defaultValues).map(([path]) => path));
  for (const [written, value] of leaves(document ?? {})) {
    // Before 1.13 one value said both: "vxlan", "geneve" or "disabled".
    if (written === 'tunnel' && typeof value === 'string') {
      values = withValue(values, 'routingMode', value === 'disabled' ? 'native' : 'tunnel');
      if (value !== 'disabled') values = withValue(values, 'tunnelProtocol', value);
      taken.push(written);
      continue;
    }
    const path = known.has(written) ? written : (synonyms[written] ?? '');
    if (!known.has(path)) {
      const why = reasons.find(([pattern]) => pattern.test(written))?.[1] ?? 'There is no such value here.';
      ignored.push({ path: written, value: JSON.stringify(value) ?? '', why });
      continue;
    }
    const changed = withValue(values, path, adapted(value, valueAt(defaultValues, path) as ValueLeaf) as ValueLeaf);
    const checked = valuesSchema.safeParse(changed);
    if (checked.success) {
      values = checked.data;
      taken.push(written);
    } else problems.push({ path: written, why: problemText(checked.error.issues[0]) });
  }
  return { values, taken, ignored, problems };
}

/** What is wrong with a value, for the operator; the schema's own message names no alternatives. */
export function problemText(
  issue: { readonly code?: string | undefined; readonly message: string; readonly values?: unknown } | undefined,
): string {
  const allowed = (issue as { readonly values?: readonly string[] } | undefined)?.values;
  return allowed ? `It must be one of ${allowed.join(', ')}.` : (issue?.message ?? 'This value is not possible.');
}
