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
  /** The actual output that the judgement rests on. */
  evidence: z.string(),
  /** What it belongs to, e.g. "NAT". */
  group: z._default(z.string(), ''),
});
export type CheckResult = Readonly<z.infer<typeof checkResultSchema>>;

/** Results that are new or have changed; a check is known by its id and node ("" for the cluster). */
export const checkBatchSchema = z.object({ results: z.readonly(z.array(checkResultSchema)) });
export type CheckBatch = Readonly<z.infer<typeof checkBatchSchema>>;

/** Results as a report in Markdown: one table per node, with what to do. */
export function checksMarkdown(title: string, results: readonly CheckResult[]): string {
  const cell = (text: string) => text.replace(/\|/g, '\\|').replace(/\s+/g, ' ').trim();
  const nodes = [...new Set(results.map((result) => result.node))];
  const count = (status: CheckResult['status']) => results.filter((result) => result.status === status).length;
  const lines = [
    `# ${title}`,
    '',
    `${count('passed')} passed, ${count('warning')} with a warning, ${count('failed')} failed, ${count('skipped')} skipped.`,
  ];
  for (const node of nodes) {
    lines.push(
      '',
      `## ${node || 'Cluster'}`,
      '',
      '| status | check | found | expected | fix |',
      '| --- | --- | --- | --- | --- |',
    );
    for (const one of results.filter((result) => result.node === node))
      lines.push(`| ${[one.status, one.title, one.found, one.expected, one.fix].map(cell).join(' | ')} |`);
  }
  return `${lines.join('\n')}\n`;
}
