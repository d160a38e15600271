import { open } from 'node:fs/promises';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';

/** What an image archive holds. */
export interface ImageArchive {
  readonly path: string;
  /** Name that the archive gives to its image, e.g. "fairlead.dev/agent:0.1.0". */
  readonly name: string;
  /** Digest of the manifest (OCI layout) or of the configuration (docker archive): "sha256:…". */
  readonly digest: string;
  /** Name under which nodes hold it: the repository with a tag made of the digest, so that equal names mean equal content. */
  readonly reference: string;
  /** Size of the archive in bytes. */
  readonly bytes: number;
  /** Values that the agent in it knows; undefined when the archive does not say. */
  readonly agentKeys?: readonly string[];
}

interface Descriptor {
  readonly digest?: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

function unreadable(path: string, why: string): Failure {
  return {
    code: 'install.image-unreadable',
    what: 'The agent image archive cannot be used.',
    why,
    fix: 'Build it again with `node scripts/build-agent.mjs`.',
    details: path.split('/').at(-1) ?? path,
  };
}

/** Reads the small JSON files of a tar; layers are skipped without being read. */
async function readIndexFiles(path: string): Promise<ReadonlyMap<string, string>> {
  const wanted = new Set(['index.json', 'manifest.json']);
  const found = new Map<string, string>();
  const file = await open(path, 'r');
  try {
    const header = Buffer.alloc(512);
    let offset = 0;
    while (found.size < wanted.size) {
      const { bytesRead } = await file.read(header, 0, 512, offset);
      if (bytesRead < 512 || header[0] === 0) break;
      const name = header.subarray(0, 100).toString('latin1').replace(/\0.*$/s, '').replace(/^\.\//, '');
      const size = Number.parseInt(header.subarray(124, 136).toString('latin1').replace(/\0/g, '').trim(), 8);
      if (!Number.isFinite(size)) throw new Error('it is not a tar archive');
      if (wanted.has(name) && size < 1 << 20) {
        const body = Buffer.alloc(size);
        await file.read(body, 0, size, offset + 512);
        found.set(name, body.toString('utf8'));
      }
      offset += 512 + Math.ceil(size / 512) * 512;
    }
    return found;
  } finally {
    await file.close();
  }
}

/** Repository of an image name without tag and digest. */
function repositoryOf(name: string): string {
  const plain = name.replace(/@.*$/, '');
  return /:[^/]*$/.test(plain) ? plain.slice(0, plain.lastIndexOf(':')) : plain;
}

/** Reads which image an OCI or docker archive holds. */
export async function readImageArchive(path: string): Promise<Result<ImageArchive>> {
  try {
    const file = await open(path, 'r');
    const bytes = (await file.stat()).size;
    await file.close();
    const files = await readIndexFiles(path);
    const index = JSON.parse(files.get('index.json') ?? '{}') as { readonly manifests?: readonly Descriptor[] };
    const docker = JSON.parse(files.get('manifest.json') ?? '[]') as readonly {
      readonly Config?: string;
      readonly RepoTags?: readonly string[];
    }[];
    const manifest = index.manifests?.[0];
    const annotated = manifest?.annotations ?? {};
    const name =
      annotated['io.containerd.image.name'] ??
      docker[0]?.RepoTags?.[0] ??
      annotated['org.opencontainers.image.ref.name'] ??
      '';
    const hex = manifest?.digest?.replace(/^sha256:/, '') ?? /([0-9a-f]{64})/.exec(docker[0]?.Config ?? '')?.[1] ?? '';
    if (!/^[0-9a-f]{64}$/.test(hex) || !name.includes('/'))
      return failed(unreadable(path, 'It names no image, or has no index.json.'));
    const keys = annotated['dev.fairlead.values'];
    return ok({
      ...(keys ? { agentKeys: keys.split(',') } : {}),
      path,
      name,
      digest: `sha256:${hex}`,
      reference: `${repositoryOf(name)}:sha256-${hex.slice(0, 16)}`,
      bytes,
    });
  } catch (error) {
    return failed(unreadable(path, error instanceof Error ? error.message : String(error)));
  }
}

/** Does the node's own list of images (node.status.images) hold it? The list is up to a minute old. */
export function nodeHasImage(names: readonly string[], image: Pick<ImageArchive, 'reference'>): boolean {
  return names.includes(image.reference);
}
