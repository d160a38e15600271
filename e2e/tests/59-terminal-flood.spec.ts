import { expect, test } from '@playwright/test';
import { labArguments, openView, type RunningConsole, startConsole } from '../support/console.ts';
import { outputOf, says, types } from '../support/terminal.ts';

/** A flood through one shell. */
test.describe('a flood of output', () => {
  let running: RunningConsole;
  test.beforeAll(async () => {
    running = await startConsole(await labArguments());
  });
  test.afterAll(async () => {
    await running.close();
  });

  test('fifty megabytes of output: frames go on, and no more is on its way than the screen takes', async ({ page }) => {
    test.setTimeout(600_000);
    let received = 0;
    page.on('websocket', (socket) =>
      socket.on('framereceived', ({ payload }) => {
        received += payload.length;
      }),
    );
    await openView(page, running, 'terminal?pod=galaxy/xwing');
    await expect(page.locator('.xterm-screen')).toBeVisible({ timeout: 30_000 });
    await says(page, 'echo ready-$((1+1))', 'ready-2');
    interface Frames {
      longest: number;
      count: number;
      heap: number;
      stop: boolean;
    }
    const watch = () =>
      page.evaluate(() => {
        const frames: Frames = { longest: 0, count: 0, heap: 0, stop: false };
        const scope = window as unknown as { frames: Frames };
        scope.frames = frames;
        let last = performance.now();
        const look = (now: number) => {
          frames.longest = Math.max(frames.longest, now - last);
          last = now;
          frames.count += 1;
          const memory = (performance as unknown as { memory?: { usedJSHeapSize: number } }).memory;
          frames.heap = Math.max(frames.heap, memory?.usedJSHeapSize ?? 0);
          if (!frames.stop) requestAnimationFrame(look);
        };
        requestAnimationFrame(look);
      });
    const seen = () =>
      page.evaluate(() => {
        const { frames } = window as unknown as { frames: Frames };
        frames.stop = true;
        return frames;
      });

    // How even frames are while nothing happens says how busy this machine is with other things.
    await watch();
    await page.waitForFunction(() => (window as unknown as { frames: Frames }).frames.count >= 60);
    const idle = await seen();
    await watch();
    const before = received;
    const started = performance.now();
    await types(
      page,
      "yes 'the quick brown fox jumps over the lazy dog, again and again' | head -c 50000000; echo; echo all-$((1+1))",
    );
    // Looking at the screen's text is work for the page too: only once the bytes are there.
    await expect.poll(() => received - before, { timeout: 400_000 }).toBeGreaterThan(50e6);
    await expect.poll(async () => (await outputOf(page)).slice(-2000), { timeout: 60_000 }).toContain('all-2');
    const seconds = (performance.now() - started) / 1000;
    const frames = await seen();
    const perSecond = frames.count / seconds;
    console.log(
      `50 MB in ${seconds.toFixed(1)} s: ${perSecond.toFixed(0)} frames/s, longest ${frames.longest.toFixed(0)} ms (${idle.longest.toFixed(0)} ms when idle), heap at most ${(frames.heap / 1e6).toFixed(0)} MB, received ${((received - before) / 1e6).toFixed(0)} MB`,
    );
    // Chromium here has no GPU and two cores are shared with a whole cluster; a frozen page has gaps of many seconds.
    expect(frames.longest).toBeLessThan(Math.max(1500, 10 * idle.longest));
    expect(perSecond).toBeGreaterThan(3);
    expect(frames.heap).toBeLessThan(300e6);
    expect(received - before).toBeGreaterThan(50e6);

    // Endless output, then Ctrl+C: what still arrives after it is what was on its way, and that is bounded.
    await types(page, 'yes 0123456789abcdef0123456789abcdef');
    const flowing = received;
    await expect.poll(() => received - flowing).toBeGreaterThan(2e6);
    await page.keyboard.press('Control+C');
    const pressed = received;
    await types(page, 'echo stopped-$((1+1))');
    const tail = async () => (await outputOf(page)).slice(-2000);
    await expect.poll(tail, { timeout: 30_000 }).toContain('stopped-2');
    const late = received - pressed;
    const passed = /\[(.*) of output passed over/.exec(await outputOf(page))?.[1];
    console.log(`after Ctrl+C ${(late / 1e6).toFixed(1)} MB more arrived, ${passed} were passed over`);
    expect(late).toBeLessThan(2e6);
    expect(passed).toBeTruthy();
  });
});
