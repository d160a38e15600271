import { beforeEach, describe, expect, test, vi } from 'vitest';
import { draftKey, dropDraft, keepDraft, readDraft } from './drafts.ts';

const draft = { text: 'a: 1\n', base: '', resourceVersion: '' };

describe('drafts', () => {
  const kept = new Map<string, string>();
  beforeEach(() => {
    kept.clear();
    vi.stubGlobal('sessionStorage', {
      getItem: (key: string) => kept.get(key) ?? null,
      setItem: (key: string, value: string) => kept.set(key, value),
      removeItem: (key: string) => kept.delete(key),
    });
  });

  test('what was written comes back, per document', () => {
    keepDraft(draftKey('one', 'a'), draft);
    expect(readDraft(draftKey('one', 'a'))).toEqual(draft);
    expect(readDraft(draftKey('two', 'a'))).toBeUndefined();
    dropDraft(draftKey('one', 'a'));
    expect(readDraft(draftKey('one', 'a'))).toBeUndefined();
  });

  test('what is not a draft is ignored', () => {
    kept.set(draftKey('one', 'a'), '{"text": 3}');
    expect(readDraft(draftKey('one', 'a'))).toBeUndefined();
    kept.set(draftKey('one', 'a'), '{');
    expect(readDraft(draftKey('one', 'a'))).toBeUndefined();
  });

  test('no room is said, not thrown', () => {
    vi.stubGlobal('sessionStorage', {
      setItem: () => {
        throw new Error('full');
      },
    });
    expect(keepDraft(draftKey('one', 'a'), draft)).toBe(false);
  });
});
