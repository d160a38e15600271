import { type Document, isMap, isNode, isPair, isScalar, isSeq, LineCounter, type Node, parseAllDocuments } from 'yaml';
import type { PolicyId, PolicyProblem } from '../../../contract/policies.ts';
import { apiVersionOf, isPolicyKind, policyKinds } from './kinds.ts';

/** A place in the text; lines and columns start at 1, 0 where it is not known. */
export type Place = Pick<PolicyProblem, 'line' | 'column' | 'endLine' | 'endColumn'>;

export const nowhere: Place = { line: 0, column: 0, endLine: 0, endColumn: 0 };

/** A policy's text as far as it could be read. */
export interface ParsedText {
  /** The document as a JSON value; undefined when the text is not YAML. */
  readonly value: unknown;
  readonly id: PolicyId | undefined;
  readonly problems: readonly PolicyProblem[];
  /** Where a path like `spec.ingress[0].fromEndpoints` stands; of its longest part that exists. */
  readonly locate: (path: string) => Place;
}

/** Path segments of "spec.ingress[0].matchLabels["a.b/c"]". */
export function splitPath(path: string): readonly (string | number)[] {
  const segments: (string | number)[] = [];
  const token = /\["((?:[^"\\]|\\.)*)"\]|\[(\d+)\]|([^.[\]]+)/g;
  for (const [, quoted, index, word] of path.matchAll(token)) {
    if (quoted !== undefined) segments.push(quoted.replace(/\\(.)/g, '$1'));
    else if (index !== undefined) segments.push(Number(index));
    else if (word !== undefined) segments.push(word);
  }
  return segments;
}

/** The node that a problem at this path is best shown at: a key where there is one, else the value itself. */
function nodeAt(document: Document, path: string): Node | undefined {
  let current: unknown = document.contents;
  let best: Node | undefined = isNode(current) ? current : undefined;
  for (const segment of splitPath(path)) {
    if (isMap(current)) {
      const pair = current.items.find(
        (item) => isPair(item) && isScalar(item.key) && String(item.key.value) === String(segment),
      );
      if (!pair) break;
      current = pair.value;
      best = isScalar(current) && current.range ? current : (pair.key as Node);
    } else if (isSeq(current) && typeof segment === 'number') {
      const item = current.items[segment];
      if (!isNode(item)) break;
      current = item;
      best = item;
    } else break;
  }
  return best;
}

function placeOf(range: readonly [number, number], text: string, lines: LineCounter): Place {
  const from = lines.linePos(range[0]);
  // A whole block is marked by its first line only.
  const lineEnd = text.indexOf('\n', range[0]);
  const to = lines.linePos(Math.max(range[0], Math.min(range[1], lineEnd < 0 ? text.length : lineEnd)));
  return { line: from.line, column: from.col, endLine: to.line, endColumn: to.col };
}

function error(code: string, place: Place, what: string, why: string, fix: string, path = ''): PolicyProblem {
  return { severity: 'error', code, path, ...place, what, why, fix };
}

const yamlFixes: Readonly<Record<string, string>> = {
  BAD_INDENT: 'Indent all entries of one block by the same number of spaces.',
  TAB_AS_INDENT: 'Indent with spaces.',
  DUPLICATE_KEY: 'Remove one of the two; only one of them could count.',
  MISSING_CHAR: 'Add what is missing.',
  BLOCK_AS_IMPLICIT_KEY: 'Put the nested block on its own, deeper indented lines.',
};

function readId(value: unknown): PolicyId | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { kind, metadata } = value as { readonly kind?: unknown; readonly metadata?: unknown };
  if (!isPolicyKind(kind) || typeof metadata !== 'object' || metadata === null) return undefined;
  const { name, namespace } = metadata as { readonly name?: unknown; readonly namespace?: unknown };
  if (typeof name !== 'string' || name === '') return undefined;
  if (kind === 'CiliumClusterwideNetworkPolicy') return { kind, namespace: '', name };
  return { kind, namespace: typeof namespace === 'string' && namespace !== '' ? namespace : 'default', name };
}

/** Reads a policy's YAML; everything that is wrong with the text itself is a problem with its place. Pure. */
export function parsePolicyText(text: string): ParsedText {
  const lines = new LineCounter();
  const documents = parseAllDocuments(text, { lineCounter: lines, uniqueKeys: true });
  const list = (Array.isArray(documents) ? documents : []).filter(
    (document) => document.contents !== null || document.errors.length > 0,
  );
  const place = (range: readonly [number, number] | undefined): Place =>
    range ? placeOf(range, text, lines) : nowhere;
  const [document, second] = list;
  if (!document)
    return {
      value: undefined,
      id: undefined,
      problems: [
        error(
          'empty',
          { line: 1, column: 1, endLine: 1, endColumn: 1 },
          'There is no policy in this text.',
          'It is empty, or holds comments only.',
          `Write one object of kind ${policyKinds.join(', ')}.`,
        ),
      ],
      locate: () => nowhere,
    };
  const problems: PolicyProblem[] = document.errors.map((one) =>
    error(
      one.code === 'DUPLICATE_KEY' ? 'duplicate-key' : 'yaml',
      place(one.pos),
      one.code === 'DUPLICATE_KEY' ? 'A key is there twice.' : 'This is not YAML.',
      one.message.split(/ at line \d+/)[0] ?? one.message,
      yamlFixes[one.code] ?? 'Correct the text here.',
    ),
  );
  if (second) {
    const range = second.contents?.range ?? second.range;
    problems.push(
      error(
        'multiple-documents',
        place(range ? [range[0], range[1]] : undefined),
        'There is more than one document in this text.',
        'Policies are validated, compared and applied one at a time.',
        'Keep one document here and put the others into editors of their own.',
      ),
    );
  }
  const locate = (path: string): Place => {
    const range = nodeAt(document, path)?.range;
    return range ? placeOf([range[0], range[1]], text, lines) : nowhere;
  };
  if (document.errors.length > 0) return { value: undefined, id: undefined, problems, locate };

  let value: unknown;
  try {
    value = document.toJS();
  } catch (failure) {
    const why = failure instanceof Error ? failure.message : String(failure);
    problems.push(
      error('yaml', nowhere, 'The document cannot be read.', why, 'Remove the aliases that refer to each other.'),
    );
    return { value: undefined, id: undefined, problems, locate };
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    problems.push(
      error(
        'not-an-object',
        locate(''),
        'This is not a Kubernetes object.',
        'A policy is a map with apiVersion, kind, metadata and spec.',
        'Start with apiVersion and kind.',
      ),
    );
    return { value: undefined, id: undefined, problems, locate };
  }
  const { kind, apiVersion } = value as { readonly kind?: unknown; readonly apiVersion?: unknown };
  if (!isPolicyKind(kind))
    problems.push(
      error(
        'kind',
        locate('kind'),
        typeof kind === 'string' ? `“${kind}” is not a kind of policy.` : 'The kind is missing.',
        'Only policies can be edited here.',
        `Set kind to ${policyKinds.join(', ')}.`,
        'kind',
      ),
    );
  else if (apiVersion !== apiVersionOf(kind))
    problems.push(
      error(
        'api-version',
        locate('apiVersion'),
        `The apiVersion of ${kind} is ${apiVersionOf(kind)}.`,
        apiVersion === undefined ? 'It is missing.' : `“${String(apiVersion)}” is something else.`,
        `Write apiVersion: ${apiVersionOf(kind)}.`,
        'apiVersion',
      ),
    );
  return { value, id: readId(value), problems, locate };
}
