/** Text for numbers, times and sizes. Pure; English; fixed decimal point. */

/** "850 B", "12.4 KiB", "1.2 GiB". */
export function formatBytes(bytes: number): string {
  if (!Number.isFinite(bytes)) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = Math.max(0, bytes);
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** "0", "940", "12.4 k", "3.1 M". */
export function formatCount(count: number): string {
  const value = Math.abs(count);
  if (value < 1000) return String(Math.round(count));
  if (value < 999_500) return `${(count / 1000).toFixed(value < 99_950 ? 1 : 0)} k`;
  return `${(count / 1_000_000).toFixed(1)} M`;
}

/** A rate per second: "0", "0.3/s", "12/s", "1.2 k/s". */
export function formatRate(perSecond: number): string {
  if (perSecond <= 0) return '0/s';
  if (perSecond < 0.05) return '<0.1/s';
  if (perSecond < 9.95) return `${perSecond.toFixed(1)}/s`;
  return `${formatCount(perSecond)}/s`;
}

/** Bits of a byte rate: "1.2 Mbit/s". */
export function formatBitRate(bytesPerSecond: number): string {
  let value = Math.max(0, bytesPerSecond) * 8;
  const units = ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s'];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** Age of a moment: "3 s", "12 min", "5 h", "9 d". Both in Unix milliseconds. */
export function formatAge(then: number, now: number): string {
  const seconds = Math.max(0, Math.round((now - then) / 1000));
  if (seconds < 90) return `${seconds} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 36 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

/** Milliseconds as "0.4 ms", "12 ms", "1.3 s". */
export function formatLatency(milliseconds: number): string {
  if (milliseconds < 10) return `${milliseconds.toFixed(1)} ms`;
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  return `${(milliseconds / 1000).toFixed(1)} s`;
}

/** Local wall clock with milliseconds: "14:03:09.127". */
export function formatClock(unixMilliseconds: number): string {
  const date = new Date(unixMilliseconds);
  const two = (value: number) => String(value).padStart(2, '0');
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`;
}

/** Local date and time with milliseconds, for details and exports. */
export function formatMoment(unixMilliseconds: number): string {
  const date = new Date(unixMilliseconds);
  const two = (value: number) => String(value).padStart(2, '0');
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${formatClock(unixMilliseconds)}`;
}

/** Part of a whole in percent, honest at the ends: "0 %", "<0.1 %", "3.2 %". */
export function formatShare(part: number, whole: number): string {
  if (part <= 0 || whole <= 0) return '0 %';
  const percent = (part / whole) * 100;
  return percent < 0.1 ? '<0.1 %' : `${percent.toFixed(percent < 10 ? 1 : 0)} %`;
}

/** "1 pod", "2 pods". */
export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count.toLocaleString('en')} ${count === 1 ? one : many}`;
}

/** What a switch could not handle: a mistake that the compiler should have found. */
export function assertNever(value: never): never {
  throw new Error(`unexpected value: ${String(value)}`);
}
