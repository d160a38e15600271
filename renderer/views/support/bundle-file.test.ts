import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openBundle, readTar } from './bundle-file.ts';

describe('opening a bundle', () => {
  let directory: string;
  let archive: Buffer;
  const long = 'd'.repeat(90);
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'fairlead-bundle-'));
    mkdirSync(join(directory, 'fairlead-support-x', long), { recursive: true });
    writeFileSync(join(directory, 'fairlead-support-x', 'bundle.json'), '{"a":"ü"}');
    writeFileSync(join(directory, 'fairlead-support-x', long, 'long.json'), 'y'.repeat(1000));
    archive = execFileSync('tar', [
      'cf',
      '-',
      '--format=ustar',
      '-C',
      directory,
      'fairlead-support-x/bundle.json',
      `fairlead-support-x/${long}/long.json`,
    ]);
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  it('reads its files, without the directory that holds everything', async () => {
    const opened = await openBundle(new File([new Uint8Array(gzipSync(archive))], 'b.tar.gz'));
    if (!opened.ok) throw new Error(opened.failure.why);
    expect(opened.value.map(({ name, bytes }) => [name, bytes])).toEqual([
      ['bundle.json', 10],
      [`${long}/long.json`, 1000],
    ]);
    expect(opened.value[0]?.text).toBe('{"a":"ü"}');
  });
  it('tells what is wrong with others', async () => {
    for (const content of [
      Buffer.from('text'),
      gzipSync(Buffer.from('no tar, and longer than nothing'.repeat(40))),
      gzipSync(Buffer.alloc(1024)),
    ])
      expect(await openBundle(new File([new Uint8Array(content)], 'x'))).toMatchObject({
        ok: false,
        failure: { code: 'support.unreadable' },
      });
    expect(readTar('x', archive.subarray(0, 1600))).toMatchObject({ ok: false });
  });
});
