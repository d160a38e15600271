// Pictures of every view from made-up data, light and dark, at two sizes, and an accessibility check of each:
//
//   node renderer/dev/screenshots.mjs [--only PATTERN] [--small] [--no-build] [--no-axe]
//
// Writes to e2e/screenshots/fixture/. Ends with 1 when a page throws, breaks the content policy, or has a serious finding.
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { AxeBuilder } from '@axe-core/playwright';
import { chromium } from 'playwright-core';
import { serveContent } from './serve.mjs';
import { shots } from './shots.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    small: { type: 'boolean' },
    'no-build': { type: 'boolean' },
    'no-axe': { type: 'boolean' },
  },
});
const output = join(root, 'out', 'fixture');
const pictures = join(root, 'e2e', 'screenshots', 'fixture');
mkdirSync(pictures, { recursive: true });
if (!values['no-build']) {
  const vite = join(root, 'node_modules', 'vite', 'bin', 'vite.js');
  execFileSync(
    process.execPath,
    [vite, 'build', '--mode', 'fixture', '--outDir', output, '--emptyOutDir', '--logLevel', 'warn'],
    {
      cwd: root,
      stdio: 'inherit',
    },
  );
}
const site = await serveContent(output);
const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--disable-gpu', '--no-sandbox'] });
const problems = [];
const wanted = shots.filter((shot) => !values.only || new RegExp(values.only).test(shot.name));
for (const shot of wanted) {
  for (const [width, height, schemes] of shot.sizes ?? [
    [1280, 800, ['light', 'dark']],
    [1920, 1080, ['light', 'dark']],
  ]) {
    if (values.small && width !== 1280) continue;
    const context = await browser.newContext({ viewport: { width, height }, reducedMotion: 'reduce' });
    const page = await context.newPage();
    page.on('pageerror', (error) => problems.push(`${shot.name}: ${error.stack ?? error.message}`));
    page.on('console', (message) => {
      if (message.type() === 'error') problems.push(`${shot.name}: console: ${message.text()}`);
    });
    try {
      await page.emulateMedia({ colorScheme: schemes[0] });
      await page.goto(
        `${site.origin}/?fixture=${shot.fixture ?? 'galaxy'}${shot.live ? '' : '&still'}${shot.query ?? ''}#${shot.path}`,
      );
      await page.getByRole('main').waitFor();
      await shot.ready?.(page);
      await page.waitForTimeout(shot.settle ?? 350);
      for (const scheme of schemes) {
        await page.emulateMedia({ colorScheme: scheme });
        await page.waitForTimeout(150);
        await page.screenshot({ path: join(pictures, `${shot.name}-${scheme}-${width}.png`) });
        if (values['no-axe'] || width !== 1280) continue;
        const { violations } = await new AxeBuilder({ page })
          .withTags(['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'])
          .analyze();
        for (const violation of violations.filter((one) => one.impact === 'serious' || one.impact === 'critical')) {
          const where = violation.nodes
            .slice(0, 4)
            .map((node) => `${node.target.join(' ')}: ${node.failureSummary?.split('\n').at(-1)?.trim()}`);
          problems.push(
            `${shot.name} ${scheme}: axe ${violation.id} (${violation.nodes.length}): ${where.join(' | ')}`,
          );
        }
      }
    } catch (error) {
      problems.push(`${shot.name}: ${error.message}`);
      await page.screenshot({ path: join(pictures, `${shot.name}-FAILED.png`) });
    }
    await context.close();
  }
}
await browser.close();
await site.close();
for (const problem of new Set(problems)) console.error(problem);
console.log(`${wanted.length} pages pictured in ${pictures}; ${new Set(problems).size} problems`);
process.exit(problems.length > 0 ? 1 : 0);
