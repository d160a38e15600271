import type { AuditEntry } from '../../../contract/application.ts';

/** Whether every word stands somewhere in what the list shows of an entry. */
export function matches(entry: AuditEntry, find: string): boolean {
  const text = `${entry.cluster} ${entry.action} ${entry.subject} ${entry.who} ${entry.result}`.toLowerCase();
  return find
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
}

/** A cell of a CSV file (RFC 4180); what a spreadsheet would take for a formula is kept from it. */
function cell(value: string): string {
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** The list as CSV, with the times in UTC. The objects themselves are in the JSON export. */
export function toCsv(entries: readonly AuditEntry[]): string {
  const rows = [
    ['time', 'cluster', 'action', 'subject', 'who', 'result'],
    ...entries.map((entry) => [
      new Date(entry.time).toISOString(),
      entry.cluster,
      entry.action,
      entry.subject,
      entry.who,
      entry.result,
    ]),
  ];
  return rows.map((row) => `${row.map(cell).join(',')}\r\n`).join('');
}
