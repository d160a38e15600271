import { PassThrough } from 'node:stream';
import { expect, test } from 'vitest';
import type { TerminalEvent } from '../../../contract/terminals.ts';
import { createPump } from './pump.ts';

/** A view that takes nothing until it is told to. */
function view() {
  const events: TerminalEvent[] = [];
  const open = Promise.withResolvers<void>();
  const waiting = Promise.withResolvers<void>();
  return {
    events,
    /** Resolves once the pump waits for the view. */
    asked: () => waiting.promise,
    take: () => open.resolve(),
    sink: {
      push: async (items: readonly TerminalEvent[]) => {
        waiting.resolve();
        await open.promise;
        events.push(...items);
      },
    },
  };
}

const text = (events: readonly TerminalEvent[]) =>
  events.map((event) => (event.kind === 'data' ? Buffer.from(event.data).toString() : `<${event.kind}>`)).join('');

test('everything in its order, however slow the view', async () => {
  const { events, sink, take } = view();
  const output = new PassThrough();
  const done = createPump(sink).run(output);
  output.write('one ');
  output.write('two ');
  output.end('three');
  take();
  await done;
  expect(text(events)).toBe('one two three');
});

test('Ctrl+C in a flood passes over what is on its way, says how much, and keeps the end', async () => {
  const { events, sink, take, asked } = view();
  const output = new PassThrough({ highWaterMark: 1 << 20 });
  const pump = createPump(sink);
  const done = pump.run(output);
  const line = `${'x'.repeat(63)}\n`;
  // More than a flood, none of which the view takes: one piece is on its way, the rest waits.
  output.write(line.repeat(8192));
  await asked();
  pump.interrupt();
  // What follows is read although the view has taken nothing yet.
  await new Promise<void>((resolve) => output.write(line.repeat(16_384), () => resolve()));
  output.end('\r\n~ # ');
  take();
  await done;
  const skipped = events.filter((event) => event.kind === 'skipped');
  expect(skipped).toHaveLength(1);
  const shown = events.reduce((sum, event) => sum + (event.kind === 'data' ? event.data.length : 0), 0);
  const passed = skipped[0]?.kind === 'skipped' ? skipped[0].bytes : 0;
  expect(shown + passed).toBe(64 * (8192 + 16_384) + 6);
  expect(shown).toBeLessThan(200_000);
  expect(text(events).endsWith('x\n\r\n~ # ')).toBe(true);
});

test('Ctrl+C at a prompt passes over nothing', async () => {
  const { events, sink, take, asked } = view();
  const output = new PassThrough();
  const pump = createPump(sink);
  const done = pump.run(output);
  output.write('~ # ');
  await asked();
  pump.interrupt();
  output.end('^C\r\n~ # ');
  take();
  await done;
  expect(text(events)).toBe('~ # ^C\r\n~ # ');
});

test('a view that is gone ends it', async () => {
  const output = new PassThrough();
  const done = createPump({ push: () => Promise.reject(new Error('gone')) }).run(output);
  output.write('a');
  output.end('b');
  await expect(done).rejects.toThrow('gone');
});
