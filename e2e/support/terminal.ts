import { readFileSync } from 'node:fs';
import { expect, type Page } from '@playwright/test';

/** Text of the terminal in front, through the view's own button. */
export async function outputOf(page: Page): Promise<string> {
  const [download] = await Promise.all([
    page.waitForEvent('download'),
    page.getByRole('button', { name: 'Save the output as text' }).click(),
  ]);
  return readFileSync(await download.path(), 'utf8');
}

export async function types(page: Page, line: string): Promise<void> {
  await page.locator('.xterm-screen').last().click();
  await page.keyboard.type(line);
  await page.keyboard.press('Enter');
}

/** Types a line and waits until the output has what it must print. */
export async function says(page: Page, line: string, text: string | RegExp, seconds = 20): Promise<void> {
  await types(page, line);
  // The end of it: a failure is to be readable.
  const matcher = expect.poll(async () => (await outputOf(page)).slice(-20_000), { timeout: seconds * 1000 });
  await (typeof text === 'string' ? matcher.toContain(text) : matcher.toMatch(text));
}
