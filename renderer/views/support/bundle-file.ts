import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';

/** A file of an opened bundle. */
export interface BundleFile {
  readonly name: string;
  readonly bytes: number;
  readonly text: string;
}

const block = 512;
/** A bundle is text; what would not fit into a page is not opened in one. */
const mostBytes = 512 << 20;

const broken = (name: string, why: string): Failure => ({
  code: 'support.unreadable',
  what: `${name} cannot be opened.`,
  why,
  fix: 'Choose a bundle that Fairlead has made (.tar.gz), and check that it was copied whole.',
});

/** Reads a tar archive (ustar) whose files are texts. Nothing is written anywhere. */
export function readTar(name: string, bytes: Uint8Array): Result<readonly BundleFile[]> {
  const decoder = new TextDecoder();
  const field = (at: number, length: number) => {
    const raw = decoder.decode(bytes.subarray(at, at + length));
    const end = raw.indexOf('\0');
    return end < 0 ? raw : raw.slice(0, end);
  };
  const files: BundleFile[] = [];
  for (let at = 0; at + block <= bytes.length; ) {
    if (bytes[at] === 0) break;
    if (field(at + 257, 5) !== 'ustar') return failed(broken(name, 'It is not a tar archive.'));
    const size = Number.parseInt(field(at + 124, 12).trim(), 8);
    if (!Number.isFinite(size) || at + block + size > bytes.length)
      return failed(broken(name, 'It ends in the middle of a file.'));
    const prefix = field(at + 345, 155);
    const path = `${prefix ? `${prefix}/` : ''}${field(at, 100)}`;
    if (field(at + 156, 1) === '0')
      files.push({
        name: path.split('/').slice(1).join('/') || path,
        bytes: size,
        text: decoder.decode(bytes.subarray(at + block, at + block + size)),
      });
    at += block + Math.ceil(size / block) * block;
  }
  return files.length === 0 ? failed(broken(name, 'It holds no files.')) : ok(files);
}

/** Unpacks a file of the user's in this page. */
export async function openBundle(file: File): Promise<Result<readonly BundleFile[]>> {
  try {
    const stream = file.stream().pipeThrough(new DecompressionStream('gzip'));
    const reader = stream.getReader();
    const parts: Uint8Array[] = [];
    let total = 0;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      total += value.length;
      if (total > mostBytes) {
        await reader.cancel();
        return failed(broken(file.name, `It is larger than ${mostBytes >> 20} MiB when unpacked.`));
      }
      parts.push(value);
    }
    const bytes = new Uint8Array(total);
    let at = 0;
    for (const part of parts) {
      bytes.set(part, at);
      at += part.length;
    }
    return readTar(file.name, bytes);
  } catch (error) {
    return failed(broken(file.name, error instanceof Error ? error.message : String(error)));
  }
}
