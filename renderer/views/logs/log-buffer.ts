import type { LogItem } from '../../../contract/logs.ts';

/** A line as the view keeps it. */
export interface LogRow {
  readonly key: number;
  readonly source: number;
  readonly time: number;
  readonly text: string;
}

export interface SourceState {
  readonly state: 'open' | 'waiting' | 'ended' | 'failed';
  readonly message: string;
}

/** The newest lines, how many older ones were let go, and how each source is. */
export interface LogBuffer {
  readonly rows: readonly LogRow[];
  readonly forgotten: number;
  readonly next: number;
  readonly states: ReadonlyMap<number, SourceState>;
}

export const emptyBuffer: LogBuffer = { rows: [], forgotten: 0, next: 0, states: new Map() };

/** As many lines as a person scrolls through; the rest is counted, not silently gone. */
export const mostRows = 20_000;

/** Takes what came in; nothing of the old value is changed. */
export function append(buffer: LogBuffer, items: readonly LogItem[], most = mostRows): LogBuffer {
  const states = new Map(buffer.states);
  const rows = [...buffer.rows];
  let { next } = buffer;
  for (const item of items) {
    switch (item.kind) {
      case 'line':
        rows.push({ key: next, source: item.source, time: item.time, text: item.text });
        next += 1;
        break;
      case 'state':
        states.set(item.source, { state: item.state, message: item.message });
        break;
    }
  }
  const over = Math.max(0, rows.length - most);
  return { rows: over > 0 ? rows.slice(over) : rows, forgotten: buffer.forgotten + over, next, states };
}

export type Level = 'bad' | 'warn' | undefined;

/** How serious a line says it is: klog's first letter, slog's and logfmt's level, or a plain word at the start. */
export function levelOf(text: string): Level {
  if (/^[EF]\d{4} /.test(text) || /\blevel="?(error|fatal|panic)\b/i.test(text) || /^(error|fatal|panic)\b/i.test(text))
    return 'bad';
  if (/^W\d{4} /.test(text) || /\blevel="?warn/i.test(text) || /^warn(ing)?\b/i.test(text)) return 'warn';
  return undefined;
}
