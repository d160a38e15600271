import { create } from 'zustand';
import type { Cancel, Client } from '../../../contract/client.ts';
import type { Failure } from '../../../contract/failure.ts';
import type { TerminalTarget } from '../../../contract/terminals.ts';
import { formatBytes } from '../../ui/format.ts';
import { openScreen, type Screen } from './screen.ts';

/** Where a session is in its life. */
export type SessionState =
  | { readonly kind: 'opening'; readonly text: string }
  | { readonly kind: 'open' }
  | { readonly kind: 'host-key'; readonly host: string; readonly algorithm: string; readonly fingerprint: string }
  /** The connection was lost; the next attempt is at `at`. */
  | { readonly kind: 'waiting'; readonly at: number; readonly attempt: number; readonly reason: string }
  | {
      readonly kind: 'closed';
      readonly code: number | null;
      readonly reason: string;
      readonly failure: Failure | undefined;
      /** The connection was lost rather than the shell ended. */
      readonly lost: boolean;
    };

export interface Session {
  /** Of the tab; each connection of it has a name of its own at the engine. */
  readonly id: string;
  readonly clusterName: string;
  readonly target: TerminalTarget;
  readonly title: string;
  readonly state: SessionState;
  readonly screen: Screen;
}

interface Sessions {
  readonly list: readonly Session[];
  readonly active: string;
  readonly choose: (id: string) => void;
}

/** Tabs of the terminal. They live outside of the view: a shell goes on while another view is looked at. */
export const useSessions = create<Sessions>()((set) => ({
  list: [],
  active: '',
  choose: (id) => set({ active: id }),
}));

/** A tab's connections: the present one, and what leads to the next. */
interface Line {
  cancel: Cancel;
  /** Name of the present connection at the engine; undefined when there is none. */
  name: string | undefined;
  /** The one before it, which may have left something that is used again. */
  last: string | undefined;
  /** Attempts in a row that nobody has asked for. */
  attempts: number;
  timer: ReturnType<typeof setTimeout> | undefined;
}
const lines = new Map<string, Line>();
let counter = 0;

/** Seconds before each attempt to connect again by itself; after the last one a person has to ask. */
const retrySeconds = [1, 2, 4, 8, 15, 15, 15, 30, 30] as const;

function change(id: string, to: Partial<Session>): void {
  useSessions.setState(({ list }) => ({
    list: list.map((session) => (session.id === id ? { ...session, ...to } : session)),
  }));
}

/** What a tab is called: the target; the cluster's name stands beside it. */
export function targetName(target: TerminalTarget): string {
  switch (target.kind) {
    case 'pod':
    case 'debug':
      return `${target.namespace}/${target.pod}`;
    case 'node':
    case 'node-pod':
      return target.node;
  }
}

/** By what the target is reached, in a word or two. */
export function targetWay(target: TerminalTarget): string {
  switch (target.kind) {
    case 'pod':
      return target.container || 'pod';
    case 'debug':
      return 'debug container';
    case 'node':
      return 'ssh';
    case 'node-pod':
      return 'debug pod';
  }
}

/** Shells on nodes by SSH come back by themselves; others may have been ended by what ended the connection. */
const comesBack = (target: TerminalTarget) => target.kind === 'node';

/** What will not be mended by trying again. */
const hopeless =
  /^(ssh\.(authentication|host-key|login|key-|no-keys|config|proxy)|terminal\.|cluster\.(protected|unknown))/;

const clock = () => new Date().toLocaleTimeString('en-GB');

/** Connects a tab, for the first time or again. */
function connect(client: Client, id: string, target: TerminalTarget, screen: Screen, unattended: boolean): void {
  const line = lines.get(id);
  if (!line) return;
  clearTimeout(line.timer);
  line.cancel();
  counter += 1;
  const name = `${id}-${counter}`;
  const { last } = line;
  line.name = name;
  line.last = name;
  const { columns, rows } = screen.size();
  change(id, { state: { kind: 'opening', text: '' } });
  let exited = false;
  let opened = false;
  const again = last !== undefined;
  const lost = (reason: string, failure: Failure | undefined) => {
    const seconds = retrySeconds[line.attempts];
    // What never was there does not come back by itself.
    if (comesBack(target) && (opened || unattended) && seconds !== undefined && !hopeless.test(failure?.code ?? '')) {
      line.attempts += 1;
      change(id, { state: { kind: 'waiting', at: Date.now() + seconds * 1000, attempt: line.attempts, reason } });
      line.timer = setTimeout(() => connect(client, id, target, screen, true), seconds * 1000);
    } else change(id, { state: { kind: 'closed', code: null, reason, failure, lost: true } });
  };
  line.cancel = client.terminals.open(
    {
      session: name,
      target,
      columns,
      rows,
      ...(last === undefined ? {} : { resumes: last }),
      ...(unattended ? { unattended } : {}),
    },
    {
      // What has been sent cannot be taken back by Ctrl+C: little may be under way.
      window: { items: 256, bytes: 1 << 20 },
      // The promise settles when the screen has drawn: until then the producer gets no more credit.
      batch: async (items) => {
        const drawn: Promise<void>[] = [];
        for (const item of items) {
          switch (item.kind) {
            case 'data':
              drawn.push(screen.write(item.data));
              break;
            case 'skipped':
              screen.note(`${formatBytes(item.bytes)} of output passed over after Ctrl+C`);
              break;
            case 'progress':
              change(id, { state: { kind: 'opening', text: item.text } });
              break;
            case 'opened':
              opened = true;
              line.attempts = 0;
              if (again) screen.note(`reconnected at ${clock()}: a new shell; what stands above is from before`);
              change(id, { state: { kind: 'open' }, title: item.title || targetName(target) });
              break;
            case 'host-key':
              change(id, { state: item });
              break;
            case 'exited':
              exited = true;
              if (item.lost) {
                screen.note(`connection lost at ${clock()}`);
                lost(item.reason, undefined);
              } else
                change(id, {
                  state: { kind: 'closed', code: item.code, reason: item.reason, failure: undefined, lost: false },
                });
              break;
          }
        }
        await Promise.all(drawn);
      },
      end: (failure) => {
        if (line.name !== name) return;
        line.name = undefined;
        if (failure || !exited) lost(failure?.what ?? 'The session ended.', failure);
      },
    },
  );
}

/** What was typed and is not sent yet, by tab; an entry exists while a call is under way. */
const typed = new Map<string, string>();

/** Sends what is typed in its order: one call at a time, with all that came meanwhile in the next. */
function type(client: Client, id: string, data: string): void {
  const waiting = typed.get(id);
  if (waiting !== undefined) {
    typed.set(id, waiting + data);
    return;
  }
  typed.set(id, '');
  void send(client, id, data);
}

async function send(client: Client, id: string, first: string): Promise<void> {
  for (let data = first; data !== ''; ) {
    const name = lines.get(id)?.name;
    if (!name) break;
    await client.terminals.input({ session: name, data });
    data = typed.get(id) ?? '';
    if (data !== '') typed.set(id, '');
  }
  typed.delete(id);
}

// A page that goes takes its shells with it, also where the engine outlives the page.
if (typeof window !== 'undefined')
  window.addEventListener('pagehide', () => {
    for (const line of lines.values()) line.cancel();
  });

/** Opens a tab with a session. */
export function openSession(client: Client, clusterName: string, target: TerminalTarget): void {
  counter += 1;
  // Names must be unique per engine, which may serve several windows.
  const id = `${crypto.randomUUID().slice(0, 8)}-${counter}`;
  const screen = openScreen({
    input: (data) => type(client, id, data),
    resize: (columns, rows) => {
      const name = lines.get(id)?.name;
      if (name) void client.terminals.resize({ session: name, columns, rows });
    },
  });
  lines.set(id, { cancel: () => {}, name: undefined, last: undefined, attempts: 0, timer: undefined });
  useSessions.setState(({ list }) => ({
    list: [
      ...list,
      { id, clusterName, target, title: targetName(target), state: { kind: 'opening', text: '' }, screen },
    ],
    active: id,
  }));
  connect(client, id, target, screen, false);
}

/** Connects a tab again because somebody asked for it; what it showed stays. */
export function reconnect(client: Client, session: Session): void {
  const line = lines.get(session.id);
  if (line) line.attempts = 0;
  connect(client, session.id, session.target, session.screen, false);
}

/** Ends the attempts to connect a tab again. */
export function stopRetrying(session: Session): void {
  if (session.state.kind !== 'waiting') return;
  clearTimeout(lines.get(session.id)?.timer);
  change(session.id, {
    state: { kind: 'closed', code: null, reason: session.state.reason, failure: undefined, lost: true },
  });
}

/** Closes a tab and its session. */
export function closeSession(id: string): void {
  const line = lines.get(id);
  clearTimeout(line?.timer);
  line?.cancel();
  lines.delete(id);
  const { list, active } = useSessions.getState();
  const index = list.findIndex((session) => session.id === id);
  list[index]?.screen.dispose();
  const rest = list.filter((session) => session.id !== id);
  useSessions.setState({
    list: rest,
    active: active === id ? (rest[Math.min(index, rest.length - 1)]?.id ?? '') : active,
  });
}

/** Answers the question about an unknown host key. */
export function answerHostKey(client: Client, session: Session, accept: boolean): void {
  const name = lines.get(session.id)?.name;
  if (!name) return;
  change(session.id, { state: { kind: 'opening', text: '' } });
  void client.terminals.answerHostKey({ session: name, accept });
}
