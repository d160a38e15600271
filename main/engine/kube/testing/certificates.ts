import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A self-signed certificate and its key, made by openssl. `days` 0: it expires in the second that it is made. */
export function makeCertificate(subject: string, days: number): { readonly certificate: Buffer; readonly key: Buffer } {
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-cert-'));
  const file = (name: string) => join(directory, name);
  const run = (...args: readonly string[]) => execFileSync('openssl', [...args], { stdio: 'pipe' });
  try {
    run(
      'req',
      '-new',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-keyout',
      file('key'),
      '-out',
      file('request'),
      '-subj',
      `/CN=${subject}`,
      '-addext',
      'subjectAltName=IP:127.0.0.1,DNS:localhost',
    );
    run(
      'x509',
      '-req',
      '-in',
      file('request'),
      '-signkey',
      file('key'),
      '-days',
      String(days),
      '-copy_extensions',
      'copy',
      '-out',
      file('certificate'),
    );
    return { certificate: readFileSync(file('certificate')), key: readFileSync(file('key')) };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
