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

/** An IPv6 address as a number; undefined when it is none. */
function parseAddress6(text: string): bigint | undefined {
  if (!/^[0-9a-fA-F:]+$/.test(text) || text.split('::').length > 2) return undefined;
  const [head = '', tail] = text.split('::');
  const words = (part: string) => (part === '' ? [] : part.split(':'));
  const [before, after] = [words(head), words(tail ?? '')];
  const missing = 8 - before.length - after.length;
  if (tail === undefined ? missing !== 0 : missing < 1) return undefined;
  const all = [...before, ...Array.from({ length: missing }, () => '0'), ...after];
  if (all.some((word) => !/^[0-9a-fA-F]{1,4}$/.test(word))) return undefined;
  return all.reduce((sum, word) => (sum << 16n) | BigInt(Number.parseInt(word, 16)), 0n);
}

/** Does one range hold the other? For both families; false when either is no range or they differ in family. */
export function rangeContains(outer: string, inner: string): boolean {
  const [outer4, inner4] = [parsePrefix(outer), parsePrefix(inner)];
  if (outer4 && inner4) return prefixContains(outer4, inner4);
  const [a, b] = [parsePrefix6(outer), parsePrefix6(inner)];
  if (!a || !b || a.length > b.length) return false;
  const shift = BigInt(128 - a.length);
  return a.address >> shift === b.address >> shift;
}

/** Reads "fd00::/8"; undefined when it is not an IPv6 range. */
export function parsePrefix6(text: string): { readonly address: bigint; readonly length: number } | undefined {
  const found = /^(.+)\/(\d{1,3})$/.exec(text.trim());
  const address = parseAddress6(found?.[1] ?? '');
  const length = Number(found?.[2] ?? 129);
  return address === undefined || length > 128 ? undefined : { address, length };
}
