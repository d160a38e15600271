import type { Flow } from '../../../contract/flows.ts';

const columns: readonly (readonly [string, (flow: Flow) => string | number])[] = [
  ['time', (flow) => new Date(flow.time).toISOString()],
  ['node', (flow) => flow.node],
  ['verdict', (flow) => flow.verdict],
  ['drop_reason', (flow) => flow.dropReason],
  ['direction', (flow) => flow.direction],
  ['reply', (flow) => (flow.reply === null ? '' : String(flow.reply))],
  ['source', (flow) => flow.source.label],
  ['source_ip', (flow) => flow.source.address],
  ['source_port', (flow) => flow.source.port],
  ['source_identity', (flow) => flow.source.identity],
  ['destination', (flow) => flow.destination.label],
  ['destination_ip', (flow) => flow.destination.address],
  ['destination_port', (flow) => flow.destination.port],
  ['destination_identity', (flow) => flow.destination.identity],
  ['protocol', (flow) => flow.protocol],
  ['tcp_flags', (flow) => flow.tcpFlags.join(' ')],
  ['event', (flow) => flow.event],
  ['observation_point', (flow) => flow.observationPoint],
  ['allowed_by', (flow) => flow.allowedBy.map((policy) => `${policy.namespace}/${policy.name}`).join(' ')],
  ['denied_by', (flow) => flow.deniedBy.map((policy) => `${policy.namespace}/${policy.name}`).join(' ')],
  ['summary', (flow) => flow.summary],
];

/** One CSV cell. A leading sign that a spreadsheet would take for a formula is defused. */
function cell(value: string | number): string {
  const text = typeof value === 'string' && /^[=+\-@\t]/.test(value) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Flows as CSV with a header line, oldest first. */
export function flowsToCsv(newestFirst: readonly Flow[]): string {
  const lines = [...newestFirst].reverse().map((flow) => columns.map(([, read]) => cell(read(flow))).join(','));
  return `${[columns.map(([name]) => name).join(','), ...lines].join('\n')}\n`;
}

/** Flows as JSON lines, oldest first. */
export function flowsToJson(newestFirst: readonly Flow[]): string {
  return `${[...newestFirst]
    .reverse()
    .map((flow) => JSON.stringify(flow))
    .join('\n')}\n`;
}
