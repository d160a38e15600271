import type { CheckResult } from '../../../contract/checks.ts';

/** What a node's newest check of one kind found. */
export type Finding = Pick<CheckResult, 'status' | 'found'>;

/** The newest findings of checks on nodes, kept as long as the console runs: plans are held against them. */
export class Findings {
  readonly #found = new Map<string, Finding>();

  /** Takes results over; those of checks that have not ended say nothing yet. */
  note(cluster: string, results: readonly CheckResult[]): void {
    for (const { node, id, status, found } of results)
      if (node !== '' && status !== 'running') this.#found.set(`${cluster} ${node} ${id}`, { status, found });
  }

  /** What a check found on a node; undefined where it was not asked. */
  of(cluster: string, node: string, id: string): Finding | undefined {
    return this.#found.get(`${cluster} ${node} ${id}`);
  }
}
