import { type KubeObject, type ResourceType, resources } from '../kube/cluster-connection.ts';
import { type Attempted, type Bed, type Case, type Need, type PodName, socket, url } from './bed.ts';

/** What has to become of a connection while a policy is there. */
interface Trial {
  readonly from: PodName;
  readonly args: (bed: Bed) => readonly string[];
  readonly allowed: boolean;
}

/** How long a policy may take until it is enforced everywhere, in milliseconds. */
const enforcement = 8000;
const pause = 250;

function sentence({ from, allowed }: Trial, attempted: Attempted, bed: Bed, args: readonly string[]): string {
  const wish = allowed ? 'should work' : 'should be denied';
  const came = attempted.ok ? 'works' : `fails by ${attempted.kind}`;
  return `${from} → ${(args[1] ?? '').replace(bed.namespace, '…')} ${wish} and ${came}`;
}

function wait(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    signal.addEventListener('abort', end, { once: true });
  });
}

/** Asks until everything is as expected, or the time is over; then says what is not. */
async function settle(bed: Bed, trials: readonly Trial[]): Promise<readonly string[]> {
  const end = Date.now() + enforcement;
  for (;;) {
    const wrong: string[] = [];
    for (const trial of trials) {
      const args = [...trial.args(bed), '--timeout', '700ms'];
      const attempted = await bed.ask(trial.from, args);
      if (attempted.ok !== trial.allowed) wrong.push(sentence(trial, attempted, bed, args));
    }
    if (wrong.length === 0 || Date.now() > end || bed.signal.aborted) return wrong;
    await wait(pause, bed.signal);
  }
}

/** Applies a policy, tries, takes it away, and tries that everything is open again. */
function withPolicy(type: ResourceType, spec: (bed: Bed) => object, trials: readonly Trial[]): Case['run'] {
  return async (bed) => {
    const name = 'trial';
    const made = await bed.create(type, {
      apiVersion: `${type.group}/${type.version}`,
      kind: type.kind,
      metadata: { name },
      spec: spec(bed),
    } as KubeObject);
    if (!made.ok) return { passed: false, message: `${made.failure.what} ${made.failure.why}` };
    let wrong: readonly string[];
    try {
      wrong = await settle(bed, trials);
    } finally {
      await bed.remove(type, name);
    }
    const left = await settle(
      bed,
      trials.map((trial) => ({ ...trial, allowed: true })),
    );
    if (wrong.length > 0) return { passed: false, message: wrong.join('; ') };
    if (left.length > 0) return { passed: false, message: `after the policy was removed: ${left.join('; ')}` };
    return {
      passed: true,
      message: `${trials.filter((trial) => trial.allowed).length} allowed, ${trials.filter((trial) => !trial.allowed).length} denied, as it says; open again afterwards`,
    };
  };
}

/** Policies of both kinds: what they deny is denied, what they allow works, and nothing of them stays. */
export function policyCases(port: number): readonly Case[] {
  const at = (bed: Bed, pod: PodName) => bed.pods.get(pod)?.address ?? '';
  const http = (from: PodName, to: PodName, allowed: boolean, on = port): Trial => ({
    from,
    allowed,
    args: (bed) => ['http', url(at(bed, to), on)],
  });
  const udp = (from: PodName, to: PodName, allowed: boolean): Trial => ({
    from,
    allowed,
    args: (bed) => ['udp', socket(at(bed, to), port)],
  });
  const resolves = (from: PodName, allowed: boolean): Trial => ({
    from,
    allowed,
    args: (bed) => ['name', `web.${bed.namespace}.svc.cluster.local`],
  });
  const selected = (name: PodName) => ({ podSelector: { matchLabels: { name } } });
  const by = (name: PodName) => ({ endpointSelector: { matchLabels: { name } } });
  const kubernetes = resources.networkPolicies;
  const cilium = resources.ciliumNetworkPolicies;
  const two: readonly Need[] = ['two nodes'];
  const dns = {
    ports: [
      { protocol: 'UDP', port: 53 },
      { protocol: 'TCP', port: 53 },
    ],
  };
  const rows: readonly (readonly [string, string, string, Case['run'], (readonly Need[])?])[] = [
    [
      'policy-deny-ingress',
      'NetworkPolicy: nobody may come in',
      'both are denied',
      withPolicy(kubernetes, () => ({ ...selected('near'), policyTypes: ['Ingress'] }), [
        http('client', 'near', false),
        http('other', 'near', false),
      ]),
    ],
    [
      'policy-allow-label',
      'NetworkPolicy: only one client may come in',
      'client works, other is denied',
      withPolicy(kubernetes, () => ({ ...selected('near'), ingress: [{ from: [selected('client')] }] }), [
        http('client', 'near', true),
        http('other', 'near', false),
      ]),
    ],
    [
      'policy-allow-label-far',
      'NetworkPolicy: the same from another node',
      'client works, other is denied',
      withPolicy(kubernetes, () => ({ ...selected('far'), ingress: [{ from: [selected('client')] }] }), [
        http('client', 'far', true),
        http('other', 'far', false),
      ]),
      two,
    ],
    [
      'policy-allow-port',
      'NetworkPolicy: only one port',
      'TCP works, UDP is denied',
      withPolicy(kubernetes, () => ({ ...selected('near'), ingress: [{ ports: [{ protocol: 'TCP', port }] }] }), [
        http('client', 'near', true),
        udp('client', 'near', false),
      ]),
    ],
    [
      'policy-deny-egress',
      'NetworkPolicy: a pod may not go out',
      'it is denied, others work',
      withPolicy(kubernetes, () => ({ ...selected('other'), policyTypes: ['Egress'] }), [
        http('other', 'near', false),
        http('client', 'near', true),
      ]),
    ],
    [
      'policy-allow-egress',
      'NetworkPolicy: only names and one pod',
      'near and names work, far is denied',
      withPolicy(
        kubernetes,
        () => ({ ...selected('other'), policyTypes: ['Egress'], egress: [dns, { to: [selected('near')] }] }),
        [http('other', 'near', true), resolves('other', true), http('other', 'far', false)],
      ),
      two,
    ],
    [
      'policy-namespace',
      'NetworkPolicy: only this namespace',
      'client works',
      withPolicy(
        kubernetes,
        (bed) => ({
          ...selected('near'),
          ingress: [
            { from: [{ namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': bed.namespace } } }] },
          ],
        }),
        [http('client', 'near', true), http('other', 'near', true)],
      ),
    ],
    [
      'cilium-allow',
      'CiliumNetworkPolicy: by labels and port',
      'client works, other is denied',
      withPolicy(
        cilium,
        () => ({
          ...by('near'),
          ingress: [
            {
              fromEndpoints: [{ matchLabels: { name: 'client' } }],
              toPorts: [{ ports: [{ port: String(port), protocol: 'TCP' }] }],
            },
          ],
        }),
        [http('client', 'near', true), http('other', 'near', false), udp('client', 'near', false)],
      ),
    ],
    [
      'cilium-deny',
      'CiliumNetworkPolicy: a denial beats what is allowed',
      'other is denied, client works',
      withPolicy(
        cilium,
        () => ({
          ...by('near'),
          ingress: [{ fromEntities: ['all'] }],
          ingressDeny: [{ fromEndpoints: [{ matchLabels: { name: 'other' } }] }],
        }),
        [http('other', 'near', false), http('client', 'near', true)],
      ),
    ],
    [
      'cilium-entities',
      'CiliumNetworkPolicy: only from the cluster',
      'client works',
      withPolicy(cilium, () => ({ ...by('near'), ingress: [{ fromEntities: ['cluster'] }] }), [
        http('client', 'near', true),
      ]),
    ],
  ];
  return rows.map(([id, title, expected, run, needs = []]) => ({ id, title, group: 'Policies', expected, run, needs }));
}
