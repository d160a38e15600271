import type { PolicyPod } from './wasm/types.ts';

/** What is wanted of pods and what there is, where a selector finds none. */
export interface NearMiss {
  /** Path of the label in the document. */
  readonly path: string;
  readonly text: string;
}

interface Selector {
  readonly path: string;
  readonly labels: Readonly<Record<string, string>>;
}

function isMap(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function labelsOf(value: unknown): Readonly<Record<string, string>> {
  if (!isMap(value) || !isMap(value.matchLabels)) return {};
  return Object.fromEntries(Object.entries(value.matchLabels).map(([key, text]) => [key, String(text)]));
}

/** The selectors that say which pods a policy governs. */
function selectors(document: unknown): readonly Selector[] {
  if (!isMap(document)) return [];
  const found: Selector[] = [];
  const add = (rule: unknown, path: string) => {
    if (!isMap(rule)) return;
    for (const name of ['endpointSelector', 'podSelector'])
      if (isMap(rule[name])) found.push({ path: `${path}.${name}.matchLabels`, labels: labelsOf(rule[name]) });
  };
  add(document.spec, 'spec');
  if (Array.isArray(document.specs)) for (const [index, rule] of document.specs.entries()) add(rule, `specs[${index}]`);
  return found;
}

/** "k8s:org" and "any:org" ask for the label org. */
function plainKey(key: string): string {
  return key.replace(/^(k8s|any)[:.]/, '');
}

function pathTo(path: string, key: string): string {
  return /^[\w-]+$/.test(key) ? `${path}.${key}` : `${path}["${key.replace(/["\\]/g, '\\$&')}"]`;
}

/** Small edit distance, for typing errors; counts up to `most`. */
function distance(a: string, b: string, most: number): number {
  if (Math.abs(a.length - b.length) > most) return most + 1;
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let row = 1; row <= a.length; row += 1) {
    const current = [row];
    for (let column = 1; column <= b.length; column += 1) {
      const cost = a[row - 1] === b[column - 1] ? 0 : 1;
      current[column] = Math.min(
        (previous[column] ?? 0) + 1,
        (current[column - 1] ?? 0) + 1,
        (previous[column - 1] ?? 0) + cost,
      );
    }
    previous = current;
  }
  return previous[b.length] ?? most + 1;
}

/**
 * Says for every wanted label that no pod has what pods have instead: other values of the key, or keys that look alike.
 * `namespace` limits to the policy's own; undefined for clusterwide ones.
 */
export function nearMisses(
  document: unknown,
  pods: readonly PolicyPod[],
  namespace: string | undefined,
): readonly NearMiss[] {
  const values = new Map<string, Map<string, number>>();
  for (const pod of pods) {
    if (pod.hostNetwork || (namespace !== undefined && pod.namespace !== namespace)) continue;
    for (const [key, value] of Object.entries(pod.labels)) {
      const counts = values.get(key) ?? new Map<string, number>();
      counts.set(value, (counts.get(value) ?? 0) + 1);
      values.set(key, counts);
    }
  }
  const found: NearMiss[] = [];
  for (const { path, labels } of selectors(document))
    for (const [key, value] of Object.entries(labels)) {
      const wanted = plainKey(key);
      const there = values.get(wanted);
      if (there?.has(value)) continue;
      if (there) {
        const others = [...there].sort((a, b) => b[1] - a[1]).map(([text, count]) => `${text} (${count})`);
        found.push({
          path: pathTo(path, key),
          text: `No pod has ${wanted}=${value}; ${wanted} is ${others.slice(0, 5).join(', ')}${others.length > 5 ? ', …' : ''} there.`,
        });
        continue;
      }
      const alike = [...values.keys()].filter((other) => distance(wanted, other, 2) <= 2);
      found.push({
        path: pathTo(path, key),
        text:
          alike.length > 0
            ? `No pod has a label ${wanted}; there is ${alike.slice(0, 3).join(', ')}.`
            : `No pod has a label ${wanted}.`,
      });
    }
  return found;
}
