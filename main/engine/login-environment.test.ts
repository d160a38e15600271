import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { silent } from './log.ts';
import { applyLoginEnvironment, parseEnvironment } from './login-environment.ts';

describe('the login shell’s environment', () => {
  let directory: string;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'fairlead-shell-'));
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  const shell = (name: string, text: string) => {
    const path = join(directory, name);
    writeFileSync(path, `#!/bin/sh\n${text}\n`);
    chmodSync(path, 0o755);
    return path;
  };

  it('is read between its marks, whatever a profile prints and whatever the values hold', () => {
    const entries = 'A=1\0B=two\nlines=x\0EMPTY=\0';
    expect(parseEnvironment(`Welcome!\nMM${entries}MMbye`, 'MM')).toEqual(
      new Map([
        ['A', '1'],
        ['B', 'two\nlines=x'],
        ['EMPTY', ''],
      ]),
    );
    expect(parseEnvironment('MMcut off', 'MM')).toBeUndefined();
  });

  it('is taken over from a real shell with a profile', async () => {
    const path = shell('login', 'echo hello; PATH="/opt/login:$PATH" NEW=here exec /bin/sh -c "$4"');
    const environment: NodeJS.ProcessEnv = { SHELL: path, PATH: '/usr/bin:/bin', KEEP: 'mine', PWD: '/' };
    await applyLoginEnvironment(environment, silent);
    expect(environment).toMatchObject({ NEW: 'here', KEEP: 'mine', PATH: '/opt/login:/usr/bin:/bin', PWD: '/' });
  });

  it.each([
    ['a shell that fails', 'exit 3'],
    ['one that prints something else', 'echo nothing of use'],
  ])('stays as it was with %s', async (_, text) => {
    const environment: NodeJS.ProcessEnv = { SHELL: shell('bad', text), PATH: '/bin' };
    await applyLoginEnvironment(environment, silent);
    expect(environment.PATH).toBe('/bin');
  });

  it('stays as it was without a shell', async () => {
    const environment: NodeJS.ProcessEnv = { SHELL: join(directory, 'none'), PATH: '/bin' };
    await applyLoginEnvironment(environment, silent);
    expect(Object.keys(environment)).toHaveLength(2);
  });
});
