import { type FlowFilter, type Verdict, verdictSchema } from '../../../contract/flows.ts';

/**
 * The filter line of the flows view: tokens `key:value` separated by spaces. Values of one key are separated by commas
 * and OR-ed; different keys are AND-ed; `or` begins another alternative; `not` (or `!`) before a token excludes.
 */

/** Field of FlowFilter for every key of the line. */
const fields = {
  verdict: 'verdict',
  namespace: 'namespace',
  'from-namespace': 'fromNamespace',
  'to-namespace': 'toNamespace',
  pod: 'pod',
  'from-pod': 'fromPod',
  'to-pod': 'toPod',
  label: 'label',
  'from-label': 'fromLabel',
  'to-label': 'toLabel',
  ip: 'ip',
  'from-ip': 'fromIP',
  'to-ip': 'toIP',
  port: 'port',
  'from-port': 'fromPort',
  'to-port': 'toPort',
  protocol: 'protocol',
  identity: 'identity',
  workload: 'workload',
  service: 'service',
  node: 'node',
  direction: 'direction',
  event: 'event',
  flags: 'tcpFlags',
  reason: 'dropReason',
  reply: 'reply',
} as const satisfies Readonly<Record<string, keyof FlowFilter>>;

export type FilterKey = keyof typeof fields;

/** Keys with what they mean, in the order in which they are offered. */
export const filterKeys: readonly { readonly key: FilterKey; readonly text: string }[] = [
  { key: 'verdict', text: 'FORWARDED, DROPPED, …' },
  { key: 'namespace', text: 'on either side' },
  { key: 'pod', text: 'namespace/prefix, either side' },
  { key: 'from-pod', text: 'sender: namespace/prefix' },
  { key: 'to-pod', text: 'receiver: namespace/prefix' },
  { key: 'port', text: 'on either side' },
  { key: 'to-port', text: 'destination port' },
  { key: 'from-port', text: 'source port' },
  { key: 'ip', text: 'address or CIDR, either side' },
  { key: 'from-ip', text: 'sender’s address or CIDR' },
  { key: 'to-ip', text: 'receiver’s address or CIDR' },
  { key: 'label', text: 'key=value, either side' },
  { key: 'from-label', text: 'sender’s label' },
  { key: 'to-label', text: 'receiver’s label' },
  { key: 'from-namespace', text: 'sender’s namespace' },
  { key: 'to-namespace', text: 'receiver’s namespace' },
  { key: 'workload', text: 'namespace/name, either side' },
  { key: 'service', text: 'namespace/name' },
  { key: 'protocol', text: 'TCP, UDP, ICMPv4, …' },
  { key: 'direction', text: 'INGRESS or EGRESS' },
  { key: 'reason', text: 'drop reason' },
  { key: 'event', text: 'drop, trace, policy-verdict, …' },
  { key: 'flags', text: 'TCP flags' },
  { key: 'node', text: 'where it was seen' },
  { key: 'identity', text: 'numeric identity, either side' },
  { key: 'reply', text: 'true or false' },
];

/** Keys whose values may hold commas of their own. */
const whole: ReadonlySet<string> = new Set<FilterKey>(['label', 'from-label', 'to-label']);

export interface Token {
  /** As it stands in the line, with its `not`. */
  readonly text: string;
  readonly kind: 'filter' | 'or' | 'problem';
  readonly not: boolean;
  readonly key: string;
  readonly values: readonly string[];
  /** Why it is not understood. */
  readonly problem?: string;
}

export interface ParsedFilter {
  readonly tokens: readonly Token[];
  readonly allow: readonly FlowFilter[];
  readonly deny: readonly FlowFilter[];
  readonly problems: readonly string[];
}

function isKey(key: string): key is FilterKey {
  return Object.hasOwn(fields, key);
}

/** Splits at spaces outside of double quotes. */
function words(text: string): string[] {
  return [...text.matchAll(/(?:[^\s"]|"[^"]*"?)+/g)].map((match) => match[0]);
}

function checkValues(key: FilterKey, values: readonly string[]): string | undefined {
  switch (key) {
    case 'verdict':
      return values.some((value) => !verdictSchema.safeParse(value.toUpperCase()).success)
        ? `A verdict is one of ${verdictSchema.options.join(', ')}.`
        : undefined;
    case 'direction':
      return values.some((value) => !['INGRESS', 'EGRESS'].includes(value.toUpperCase()))
        ? 'A direction is INGRESS or EGRESS.'
        : undefined;
    case 'reply':
      return values.length !== 1 || !['true', 'false'].includes(values[0] ?? '')
        ? 'reply is true or false.'
        : undefined;
    case 'identity':
      return values.some((value) => !/^\d+$/.test(value)) ? 'An identity is a whole number.' : undefined;
    case 'port':
    case 'from-port':
    case 'to-port':
      return values.some((value) => !/^\d+(-\d+)?$/.test(value) || Number.parseInt(value, 10) > 65535)
        ? 'A port is a number from 0 to 65535.'
        : undefined;
    default:
      return undefined;
  }
}

function toToken(text: string, not: boolean): Token {
  const body = text.replace(/^!/, '');
  const negated = not || text.startsWith('!');
  const shown = negated ? `not ${body}` : body;
  const colon = body.indexOf(':');
  const key = colon > 0 ? body.slice(0, colon).toLowerCase() : '';
  const raw = body.slice(colon + 1).replaceAll('"', '');
  const values = (whole.has(key) ? [raw] : raw.split(',')).map((value) => value.trim()).filter((value) => value !== '');
  const base = { text: shown, not: negated, key, values };
  const wrong = (problem: string): Token => ({ ...base, kind: 'problem', problem });
  if (colon <= 0) return wrong(`“${body}” has no key. Write for example pod:default/${body.replaceAll('"', '')}.`);
  if (!isKey(key)) return wrong(`There is no key “${key}”.`);
  if (values.length === 0) return wrong(`${key}: needs a value.`);
  const problem = checkValues(key, values);
  return problem ? wrong(problem) : { ...base, kind: 'filter' };
}

/** Reads a line into tokens. */
export function parseTokens(line: string): readonly Token[] {
  const tokens: Token[] = [];
  let not = false;
  for (const word of words(line)) {
    const lower = word.toLowerCase();
    if (lower === 'not') {
      not = !not;
    } else if (lower === 'or') {
      tokens.push({ text: 'or', kind: 'or', not: false, key: '', values: [] });
    } else if (lower !== 'and') {
      tokens.push(toToken(word, not));
      not = false;
    }
  }
  return tokens;
}

function toFilter(token: Token): FlowFilter {
  const key = token.key as FilterKey;
  switch (key) {
    case 'verdict':
      return { verdict: token.values.map((value) => value.toUpperCase() as Verdict) };
    case 'direction':
      return { direction: token.values.map((value) => value.toUpperCase() as 'INGRESS' | 'EGRESS') };
    case 'identity':
      return { identity: token.values.map(Number) };
    case 'reply':
      return { reply: token.values[0] === 'true' };
    default:
      return { [fields[key]]: token.values };
  }
}

/** Joins two filters: fields of both; values of a field that both have are OR-ed. */
function merge(a: FlowFilter, b: FlowFilter): FlowFilter {
  const merged: Record<string, unknown> = { ...a };
  for (const [key, value] of Object.entries(b)) {
    const old = merged[key];
    merged[key] = Array.isArray(old) && Array.isArray(value) ? [...old, ...value] : value;
  }
  return merged as FlowFilter;
}

/** Reads a line into what the engine filters by. Tokens that are not understood are left out and named. */
export function parseFilter(line: string): ParsedFilter {
  const tokens = parseTokens(line);
  const alternatives: FlowFilter[] = [];
  const deny: FlowFilter[] = [];
  let current: FlowFilter = {};
  const close = () => {
    if (Object.keys(current).length > 0) alternatives.push(current);
    current = {};
  };
  for (const token of tokens) {
    if (token.kind === 'or') close();
    else if (token.kind === 'filter' && token.not) deny.push(toFilter(token));
    else if (token.kind === 'filter') current = merge(current, toFilter(token));
  }
  close();
  return { tokens, allow: alternatives, deny, problems: tokens.flatMap((token) => token.problem ?? []) };
}

function quote(value: string): string {
  return /\s/.test(value) ? `"${value}"` : value;
}

function filterTokens(filter: FlowFilter): string[] {
  const parts: string[] = [];
  for (const [key, field] of Object.entries(fields)) {
    const value = filter[field];
    if (value === undefined) continue;
    if (typeof value === 'boolean') parts.push(`${key}:${value}`);
    else if (whole.has(key)) for (const one of value) parts.push(`${key}:${quote(String(one))}`);
    else if (value.length > 0) parts.push(`${key}:${value.map((one) => quote(String(one))).join(',')}`);
  }
  return parts;
}

/** Writes filters as a line; `parseFilter` reads it back to the same. */
export function formatFilter(allow: readonly FlowFilter[], deny: readonly FlowFilter[]): string {
  const excluded = deny.flatMap((filter) => filterTokens(filter).map((token) => `not ${token}`));
  return [allow.map((filter) => filterTokens(filter).join(' ')).join(' or '), ...excluded].filter(Boolean).join(' ');
}

/** Puts a token into the line, or takes it out when it is there. */
export function toggleToken(line: string, token: string): string {
  const wanted = parseTokens(token)[0]?.text;
  const tokens = parseTokens(line).map((one) => one.text);
  const rest = tokens.filter((one) => one !== wanted);
  return (rest.length < tokens.length ? rest : [...tokens, wanted]).join(' ');
}

/** Is the token in the line? */
export function hasToken(line: string, token: string): boolean {
  const wanted = parseTokens(token)[0]?.text;
  return parseTokens(line).some((one) => one.text === wanted);
}
