/** A small generator of numbers that gives the same ones for the same seed, so that a failure can be found again. */
export function numbers(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 2 ** 32;
  };
}

const pieces = [
  '\0',
  '\n',
  '\t',
  '"',
  "'",
  '{',
  '}',
  '[',
  ']',
  ': ',
  '- ',
  '*',
  '!',
  '&a',
  '*a',
  '|1|',
  '#',
  '%h',
  '\\',
  '=',
  'ÿ',
  '💥',
  '<<: *a',
  '--- \n',
];

/** Spoils a text in one to `most` places: cut, doubled, replaced, or with something put in that parsers trip over. */
export function spoil(text: string, random: () => number, most = 8): string {
  let spoilt = text;
  for (let times = 1 + Math.floor(random() * most); times > 0; times--) {
    const at = Math.floor(random() * (spoilt.length + 1));
    const length = Math.floor(random() * 20);
    const piece = pieces[Math.floor(random() * pieces.length)] ?? '';
    switch (Math.floor(random() * 5)) {
      case 0:
        spoilt = spoilt.slice(0, at) + spoilt.slice(at + length);
        break;
      case 1:
        spoilt = spoilt.slice(0, at) + spoilt.slice(Math.max(0, at - length)) + spoilt.slice(at);
        break;
      case 2:
        spoilt = spoilt.slice(0, at) + piece.repeat(1 + Math.floor(random() * 3)) + spoilt.slice(at);
        break;
      case 3:
        spoilt = spoilt.slice(0, at) + piece + spoilt.slice(at + length);
        break;
      default:
        spoilt = spoilt.slice(0, at);
    }
  }
  return spoilt.slice(0, 20_000);
}
