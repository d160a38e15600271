import { z } from 'zod/mini';
import { clusterIdSchema } from './clusters.ts';
import { reads } from './procedure.ts';

/** What the console can do that needs a right in the cluster, beyond reading. */
export const actionSchema = z.enum([
  'clusters.deletePod',
  'terminals.open',
  'terminals.debug',
  'terminals.nodePod',
  'agents.reach',
  'connectivity.start',
  'install.install',
  'install.upgrade',
  'install.uninstall',
  'policies.create.CiliumNetworkPolicy',
  'policies.update.CiliumNetworkPolicy',
  'policies.remove.CiliumNetworkPolicy',
  'policies.create.CiliumClusterwideNetworkPolicy',
  'policies.update.CiliumClusterwideNetworkPolicy',
  'policies.remove.CiliumClusterwideNetworkPolicy',
  'policies.create.NetworkPolicy',
  'policies.update.NetworkPolicy',
  'policies.remove.NetworkPolicy',
]);
export type Action = z.infer<typeof actionSchema>;

export const rightsReviewSchema = z.object({
  /** As the API server knows who asks; "" where it does not say. */
  user: z.string(),
  /** `reason`: what is missing and what to ask for, in a sentence; "" when allowed. */
  rights: z.readonly(z.array(z.object({ action: actionSchema, allowed: z.boolean(), reason: z.string() }))),
});
export type RightsReview = Readonly<z.infer<typeof rightsReviewSchema>>;

export const rights = {
  /** What this user may do in a namespace; "" for: in all of them. `anew`: nothing that was answered before counts. */
  review: reads(
    z.object({ cluster: clusterIdSchema, namespace: z.string(), anew: z.optional(z.boolean()) }),
    rightsReviewSchema,
  ),
} as const;
