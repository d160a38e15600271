import { z } from 'zod/mini';

/** A check is data: what was found, what was expected, how to mend it. One runner runs them, one component draws them. */
export const checkResultSchema = z.object({
  id: z.string(),
  title: z.string(),
  node: z.string(),
  status: z.enum(['passed', 'warning', 'failed', 'skipped', 'running']),
  found: z.string(),
  expected: z.string(),
  fix: z.string(),
  docs: z.string(),
  evidence: z.string(),
});
export type CheckResult = Readonly<z.infer<typeof checkResultSchema>>;
