/**
 * One line of the table: a value, what it is compared with if with anything, and the budget. A budget is of the ratio
 * where there is a baseline, else of the value; `limit` says on which side of it is good.
 */
export interface Row {
  readonly what: string;
  readonly value: number;
  readonly unit?: string;
  readonly baseline?: number;
  readonly against?: string;
  readonly ratio?: number;
  readonly budget?: number;
  readonly limit?: 'least' | 'most';
  /** What a reader has to know to judge the figure. */
  readonly note?: string;
}

/** A row that is a ratio. */
export function ratio(
  what: string,
  value: number,
  baseline: number,
  against: string,
  budget?: number,
  note?: string,
): Row {
  return {
    what,
    value,
    baseline,
    against,
    ratio: value / baseline,
    ...(budget === undefined ? {} : { budget }),
    ...(note === undefined ? {} : { note }),
  };
}

/**
 * A row of two that were measured in turns, the same number of times each: the ratio is the median of the rounds' ratios,
 * which what else the machine did in one of the rounds cannot move far; the values are medians too.
 */
export function paired(
  what: string,
  values: readonly number[],
  baselines: readonly number[],
  against: string,
  budget?: number,
): Row {
  const ratios = values.map((value, round) => value / (baselines[round] ?? Number.NaN));
  const [low, high] = [quantile(ratios, 0.25).toFixed(2), quantile(ratios, 0.75).toFixed(2)];
  const spread = `the middle half of ${ratios.length} turns is ${low} to ${high}`;
  return { ...ratio(what, median(values), median(baselines), against, budget, spread), ratio: median(ratios) };
}

/** A row whose value itself must be at most (or at least) the budget. */
export function absolute(
  what: string,
  value: number,
  unit: string,
  budget: number,
  limit: 'least' | 'most',
  note?: string,
): Row {
  return { what, value, unit, budget, limit, ...(note === undefined ? {} : { note }) };
}

/** The middle value; NaN of nothing. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

/** The value that a share of all values does not exceed; NaN of nothing. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

/** A figure for people: 12.3 k, 4.56 G. */
export function short(value: number): string {
  for (const [unit, size] of [
    ['G', 1e9],
    ['M', 1e6],
    ['k', 1e3],
  ] as const) {
    if (Math.abs(value) >= size) return `${(value / size).toFixed(value / size >= 100 ? 0 : 1)} ${unit}`;
  }
  return Math.abs(value) < 10 ? value.toFixed(2) : value.toFixed(0);
}

/** Whether a row keeps its budget; undefined when it has none. */
export function met(row: Row): boolean | undefined {
  if (row.budget === undefined) return undefined;
  const judged = row.ratio ?? row.value;
  return row.limit === 'most' ? judged <= row.budget : judged >= row.budget;
}

function cells(row: Row): string[] {
  const verdict = met(row);
  const side = row.limit === 'most' ? '≤' : '≥';
  return [
    row.what,
    `${short(row.value)}${row.unit === undefined ? '' : ` ${row.unit}`}`,
    row.baseline === undefined ? '' : short(row.baseline),
    row.against ?? '',
    row.ratio?.toFixed(2) ?? '',
    row.budget === undefined ? '–' : `${side} ${row.ratio === undefined ? short(row.budget) : row.budget.toFixed(2)}`,
    verdict === undefined ? '' : verdict ? 'met' : 'MISSED',
  ];
}

/** The rows as a table in plain text, the notes below. A missed budget is said, never hidden. */
export function table(rows: readonly Row[]): string {
  const lines = [['what', 'ours', 'baseline', 'against', 'ratio', 'budget', ''], ...rows.map(cells)];
  const widths = lines[0]?.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0))) ?? [];
  const text = lines
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
  const notes = rows.filter((row) => row.note !== undefined).map((row) => `${row.what}: ${row.note}`);
  return `${text}\n${notes.length === 0 ? '' : `\n${notes.join('\n')}\n`}`;
}
