import type { Client, StreamHandlers } from '../../contract/client.ts';
import { failed, ok } from '../../contract/failure.ts';
import type { TerminalEvent, TerminalTarget } from '../../contract/terminals.ts';

interface Session {
  readonly handlers: StreamHandlers<TerminalEvent>;
  readonly target: TerminalTarget;
  line: string;
}

const encoder = new TextEncoder();

/** Shells that answer a few words: `help`, `flood` (50 MB of output), `exit`. */
export function createFixtureTerminals(preset: string): Client['terminals'] {
  const sessions = new Map<string, Session>();
  const say = (session: Session, text: string) =>
    session.handlers.batch([{ kind: 'data', data: encoder.encode(text) }]);
  const prompt = (session: Session) =>
    void say(
      session,
      'pod' in session.target ? '\x1b[36m~ $\x1b[0m ' : `\x1b[32mroot@${session.target.node}\x1b[0m:~# `,
    );
  const begin = (session: Session) => {
    const { target } = session;
    void session.handlers.batch([
      { kind: 'opened', title: 'pod' in target ? `${target.namespace}/${target.pod}` : target.node },
    ]);
    void say(session, 'A made-up shell. It knows: help, flood, colours, exit.\r\n');
    prompt(session);
  };
  const flood = async (session: Session) => {
    const chunk = encoder.encode(`${'0123456789abcdef'.repeat(8)}\r\n`.repeat(500));
    for (let sent = 0; sent < 50_000_000 && sessions.size > 0; sent += chunk.length)
      await session.handlers.batch([{ kind: 'data', data: chunk }]);
    prompt(session);
  };
  const run = (session: Session, name: string, line: string) => {
    switch (line.trim()) {
      case '':
        return prompt(session);
      case 'exit':
        void session.handlers.batch([{ kind: 'exited', code: 0, reason: 'The shell ended.', lost: false }]);
        session.handlers.end();
        sessions.delete(name);
        return;
      case 'flood':
        return void flood(session);
      case 'colours':
        void say(
          session,
          `${[31, 32, 33, 34, 35, 36].map((code) => `\x1b[${code}mcolour ${code}\x1b[0m`).join('  ')}\r\n`,
        );
        return prompt(session);
      default:
        void say(session, `sh: ${line.trim()}: not found\r\n`);
        return prompt(session);
    }
  };
  return {
    open: ({ session: name, target }, handlers) => {
      const session: Session = { handlers, target: target as TerminalTarget, line: '' };
      sessions.set(name, session);
      const timer = setTimeout(() => {
        if (target.kind === 'node' && preset === 'errors') {
          return handlers.end({
            code: 'ssh.host-key-changed',
            what: `The host key of ${target.node} has changed. The connection was stopped.`,
            why: 'known_hosts has ed25519 SHA256:Xq1rN0Yt5k… for it; it now shows SHA256:mB72c9uVh0…. Either the node was set up anew, or somebody is in between.',
            fix: 'Ask the node’s owner for the new fingerprint over another way. If it is right, remove the old line from known_hosts.',
          });
        }
        if (target.kind === 'node')
          return void handlers.batch([
            {
              kind: 'host-key',
              host: `${target.node} (10.20.0.11:22)`,
              algorithm: 'ssh-ed25519',
              fingerprint: 'SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDldTTGl8Fkn7uEJ6M',
            },
          ]);
        begin(session);
      }, 200);
      return () => {
        clearTimeout(timer);
        sessions.delete(name);
      };
    },
    input: async ({ session: name, data }) => {
      const session = sessions.get(name);
      if (!session)
        return failed({
          code: 'terminal.closed',
          what: 'The session is closed.',
          why: 'Its shell has ended.',
          fix: 'Reconnect.',
        });
      for (const key of data) {
        if (key === '\r') {
          const line = session.line;
          session.line = '';
          void say(session, '\r\n');
          run(session, name, line);
        } else if (key === '\x7f') {
          if (session.line) void say(session, '\b \b');
          session.line = session.line.slice(0, -1);
        } else {
          session.line += key;
          void say(session, key);
        }
      }
      return ok({});
    },
    resize: async () => ok({}),
    answerHostKey: async ({ session: name, accept }) => {
      const session = sessions.get(name);
      if (session && accept) begin(session);
      else
        session?.handlers.end({
          code: 'ssh.host-key-refused',
          what: 'The host key was not trusted.',
          why: 'You chose not to trust it.',
          fix: 'Reconnect when you have checked the fingerprint.',
        });
      return ok({});
    },
    debugImages: async () =>
      ok({
        images: [
          { name: 'fairlead.lab/netshoot:1', present: true },
          { name: 'nicolaka/netshoot:v0.14', present: false },
          { name: 'busybox:1.37', present: false },
        ],
      }),
    sshHosts: async () => ok({ hosts: ['node1', 'node2', 'node3'].map((name) => ({ alias: name, node: name })) }),
  };
}
