import { FitAddon } from '@xterm/addon-fit';
import { SearchAddon } from '@xterm/addon-search';
import { WebglAddon } from '@xterm/addon-webgl';
import { type ITheme, Terminal } from '@xterm/xterm';
import '@xterm/xterm/css/xterm.css';

export interface ScreenHandlers {
  readonly input: (data: string) => void;
  readonly resize: (columns: number, rows: number) => void;
}

export interface SearchOptions {
  readonly backwards: boolean;
  readonly caseSensitive: boolean;
  readonly pattern: boolean;
}

/** One terminal's screen. It has an element of its own that is moved into and out of the page. */
export interface Screen {
  /** Settles when the data has been parsed, so that a flood waits for the screen. */
  readonly write: (data: Uint8Array) => Promise<void>;
  /** A line of the console's own, in grey. */
  readonly note: (text: string) => void;
  readonly show: (parent: HTMLElement) => () => void;
  readonly size: () => { readonly columns: number; readonly rows: number };
  readonly focus: () => void;
  /** Goes to the next place where a text stands; "bad" for a pattern that cannot be read. */
  readonly search: (text: string, options: SearchOptions) => 'found' | 'none' | 'bad';
  /** Takes the marks of a search away. */
  readonly endSearch: () => void;
  /** Told, while searching, which match of how many is shown; -1: too many to count. */
  readonly onMatches: (listener: (index: number, count: number) => void) => () => void;
  readonly selection: () => string;
  readonly text: () => string;
  readonly clear: () => void;
  readonly dispose: () => void;
}

/** Browsers have few WebGL contexts per page; after this many losses terminals draw with the DOM. */
const mostContextLosses = 3;
let contextLosses = 0;

/** The 16 colours on the terminal's own dark ground, which stays dark in both schemes, as shells expect. */
const colours: ITheme = {
  background: '#0d141a',
  foreground: '#dbe4ea',
  cursor: '#4cc3c3',
  cursorAccent: '#0d141a',
  selectionBackground: '#2f5560',
  black: '#22303c',
  red: '#ff8a70',
  green: '#5fd3a5',
  yellow: '#f0bc4e',
  blue: '#6db9ee',
  magenta: '#d59bea',
  cyan: '#58cdd0',
  white: '#dbe4ea',
  brightBlack: '#7d8f9c',
  brightRed: '#ffab95',
  brightGreen: '#86e6c1',
  brightYellow: '#f8d384',
  brightBlue: '#9bd1f7',
  brightMagenta: '#e5bdf3',
  brightCyan: '#8ae3e3',
  brightWhite: '#ffffff',
};

/** How matches of a search are marked. */
const marks = {
  matchBackground: '#2f5560',
  matchOverviewRuler: '#4cc3c3',
  activeMatchBackground: '#8a6a1f',
  activeMatchColorOverviewRuler: '#f0bc4e',
};

/** Makes a screen that is not in the page yet. */
export function openScreen(handlers: ScreenHandlers): Screen {
  const element = document.createElement('div');
  element.style.height = '100%';
  const terminal = new Terminal({
    fontFamily: "'JetBrains Mono Variable', 'DejaVu Sans Mono', monospace",
    fontSize: 13,
    lineHeight: 1.15,
    scrollback: 10_000,
    cursorBlink: !matchMedia('(prefers-reduced-motion: reduce)').matches,
    theme: colours,
    allowProposedApi: true,
    screenReaderMode: false,
  });
  const fit = new FitAddon();
  const search = new SearchAddon();
  terminal.loadAddon(fit);
  terminal.loadAddon(search);
  terminal.onData(handlers.input);
  terminal.onResize(({ cols, rows }) => handlers.resize(cols, rows));
  // Ctrl+Shift+C copies; Ctrl+C stays with the shell.
  terminal.attachCustomKeyEventHandler((event) => {
    if (
      event.type === 'keydown' &&
      event.ctrlKey &&
      event.shiftKey &&
      event.code === 'KeyC' &&
      terminal.hasSelection()
    ) {
      event.preventDefault();
      void navigator.clipboard.writeText(terminal.getSelection());
      return false;
    }
    // The view's own: Ctrl+Shift+F searches; Ctrl+K, the palette, is also the keyboard's way out of the terminal.
    if (event.ctrlKey && event.shiftKey && event.code === 'KeyF') return false;
    return !((event.ctrlKey || event.metaKey) && !event.shiftKey && event.code === 'KeyK' && event.type === 'keydown');
  });
  let opened = false;
  let webgl: WebglAddon | undefined;
  const drawWithGpu = () => {
    if (webgl || contextLosses >= mostContextLosses) return;
    try {
      const addon = new WebglAddon();
      addon.onContextLoss(() => {
        contextLosses += 1;
        addon.dispose();
        webgl = undefined;
      });
      terminal.loadAddon(addon);
      webgl = addon;
    } catch {
      // No WebGL here: the DOM renderer, which is xterm's own fallback, goes on drawing.
      contextLosses = mostContextLosses;
    }
  };
  return {
    write: (data) => new Promise((resolve) => terminal.write(data, resolve)),
    note: (text) => terminal.write(`\r\n\x1b[90m[${text}]\x1b[0m\r\n`),
    show(parent) {
      parent.append(element);
      if (!opened) {
        opened = true;
        terminal.open(element);
      }
      drawWithGpu();
      const resize = () => {
        if (element.clientHeight > 0) fit.fit();
      };
      resize();
      const observer = new ResizeObserver(resize);
      observer.observe(element);
      // Who walks through the tabs with the arrow keys stays there.
      if (!document.activeElement?.closest('[data-terminal-tabs]')) terminal.focus();
      return () => {
        observer.disconnect();
        // A hidden terminal gives its context back: there are few.
        webgl?.dispose();
        webgl = undefined;
        element.remove();
      };
    },
    size: () => ({ columns: terminal.cols, rows: terminal.rows }),
    focus: () => terminal.focus(),
    search(text, { backwards, caseSensitive, pattern }) {
      if (pattern) {
        try {
          new RegExp(text);
        } catch {
          return 'bad';
        }
      }
      const options = { caseSensitive, regex: pattern, decorations: marks };
      const found = backwards ? search.findPrevious(text, options) : search.findNext(text, options);
      return found ? 'found' : 'none';
    },
    endSearch: () => search.clearDecorations(),
    onMatches(listener) {
      const registration = search.onDidChangeResults(({ resultIndex, resultCount }) =>
        listener(resultIndex, resultCount),
      );
      return () => registration.dispose();
    },
    selection: () => terminal.getSelection(),
    text() {
      const buffer = terminal.buffer.active;
      const lines: string[] = [];
      for (let line = 0; line < buffer.length; line += 1)
        lines.push(buffer.getLine(line)?.translateToString(true) ?? '');
      return `${lines.join('\n').trimEnd()}\n`;
    },
    clear: () => terminal.clear(),
    dispose() {
      element.remove();
      terminal.dispose();
    },
  };
}
