import { autocompletion, type Completion, type CompletionContext, completionKeymap } from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap, indentWithTab } from '@codemirror/commands';
import { yaml } from '@codemirror/lang-yaml';
import { bracketMatching, foldGutter, indentOnInput, indentUnit } from '@codemirror/language';
import { type Diagnostic, lintGutter, setDiagnostics } from '@codemirror/lint';
import { highlightSelectionMatches, searchKeymap } from '@codemirror/search';
import { Compartment, EditorState } from '@codemirror/state';
import { drawSelection, EditorView, highlightActiveLine, hoverTooltip, keymap, lineNumbers } from '@codemirror/view';
import { useEffect, useRef } from 'react';
import type { PolicyProblem } from '../../../contract/policies.ts';
import styles from './code.module.css';
import { editorTheme } from './editor-theme.ts';
import { type Schema, schemasAt, yamlPlace } from './yaml-path.ts';

export interface EditorHandle {
  /** Puts the cursor at a line and column, both from 1, and shows it. */
  readonly goTo: (line: number, column: number) => void;
}

interface YamlEditorProps {
  readonly label: string;
  readonly text: string;
  readonly onChange: (text: string) => void;
  readonly problems: readonly PolicyProblem[];
  readonly schema: Schema | undefined;
  readonly readOnly?: boolean;
  /** Ctrl or Cmd with Enter. */
  readonly onSubmit?: () => void;
  readonly onReady?: (handle: EditorHandle) => void;
}

function complete(schema: Schema | undefined) {
  return (context: CompletionContext) => {
    if (!schema) return null;
    const place = yamlPlace(context.state.doc.toString(), context.pos);
    if (!context.explicit && place.typed === '' && !place.value) return null;
    const schemas = schemasAt(schema, place.path);
    const options: Completion[] = place.value
      ? schemas.flatMap((one) => [
          ...(one.enum ?? (one.const === undefined ? [] : [one.const])).map((value) => ({
            label: String(value),
            type: 'enum',
          })),
          ...(one.type === 'boolean' ? ['true', 'false'].map((label) => ({ label, type: 'keyword' })) : []),
        ])
      : schemas.flatMap((one) => [
          ...Object.entries(one.properties ?? {})
            .filter(([key]) => !place.siblings.includes(key) || key === place.typed)
            .map(([key, of]): Completion => {
              const nested = of.type === 'object' || of.type === 'array';
              return {
                label: key,
                type: 'property',
                detail: [of.type].flat().filter(Boolean).join(' or '),
                ...(of.description ? { info: of.description } : {}),
                apply: nested ? `${key}:` : `${key}: `,
              };
            }),
          ...(one.enum ?? []).map((value) => ({ label: String(value), type: 'enum' })),
        ]);
    return options.length === 0 ? null : { from: context.pos - place.typed.length, options, validFor: /^[\w./-]*$/ };
  };
}

function explain(schema: Schema | undefined) {
  return hoverTooltip((view, position) => {
    const line = view.state.doc.lineAt(position);
    const match = /^(\s*(?:- +)*)"?([\w./-]+)"?:/.exec(line.text);
    if (!schema || !match) return null;
    const from = line.from + (match[1] ?? '').length;
    if (position < from || position > from + (match[2] ?? '').length) return null;
    const place = yamlPlace(view.state.doc.toString(), from);
    const text = schemasAt(schema, [...place.path, match[2] ?? '']).find((one) => one.description)?.description;
    if (!text) return null;
    return {
      pos: from,
      above: true,
      create: () => {
        const dom = document.createElement('div');
        dom.className = 'cm-diagnostic';
        dom.style.maxWidth = '420px';
        dom.textContent = text;
        return { dom };
      },
    };
  });
}

/** Places of problems in the text. What has no place of its own is marked at the first line. */
function toDiagnostics(state: EditorState, problems: readonly PolicyProblem[]): Diagnostic[] {
  const at = (line: number, column: number) => {
    const found = state.doc.line(Math.max(1, Math.min(line, state.doc.lines)));
    return Math.min(found.from + Math.max(0, column - 1), found.to);
  };
  return problems.map((problem) => {
    const from = problem.line > 0 ? at(problem.line, problem.column) : 0;
    const to = problem.line > 0 ? Math.max(from, at(problem.endLine, problem.endColumn)) : state.doc.line(1).to;
    return {
      from,
      to,
      severity: problem.severity,
      message: [problem.what, problem.why, problem.fix].filter(Boolean).join('\n'),
    };
  });
}

/** A YAML editor with completion and explanations from a JSON schema, and marks of the problems that are given. */
export function YamlEditor({
  label,
  text,
  onChange,
  problems,
  schema,
  readOnly = false,
  onSubmit,
  onReady,
}: YamlEditorProps) {
  const parent = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView | undefined>(undefined);
  const help = useRef(new Compartment());
  const lock = useRef(new Compartment());
  const latest = useRef({ onChange, onSubmit, onReady });
  latest.current = { onChange, onSubmit, onReady };

  // biome-ignore lint/correctness/useExhaustiveDependencies: made once; what changes is given to it below
  useEffect(() => {
    if (!parent.current) return;
    const editor = new EditorView({
      parent: parent.current,
      doc: text,
      extensions: [
        keymap.of([
          {
            key: 'Mod-Enter',
            run: () => {
              latest.current.onSubmit?.();
              return true;
            },
          },
          ...completionKeymap,
          ...searchKeymap,
          ...historyKeymap,
          ...defaultKeymap,
          indentWithTab,
        ]),
        yaml(),
        history(),
        lineNumbers(),
        foldGutter(),
        lintGutter(),
        drawSelection(),
        indentOnInput(),
        bracketMatching(),
        highlightActiveLine(),
        highlightSelectionMatches(),
        indentUnit.of('  '),
        EditorState.tabSize.of(2),
        EditorView.contentAttributes.of({ 'aria-label': `${label}. Escape, then Tab, leaves the editor.` }),
        ...editorTheme,
        help.current.of([]),
        lock.current.of(EditorState.readOnly.of(readOnly)),
        EditorView.updateListener.of((update) => {
          if (update.docChanged) latest.current.onChange(update.state.doc.toString());
        }),
      ],
    });
    view.current = editor;
    latest.current.onReady?.({
      goTo: (line, column) => {
        const found = editor.state.doc.line(Math.max(1, Math.min(line, editor.state.doc.lines)));
        editor.dispatch({
          selection: { anchor: Math.min(found.from + Math.max(0, column - 1), found.to) },
          scrollIntoView: true,
        });
        editor.focus();
      },
    });
    return () => {
      view.current = undefined;
      editor.destroy();
    };
  }, []);
  useEffect(() => {
    const editor = view.current;
    if (editor && editor.state.doc.toString() !== text)
      editor.dispatch({ changes: { from: 0, to: editor.state.doc.length, insert: text } });
  }, [text]);
  useEffect(() => {
    const editor = view.current;
    if (editor) editor.dispatch(setDiagnostics(editor.state, toDiagnostics(editor.state, problems)));
  }, [problems]);
  useEffect(() => {
    view.current?.dispatch({
      effects: help.current.reconfigure([autocompletion({ override: [complete(schema)] }), explain(schema)]),
    });
  }, [schema]);
  useEffect(() => {
    view.current?.dispatch({ effects: lock.current.reconfigure(EditorState.readOnly.of(readOnly)) });
  }, [readOnly]);
  return <div ref={parent} className={styles.editor} />;
}
