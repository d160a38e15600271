/** One line of the table: a value, what it is compared with, and the ratio; the budget is a ratio too. */
export interface Row {
  readonly what: string;
  readonly value: number;
  readonly baseline: number;
  readonly against: string;
  readonly ratio: number;
  readonly budget?: number;
}

/** The middle value; NaN of nothing. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
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
  return value.toFixed(0);
}

/** The rows as a table in plain text. A missed budget is said, never hidden. */
export function table(rows: readonly Row[]): string {
  const lines = [['what', 'ours', 'baseline', 'against', 'ratio', 'budget', '']];
  for (const row of rows) {
    const verdict = row.budget === undefined ? '' : row.ratio >= row.budget ? 'met' : 'MISSED';
    lines.push([
      row.what,
      short(row.value),
      short(row.baseline),
      row.against,
      row.ratio.toFixed(2),
      row.budget?.toFixed(2) ?? '–',
      verdict,
    ]);
  }
  const widths = lines[0]?.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0))) ?? [];
  return `${lines
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')}\n`;
}
