import type { KubeObject } from '../kube/cluster-connection.ts';
import { type PolicyEngine, policyEngine } from '../policies/wasm/policy-engine.ts';
import type { PolicyPod } from '../policies/wasm/types.ts';

/** Pods that some policy puts default deny on, by index. */
export interface Isolation {
  readonly ingress: ReadonlySet<number>;
  readonly egress: ReadonlySet<number>;
}

const nobody: Isolation = { ingress: new Set(), egress: new Set() };

/** Finds out by the agents' own policy engine which pods are isolated. Without the engine nobody is said to be. */
export async function findIsolation(
  policies: readonly KubeObject[],
  pods: readonly PolicyPod[],
  load: () => Promise<PolicyEngine> = policyEngine,
): Promise<Isolation> {
  if (policies.length === 0 || pods.length === 0) return nobody;
  const engine = await load().catch(() => undefined);
  if (!engine) return nobody;
  const ingress = new Set<number>();
  const egress = new Set<number>();
  for (const policy of policies) {
    const { valid, defaultDenyIngress, defaultDenyEgress } = engine.validate(policy);
    if (!valid || (!defaultDenyIngress && !defaultDenyEgress)) continue;
    for (const index of engine.selected({ policy, pods }).pods) {
      if (defaultDenyIngress) ingress.add(index);
      if (defaultDenyEgress) egress.add(index);
    }
  }
  return { ingress, egress };
}
