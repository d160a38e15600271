import { HighlightStyle, syntaxHighlighting } from '@codemirror/language';
import type { Extension } from '@codemirror/state';
import { EditorView } from '@codemirror/view';
import { tags } from '@lezer/highlight';

/** The editor in the page's colours; variables make it follow light and dark by itself. */
export const editorTheme: readonly Extension[] = [
  EditorView.theme({
    '&': { color: 'var(--text)', backgroundColor: 'var(--surface)', fontSize: '12.5px', height: '100%' },
    '&.cm-focused': { outline: 'none' },
    '.cm-scroller': { fontFamily: 'var(--font-mono)', lineHeight: '1.55' },
    '.cm-content': { caretColor: 'var(--accent)' },
    '.cm-cursor': { borderLeftColor: 'var(--accent)' },
    '.cm-gutters': { backgroundColor: 'var(--raised)', color: 'var(--faint)', borderRight: '1px solid var(--line)' },
    '.cm-activeLine': { backgroundColor: 'color-mix(in srgb, var(--hover) 65%, transparent)' },
    '.cm-activeLineGutter': { backgroundColor: 'var(--hover)', color: 'var(--text)' },
    '&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground': {
      backgroundColor: 'color-mix(in srgb, var(--accent) 28%, transparent) !important',
    },
    '.cm-tooltip': {
      border: '1px solid var(--line-strong)',
      borderRadius: '5px',
      backgroundColor: 'var(--surface)',
      color: 'var(--text)',
      boxShadow: 'var(--shadow)',
    },
    '.cm-tooltip-autocomplete ul li[aria-selected]': { backgroundColor: 'var(--selected)', color: 'var(--text)' },
    '.cm-completionDetail': { color: 'var(--muted)', fontStyle: 'normal' },
    '.cm-diagnostic': { padding: '5px 9px' },
    '.cm-panels': { backgroundColor: 'var(--raised)', color: 'var(--text)' },
    '.cm-collapsedLines': { color: 'var(--muted)', background: 'var(--raised)' },
    // The library's own signs are in few fonts.
    '.cm-collapsedLines::before, .cm-collapsedLines::after': { content: '"⋯"' },
    '&.cm-merge-a .cm-changedLine, .cm-deletedChunk': {
      backgroundColor: 'color-mix(in srgb, var(--bad) 9%, transparent)',
    },
    '&.cm-merge-b .cm-changedLine': { backgroundColor: 'color-mix(in srgb, var(--ok) 9%, transparent)' },
    '&.cm-merge-a .cm-changedText': { background: 'color-mix(in srgb, var(--bad) 9%, transparent)' },
    '&.cm-merge-b .cm-changedText': { background: 'color-mix(in srgb, var(--ok) 9%, transparent)' },
  }),
  syntaxHighlighting(
    HighlightStyle.define([
      { tag: [tags.propertyName, tags.definition(tags.propertyName)], color: 'var(--info)' },
      { tag: [tags.string, tags.special(tags.string)], color: 'var(--ok)' },
      { tag: [tags.number, tags.bool, tags.null, tags.keyword], color: 'var(--bad)' },
      { tag: tags.comment, color: 'var(--muted)', fontStyle: 'italic' },
      { tag: [tags.punctuation, tags.separator, tags.meta], color: 'var(--muted)' },
    ]),
  ),
];
