import { create } from 'zustand';
import type { Cancel, Client } from '../../../contract/client.ts';
import type { Failure } from '../../../contract/failure.ts';
import type { TerminalTarget } from '../../../contract/terminals.ts';
import { openScreen, type Screen } from './screen.ts';

/** Where a session is in its life. */
export type SessionState =
  | { readonly kind: 'opening' }
  | { readonly kind: 'open' }
  | { readonly kind: 'host-key'; readonly host: string; readonly algorithm: string; readonly fingerprint: string }
  | {
      readonly kind: 'closed';
      readonly code: number | null;
      readonly reason: string;
      readonly failure: Failure | undefined;
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

const cancels = new Map<string, Cancel>();
/** Name at the engine of a tab's present connection. */
const connections = new Map<string, string>();
let counter = 0;

function change(id: string, to: Partial<Session>): void {
  useSessions.setState(({ list }) => ({
    list: list.map((session) => (session.id === id ? { ...session, ...to } : session)),
  }));
}

/** What a tab is called: the target; the cluster's name stands beside it. */
export function targetName(target: TerminalTarget): string {
  return target.kind === 'pod' ? `${target.namespace}/${target.pod}` : target.node;
}

/** Connects a tab, for the first time or again. */
function connect(client: Client, id: string, target: TerminalTarget, screen: Screen): void {
  cancels.get(id)?.();
  counter += 1;
  const name = `${id}-${counter}`;
  connections.set(id, name);
  const { columns, rows } = screen.size();
  change(id, { state: { kind: 'opening' } });
  let exited = false;
  const cancel = client.terminals.open(
    { session: name, target, columns, rows },
    {
      // The promise settles when the screen has drawn: until then the producer gets no more credit.
      batch: async (items) => {
        const drawn: Promise<void>[] = [];
        for (const item of items) {
          switch (item.kind) {
            case 'data':
              drawn.push(screen.write(item.data));
              break;
            case 'opened':
              change(id, { state: { kind: 'open' }, title: item.title || targetName(target) });
              break;
            case 'host-key':
              change(id, { state: item });
              break;
            case 'exited':
              exited = true;
              change(id, { state: { kind: 'closed', code: item.code, reason: item.reason, failure: undefined } });
              break;
          }
        }
        await Promise.all(drawn);
      },
      end: (failure) => {
        if (connections.get(id) !== name) return;
        connections.delete(id);
        if (failure || !exited)
          change(id, { state: { kind: 'closed', code: null, reason: failure?.what ?? 'The session ended.', failure } });
      },
    },
  );
  cancels.set(id, cancel);
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
    const name = connections.get(id);
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
    for (const cancel of cancels.values()) cancel();
  });

/** Opens a tab with a session. */
export function openSession(client: Client, clusterName: string, target: TerminalTarget): void {
  counter += 1;
  // Names must be unique per engine, which may serve several windows.
  const id = `${crypto.randomUUID().slice(0, 8)}-${counter}`;
  const screen = openScreen({
    input: (data) => type(client, id, data),
    resize: (columns, rows) => {
      const name = connections.get(id);
      if (name) void client.terminals.resize({ session: name, columns, rows });
    },
  });
  useSessions.setState(({ list }) => ({
    list: [...list, { id, clusterName, target, title: targetName(target), state: { kind: 'opening' }, screen }],
    active: id,
  }));
  connect(client, id, target, screen);
}

/** Connects a closed tab again; what it showed stays. */
export function reconnect(client: Client, session: Session): void {
  session.screen.note('reconnecting');
  connect(client, session.id, session.target, session.screen);
}

/** Closes a tab and its session. */
export function closeSession(id: string): void {
  cancels.get(id)?.();
  cancels.delete(id);
  connections.delete(id);
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
  const name = connections.get(session.id);
  if (!name) return;
  change(session.id, { state: { kind: 'opening' } });
  void client.terminals.answerHostKey({ session: name, accept });
}
