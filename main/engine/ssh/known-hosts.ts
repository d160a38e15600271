import { createHash, createHmac, timingSafeEqual } from 'node:crypto';

/** One line of a known_hosts file. */
export interface KnownHost {
  readonly marker: 'revoked' | 'cert-authority' | undefined;
  /** Host patterns, or one hashed name ("|1|salt|hash"). */
  readonly patterns: readonly string[];
  readonly algorithm: string;
  /** Base64 of the key's blob. */
  readonly key: string;
  readonly line: number;
  readonly file: string;
}

/** What known_hosts says of a host's key. */
export type Verdict =
  | { readonly kind: 'known' }
  | { readonly kind: 'unknown' }
  | { readonly kind: 'revoked'; readonly entry: KnownHost }
  /** Another key is on record for this host: either it was set up anew, or somebody is in between. */
  | { readonly kind: 'changed'; readonly entries: readonly KnownHost[] };

/** Reads known_hosts text; lines that are not understood are left out, as OpenSSH does. */
export function parseKnownHosts(text: string, file: string): readonly KnownHost[] {
  const entries: KnownHost[] = [];
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    const fields = raw.trim().split(/\s+/);
    if (fields[0] === '' || fields[0]?.startsWith('#')) continue;
    let marker: KnownHost['marker'];
    if (fields[0]?.startsWith('@')) {
      const name = fields.shift()?.slice(1);
      if (name !== 'revoked' && name !== 'cert-authority') continue;
      marker = name;
    }
    const [hosts, algorithm, key] = fields;
    if (!hosts || !algorithm || !key || !/^[A-Za-z0-9+/]+=*$/.test(key)) continue;
    entries.push({ marker, patterns: hosts.split(','), algorithm, key, line: index + 1, file });
  }
  return entries;
}

/** How a host is written in known_hosts: the port only when it is not 22. */
export function knownHostName(host: string, port: number): string {
  return port === 22 ? host.toLowerCase() : `[${host.toLowerCase()}]:${port}`;
}

function matchesPattern(pattern: string, name: string): boolean {
  const source = pattern
    .toLowerCase()
    .replace(/[.+^${}()|[\]\\]/g, '\\$&')
    .replaceAll('*', '.*')
    .replaceAll('?', '.');
  return new RegExp(`^${source}$`).test(name);
}

function matchesHashed(pattern: string, name: string): boolean {
  const [, version, salt, hash] = pattern.split('|');
  if (version !== '1' || !salt || !hash) return false;
  const expected = Buffer.from(hash, 'base64');
  const actual = createHmac('sha1', Buffer.from(salt, 'base64')).update(name).digest();
  return expected.length === actual.length && timingSafeEqual(expected, actual);
}

/** Whether an entry is for a host, written as `knownHostName` writes it. A negated pattern that matches wins. */
export function matchesHost(entry: KnownHost, name: string): boolean {
  let matched = false;
  for (const pattern of entry.patterns) {
    if (pattern.startsWith('|')) matched ||= matchesHashed(pattern, name);
    else if (pattern.startsWith('!')) {
      if (matchesPattern(pattern.slice(1), name)) return false;
    } else matched ||= matchesPattern(pattern, name);
  }
  return matched;
}

/** The algorithm that a key's blob names itself. */
export function keyAlgorithm(blob: Buffer): string {
  if (blob.length < 4) return '';
  const length = blob.readUInt32BE(0);
  return length <= 64 && blob.length >= 4 + length ? blob.toString('latin1', 4, 4 + length) : '';
}

/** "SHA256:…" as ssh prints it. */
export function fingerprint(blob: Buffer): string {
  return `SHA256:${createHash('sha256').update(blob).digest('base64').replace(/=+$/, '')}`;
}

/**
 * Judges a key that a host has shown. `names` are all names it is known by (its alias or its host and port). A revoked
 * key is revoked for every host that its line matches; host certificates are not supported, so their lines say nothing.
 */
export function judge(entries: readonly KnownHost[], names: readonly string[], blob: Buffer): Verdict {
  const shown = blob.toString('base64');
  const mine = entries.filter((entry) => names.some((name) => matchesHost(entry, name)));
  const revoked = mine.find((entry) => entry.marker === 'revoked' && entry.key === shown);
  if (revoked) return { kind: 'revoked', entry: revoked };
  const plain = mine.filter((entry) => entry.marker === undefined);
  if (plain.some((entry) => entry.key === shown)) return { kind: 'known' };
  // A key of another algorithm is not a change as long as the host may have several; but the client asks for the
  // algorithms on record first, so a host that still has its key shows it.
  const others = plain.filter((entry) => entry.algorithm === keyAlgorithm(blob));
  if (others.length > 0) return { kind: 'changed', entries: others };
  return plain.length > 0 ? { kind: 'changed', entries: plain } : { kind: 'unknown' };
}

const signatureAlgorithms: Readonly<Record<string, readonly string[]>> = {
  'ssh-rsa': ['rsa-sha2-512', 'rsa-sha2-256'],
};

/** Host key algorithms to offer, those on record for the host first, so that it shows the key that can be checked. */
export function preferredAlgorithms(
  entries: readonly KnownHost[],
  names: readonly string[],
  supported: readonly string[],
): readonly string[] {
  const recorded = entries
    .filter((entry) => entry.marker === undefined && names.some((name) => matchesHost(entry, name)))
    .flatMap((entry) => signatureAlgorithms[entry.algorithm] ?? [entry.algorithm]);
  return [...new Set([...recorded.filter((algorithm) => supported.includes(algorithm)), ...supported])];
}
