/** Where in a YAML document the cursor is: keys from the root; a list's items have no key of their own. */
export interface YamlPlace {
  readonly path: readonly string[];
  /** True after "key:", where a value belongs. */
  readonly value: boolean;
  /** What has been typed of the key or value. */
  readonly typed: string;
  /** Keys that the same mapping has already. */
  readonly siblings: readonly string[];
}

interface Line {
  readonly indent: number;
  readonly key: string;
  readonly item: boolean;
}

/** A line's indent (that of its key, after any "- "), its key, and whether it begins a list item. */
function readLine(text: string): Line | undefined {
  const match = /^(\s*)((?:- +)*)(?:"?([\w./:-]+?)"?\s*:(?:\s|$))?/.exec(text);
  if (!match || /^\s*(#|$)/.test(text)) return undefined;
  return {
    indent: (match[1] ?? '').length + (match[2] ?? '').length,
    key: match[3] ?? '',
    item: (match[2] ?? '') !== '',
  };
}

/**
 * Finds the cursor's place from the lines above it by their indents. Good enough for block style, which policies are
 * written in; inside flow style ("{a: b}") it gives the place of the line.
 */
export function yamlPlace(text: string, offset: number): YamlPlace {
  const before = text.slice(0, offset).split('\n');
  const current = before.at(-1) ?? '';
  const value = /^\s*(?:- +)*"?([\w./-]+)"?:\s+(.*)$/.exec(current);
  const start = /^(\s*)((?:- +)*)/.exec(current);
  const indent = (start?.[1] ?? '').length + (start?.[2] ?? '').length;
  const path: string[] = value ? [value[1] ?? ''] : [];
  const siblings: string[] = [];
  const dash = (start?.[1] ?? '').length;
  // A dash may stand at the indent of its list's key.
  let limit = (start?.[2] ?? '') === '' ? indent : dash + 1;
  let sibling = (start?.[2] ?? '') === '';
  for (let at = before.length - 2; at >= 0; at -= 1) {
    const line = readLine(before[at] ?? '');
    if (!line) continue;
    if (line.indent === indent && sibling) {
      if (line.key) siblings.push(line.key);
      if (line.item) sibling = false;
    }
    if (line.indent < limit && line.key) {
      path.unshift(line.key);
      limit = line.indent;
      sibling = false;
    }
    // The item's dash stands at or right of its list's key: what is above it is less indented than the dash, or a key there.
    if (line.item && line.indent <= limit) {
      const dash = /^\s*/.exec(before[at] ?? '')?.[0].length ?? 0;
      limit = Math.min(limit, dash + 1);
    }
  }
  const after = text.slice(offset).split('\n').slice(1);
  for (const raw of after) {
    const line = readLine(raw);
    if (!line) continue;
    if (line.indent < indent || (line.item && line.indent === indent)) break;
    if (line.indent === indent && line.key) siblings.push(line.key);
  }
  return {
    path,
    value: value !== null,
    typed: value ? (value[2] ?? '') : current.slice(indent),
    siblings,
  };
}

/** The part of JSON Schema that completion reads. */
export interface Schema {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly enum?: readonly unknown[];
  readonly required?: readonly string[];
  readonly additionalProperties?: boolean | Schema;
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly allOf?: readonly Schema[];
  readonly $ref?: string;
  readonly $defs?: Readonly<Record<string, Schema>>;
  readonly definitions?: Readonly<Record<string, Schema>>;
  readonly const?: unknown;
  readonly default?: unknown;
}

/** All the alternatives of a schema, with references followed. */
function spread(schema: Schema, root: Schema, depth = 0): readonly Schema[] {
  if (depth > 8) return [];
  if (schema.$ref) {
    const name = schema.$ref.split('/').at(-1) ?? '';
    const found = root.$defs?.[name] ?? root.definitions?.[name];
    return found ? spread(found, root, depth + 1) : [];
  }
  const parts = [...(schema.anyOf ?? []), ...(schema.oneOf ?? []), ...(schema.allOf ?? [])];
  return [schema, ...parts.flatMap((part) => spread(part, root, depth + 1))];
}

/** The schemas that hold at a path; lists are gone into by themselves. */
export function schemasAt(root: Schema, path: readonly string[]): readonly Schema[] {
  const enter = (schemas: readonly Schema[]): readonly Schema[] =>
    schemas.flatMap((schema) => (schema.items ? enter(spread(schema.items, root)) : [schema]));
  let current = enter(spread(root, root));
  for (const key of path) {
    const next = current.flatMap((schema) => {
      const direct = schema.properties?.[key];
      if (direct) return spread(direct, root);
      return typeof schema.additionalProperties === 'object' ? spread(schema.additionalProperties, root) : [];
    });
    current = enter(next);
  }
  return current;
}
