import type { CheckResult } from '../../../contract/checks.ts';

/** What a check found. */
export interface Outcome {
  readonly status: 'passed' | 'warning' | 'failed' | 'skipped';
  readonly found: string;
  readonly expected: string;
  readonly fix?: string;
  readonly docs?: string;
  readonly evidence?: string;
}

/** One question: to a node, or to the cluster where `node` is "". */
export interface Check {
  readonly id: string;
  readonly title: string;
  readonly node: string;
  readonly group: string;
  /** An outcome, or the results of several questions that were asked at once (their ids are below this one's). */
  readonly run: (
    signal: AbortSignal,
  ) => Promise<Outcome | { readonly own: Outcome; readonly results: readonly CheckResult[] }>;
}

function resultOf({ id, title, node, group }: Omit<Check, 'run'>, outcome: Outcome): CheckResult {
  const { status, found, expected, fix = '', docs = '', evidence = '' } = outcome;
  return { id, title, node, group, status, found, expected, fix, docs, evidence };
}

/** A result of a check that was asked for together with others. */
export function partOf(check: Omit<Check, 'run'>, outcome: Outcome): CheckResult {
  return resultOf(check, outcome);
}

/**
 * Runs checks side by side, at most `parallel` at once, and reports each as it begins and as it ends. A check that
 * throws has failed; it never ends the run.
 */
export async function runChecks(
  checks: readonly Check[],
  signal: AbortSignal,
  parallel: number,
  report: (results: readonly CheckResult[]) => Promise<void>,
): Promise<void> {
  const queue = [...checks];
  const worker = async () => {
    for (let check = queue.shift(); check && !signal.aborted; check = queue.shift()) {
      await report([{ ...resultOf(check, { status: 'skipped', found: '', expected: '' }), status: 'running' }]);
      let answer: Awaited<ReturnType<Check['run']>>;
      try {
        answer = await check.run(signal);
      } catch (error) {
        answer = {
          status: 'failed',
          found: error instanceof Error ? error.message : String(error),
          expected: 'an answer',
          fix: 'Run it again; if it stays, look at the log of the console.',
        };
      }
      if (signal.aborted) return;
      await report('own' in answer ? [resultOf(check, answer.own), ...answer.results] : [resultOf(check, answer)]);
    }
  };
  await Promise.all(Array.from({ length: Math.min(parallel, checks.length) }, worker));
}

/** Aligns rows under their headings, for evidence. */
export function tableText(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  return [headings, ...rows]
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
