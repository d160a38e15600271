import { yaml } from '@codemirror/lang-yaml';
import { MergeView } from '@codemirror/merge';
import { EditorState } from '@codemirror/state';
import { EditorView, lineNumbers } from '@codemirror/view';
import { useEffect, useRef } from 'react';
import styles from './code.module.css';
import { editorTheme } from './editor-theme.ts';

interface DiffViewProps {
  readonly before: string;
  readonly after: string;
  readonly height: number;
  readonly labels?: readonly [string, string];
}

/** Two texts side by side with what differs marked; read only. */
export function DiffView({ before, after, height, labels = ['Now', 'After'] }: DiffViewProps) {
  const parent = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!parent.current) return;
    const extensions = [yaml(), lineNumbers(), ...editorTheme, EditorState.readOnly.of(true), EditorView.lineWrapping];
    const view = new MergeView({
      a: { doc: before, extensions: [...extensions, EditorView.contentAttributes.of({ 'aria-label': labels[0] })] },
      b: { doc: after, extensions: [...extensions, EditorView.contentAttributes.of({ 'aria-label': labels[1] })] },
      parent: parent.current,
      gutter: true,
      highlightChanges: true,
      collapseUnchanged: { margin: 4, minSize: 8 },
    });
    return () => view.destroy();
  }, [before, after, labels[0], labels[1]]);
  return (
    <div>
      <div className={styles.diffHead}>
        <span>
          {labels[0]}
          {before === '' ? ': does not exist' : ''}
        </span>
        <span>
          {labels[1]}
          {after === '' ? ': does not exist' : ''}
        </span>
      </div>
      {/* It scrolls, so the keyboard must reach it. */}
      <div
        ref={parent}
        className={styles.diff}
        style={{ maxHeight: height }}
        tabIndex={0}
        role="region"
        aria-label="Difference"
      />
    </div>
  );
}
