import { failed, ok, type Result } from '../../../contract/failure.ts';

/** Quotes a word for a POSIX shell; words without special characters stay as they are. */
export function quote(word: string): string {
  if (/^[A-Za-z0-9_./:=@%+,-]+$/.test(word)) return word;
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

/** Splits a line into words as a POSIX shell does with quotes and backslashes; nothing is expanded or run. */
export function splitWords(line: string): Result<readonly string[]> {
  const words: string[] = [];
  let word: string | undefined;
  let quoted: "'" | '"' | undefined;
  for (let index = 0; index < line.length; index += 1) {
    const character = line.charAt(index);
    if (quoted === "'") {
      if (character === "'") quoted = undefined;
      else word = (word ?? '') + character;
    } else if (character === '\\' && (quoted === undefined || '"\\$`\n'.includes(line.charAt(index + 1)))) {
      index += 1;
      const next = line.charAt(index);
      if (next !== '\n') word = (word ?? '') + next;
    } else if (quoted === '"') {
      if (character === '"') quoted = undefined;
      else word = (word ?? '') + character;
    } else if (character === "'" || character === '"') {
      quoted = character;
      word ??= '';
    } else if (/\s/.test(character)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else word = (word ?? '') + character;
  }
  if (quoted)
    return failed({
      code: 'flows.open-quote',
      what: 'The line ends inside a quotation.',
      why: `A ${quoted} is not closed.`,
      fix: 'Copy the whole line.',
    });
  if (word !== undefined) words.push(word);
  return ok(words);
}
