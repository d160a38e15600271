import { useEffect, useRef } from 'react';

export interface Shortcut {
  /** Keys in order, separated by spaces: "g f", "/", "Space", "mod k". */
  readonly keys: string;
  readonly text: string;
  readonly group: 'Go to' | 'View' | 'Everywhere' | 'Tables';
}

/** Every shortcut of the console; the help overlay and the palette show these. */
export const shortcuts: readonly Shortcut[] = [
  { keys: 'g c', text: 'Clusters', group: 'Go to' },
  { keys: 'g t', text: 'Topology', group: 'Go to' },
  { keys: 'g f', text: 'Flows', group: 'Go to' },
  { keys: 'g p', text: 'Policies', group: 'Go to' },
  { keys: 'g s', text: 'Terminal (shell)', group: 'Go to' },
  { keys: 'g e', text: 'Explain', group: 'Go to' },
  { keys: 'g l', text: 'Logs', group: 'Go to' },
  { keys: 'g a', text: 'Audit', group: 'Go to' },
  { keys: 'Ctrl K', text: 'Command palette', group: 'Everywhere' },
  { keys: '?', text: 'This help', group: 'Everywhere' },
  { keys: 'Esc', text: 'Close details, dialogs and menus', group: 'Everywhere' },
  { keys: '/', text: 'Filter or find in the view', group: 'View' },
  { keys: 'Space', text: 'Pause or follow live data', group: 'View' },
  { keys: 'Ctrl Enter', text: 'Policies: dry run what is in the editor', group: 'View' },
  { keys: 'Ctrl Shift F', text: 'Terminal: search the output', group: 'View' },
  { keys: 'Ctrl Shift C', text: 'Terminal: copy the selection', group: 'View' },
  { keys: '↑ ↓', text: 'Move the active row (also j and k)', group: 'Tables' },
  { keys: 'Enter', text: 'Open the active row', group: 'Tables' },
  { keys: 'Home End', text: 'First and last row', group: 'Tables' },
];

/** Is the person typing, so that single keys are text? */
export function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement &&
    (target.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(target.tagName) || !!target.closest('.xterm'))
  );
}

/** Calls handlers by key sequence ("g f", "/", " "), unless the person is typing or a dialog is open. */
export function useShortcuts(handlers: Readonly<Record<string, () => void>>): void {
  const latest = useRef(handlers);
  latest.current = handlers;
  useEffect(() => {
    let prefix = '';
    let timer: ReturnType<typeof setTimeout> | undefined;
    const listen = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || isTyping(event.target)) return;
      if (document.querySelector('[role="dialog"][data-modal-content], .mantine-Modal-content')) return;
      const { key } = event;
      // Space presses the control that has the focus.
      if (
        key === ' ' &&
        event.target instanceof HTMLElement &&
        event.target.closest('button, a, [role="switch"], label')
      )
        return;
      const handler = latest.current[`${prefix}${key}`];
      clearTimeout(timer);
      prefix = '';
      if (handler) {
        event.preventDefault();
        handler();
      } else if (key === 'g') {
        prefix = 'g ';
        timer = setTimeout(() => {
          prefix = '';
        }, 1200);
      }
    };
    window.addEventListener('keydown', listen);
    return () => {
      clearTimeout(timer);
      window.removeEventListener('keydown', listen);
    };
  }, []);
}
