/** An IPv4 range as numbers. */
export interface Prefix {
  readonly address: number;
  readonly length: number;
}

/** Reads "10.0.0.0/8"; undefined when it is not an IPv4 range. Bits beyond the length are ignored. */
export function parsePrefix(text: string): Prefix | undefined {
  const found = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\/(\d{1,2})$/.exec(text.trim());
  if (!found) return undefined;
  const parts = found.slice(1).map(Number);
  const length = parts[4] ?? 33;
  if (length > 32 || parts.slice(0, 4).some((part) => part > 255)) return undefined;
  const address = parts.slice(0, 4).reduce((sum, part) => sum * 256 + part, 0);
  return { address: length === 0 ? 0 : (address & (0xffff_ffff << (32 - length))) >>> 0, length };
}

/** Does the outer range hold the whole inner one? */
export function prefixContains(outer: Prefix, inner: Prefix): boolean {
  if (outer.length > inner.length) return false;
  if (outer.length === 0) return true;
  return ((outer.address ^ inner.address) & (0xffff_ffff << (32 - outer.length))) === 0;
}
