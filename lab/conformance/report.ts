/** What Ginkgo reports, and the table made of it. */

import { decisions } from './selection.ts';

/** How a test ended. `unstable` failed beside others and passed when it was run once more, alone. */
export type Outcome = 'passed' | 'unstable' | 'failed' | 'not run';

/** One test of the table. */
export interface Result {
  readonly name: string;
  readonly outcome: Outcome;
  readonly seconds: number;
  /** Why it failed or was not run. */
  readonly reason?: string;
}

/** The fields of a Ginkgo JSON report that are read here. */
export interface GinkgoSpec {
  readonly ContainerHierarchyTexts: readonly string[] | null;
  readonly LeafNodeType: string;
  readonly LeafNodeText: string;
  readonly State: string;
  readonly RunTime: number;
  readonly Failure?: { readonly Message?: string };
}
export interface GinkgoReport {
  readonly SpecReports: readonly GinkgoSpec[] | null;
}

/** A test's full name as the suite lists it. */
export function fullName(spec: GinkgoSpec): string {
  return [...(spec.ContainerHierarchyTexts ?? []), spec.LeafNodeText]
    .filter((text) => text !== '')
    .join(' ')
    .trim();
}

const firstLines = (text: string): string =>
  text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .slice(0, 3)
    .join(' ')
    .slice(0, 400);

/** How one test ended, as Ginkgo says it. */
export interface Ended {
  readonly name: string;
  readonly state: string;
  readonly seconds: number;
  readonly message: string;
}

/**
 * The tests that ended. Those that did not begin are left out, and, where the time was over, those that this cut off.
 */
export function ended(reports: readonly GinkgoReport[], timeOver: boolean): Ended[] {
  return reports
    .flatMap((report) => report.SpecReports ?? [])
    .filter((spec) => spec.LeafNodeType === 'It' && (spec.State !== 'skipped' || spec.Failure !== undefined))
    .filter((spec) => !(timeOver && ['interrupted', 'timedout', 'aborted'].includes(spec.State)))
    .map((spec) => ({
      name: fullName(spec),
      state: spec.State,
      seconds: Math.round(spec.RunTime / 1e8) / 10,
      message: firstLines(spec.Failure?.Message ?? ''),
    }));
}

/** What became of each test that was to run. */
export function results(names: readonly string[], ends: readonly Ended[]): Result[] {
  const byName = new Map(ends.map((end) => [end.name, end]));
  return names.map((name) => {
    const end = byName.get(name);
    if (end === undefined)
      return { name, outcome: 'not run', seconds: 0, reason: 'the time given to this run was over' };
    const { state, seconds, message } = end;
    if (state === 'passed') return { name, outcome: 'passed', seconds };
    if (state === 'skipped' || state === 'pending')
      return { name, outcome: 'not run', seconds, reason: `the test itself says: ${message || state}` };
    return { name, outcome: 'failed', seconds, reason: message || state };
  });
}

/** The parts of the table, in its order; the first that fits a test has it. */
export const groups: readonly (readonly [string, (name: string) => boolean])[] = [
  ['conformance', (name) => name.includes('[Conformance]')],
  ['network policy', (name) => /\[Feature:NetworkPolicy\]|Netpol/.test(name)],
  ['dual stack', (name) => name.includes('[Feature:IPv6DualStack]')],
  ['other sig-network tests', () => true],
];

const short = (name: string): string => name.replace('[sig-network] ', '').replaceAll('|', '\\|');

/** The table as Markdown: sums, what failed, what was not run by reason, what passed. */
export function markdown(all: readonly Result[], heading: readonly string[]): string {
  const lines = [...heading, '', '| tests | passed | failed | not run |', '| --- | ---: | ---: | ---: |'];
  const rest = new Set(all);
  const row = (title: string, list: readonly Result[]): void => {
    const count = (...outcomes: Outcome[]): number => list.filter((result) => outcomes.includes(result.outcome)).length;
    lines.push(`| ${title} | ${count('passed', 'unstable')} | ${count('failed')} | ${count('not run')} |`);
  };
  for (const [title, fits] of groups) {
    const list = [...rest].filter((result) => fits(result.name));
    for (const result of list) rest.delete(result);
    if (list.length > 0) row(title, list);
  }
  row('all', all);
  const failed = all.filter((result) => result.outcome === 'failed');
  lines.push('', '## Failed', '');
  if (failed.length === 0) lines.push('None.');
  for (const { name, reason } of failed) {
    const decided = decisions.find((decision) => decision.pattern.test(name));
    lines.push(`- ${short(name)}: ${reason ?? ''}${decided === undefined ? '' : ` (${decided.reason})`}`);
  }
  const unstable = all.filter((result) => result.outcome === 'unstable');
  if (unstable.length > 0) {
    lines.push('', '## Passed only when run again, alone', '');
    for (const { name, reason } of unstable) lines.push(`- ${short(name)}: ${reason ?? ''}`);
  }
  lines.push('', '## Not run', '');
  const reasons = new Map<string, string[]>();
  for (const { name, outcome, reason } of all)
    if (outcome === 'not run') reasons.set(reason ?? '', [...(reasons.get(reason ?? '') ?? []), name]);
  if (reasons.size === 0) lines.push('None.');
  for (const [reason, names] of reasons)
    lines.push(`- ${reason} (${names.length}):`, ...names.map((name) => `  - ${short(name)}`));
  lines.push('', '## Passed', '');
  for (const { name, outcome, seconds } of all) if (outcome === 'passed') lines.push(`- ${short(name)} (${seconds} s)`);
  return `${lines.join('\n')}\n`;
}
