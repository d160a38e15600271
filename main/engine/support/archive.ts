/** A file of an archive. */
export interface ArchiveFile {
  readonly name: string;
  readonly content: Buffer;
}

const block = 512;

function octal(value: number, length: number): string {
  return `${value.toString(8).padStart(length - 1, '0')}\0`;
}

/** Name and prefix of a ustar header: 100 and 155 bytes, split at a slash. */
function splitName(name: string): readonly [string, string] {
  if (Buffer.byteLength(name) <= 100) return [name, ''];
  for (let at = name.lastIndexOf('/'); at > 0; at = name.lastIndexOf('/', at - 1)) {
    const [prefix, rest] = [name.slice(0, at), name.slice(at + 1)];
    if (Buffer.byteLength(rest) > 100) break;
    if (Buffer.byteLength(prefix) <= 155) return [rest, prefix];
  }
  throw new Error(`the name ${name} is too long for an archive`);
}

/** One entry of a POSIX ustar archive (IEEE 1003.1), padded to its blocks. */
export function tarEntry(file: ArchiveFile, time: number): Buffer {
  const [name, prefix] = splitName(file.name);
  const header = Buffer.alloc(block);
  header.write(name, 0, 100, 'utf8');
  header.write(octal(0o600, 8), 100);
  header.write(octal(0, 8), 108);
  header.write(octal(0, 8), 116);
  header.write(octal(file.content.length, 12), 124);
  header.write(octal(Math.floor(time / 1000), 12), 136);
  header.write('        ', 148);
  header.write('0', 156);
  header.write('ustar\0', 257);
  header.write('00', 263);
  header.write(prefix, 345, 155, 'utf8');
  let sum = 0;
  for (const byte of header) sum += byte;
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  const padding = (block - (file.content.length % block)) % block;
  return Buffer.concat([header, file.content, Buffer.alloc(padding)]);
}

/** What ends an archive. */
export const tarEnd = Buffer.alloc(2 * block);
