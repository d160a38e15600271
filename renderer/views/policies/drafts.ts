/** Texts being edited, kept for this tab: going elsewhere, or a reload, loses nothing. */
const prefix = 'fairlead-draft ';

export interface Draft {
  readonly text: string;
  /** What the cluster had when editing began; "" for a new policy. */
  readonly base: string;
  /** Version that `base` is of; guards against overwriting somebody else's change. */
  readonly resourceVersion: string;
}

function isDraft(value: unknown): value is Draft {
  const draft = value as Partial<Draft> | null;
  return typeof draft?.text === 'string' && typeof draft.base === 'string' && typeof draft.resourceVersion === 'string';
}

/** Name of the draft of one policy, or of the new one. */
export function draftKey(cluster: string, id: string): string {
  return `${prefix}${cluster} ${id}`;
}

/** The draft that is kept, if there is one. */
export function readDraft(key: string): Draft | undefined {
  try {
    const value: unknown = JSON.parse(sessionStorage.getItem(key) ?? 'null');
    return isDraft(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Keeps a draft; false when the browser has no room for it. */
export function keepDraft(key: string, draft: Draft): boolean {
  try {
    sessionStorage.setItem(key, JSON.stringify(draft));
    return true;
  } catch {
    return false;
  }
}

export function dropDraft(key: string): void {
  sessionStorage.removeItem(key);
}
