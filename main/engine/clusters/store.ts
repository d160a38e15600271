import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod/mini';
import type { Log } from '../log.ts';
import type { RemoteCluster } from './remote.ts';

const schema = z.object({
  /** Kubeconfig files that the user added by path. */
  added: z._default(z.array(z.string()), []),
  /** Ids of clusters that the user wants gone from the list. */
  forgotten: z._default(z.array(z.string()), []),
  /** Ids of clusters that are read-only until unlocked. */
  protected: z._default(z.array(z.string()), []),
  /** Hashes of login programs that may run. */
  allowedPrograms: z._default(z.array(z.string()), []),
  /** Clusters behind SSH: where their kubeconfig is. */
  remotes: z._default(
    z.array(
      z.object({ host: z.string(), path: z.string(), context: z.string(), server: z.string(), user: z.string() }),
    ),
    [],
  ),
  /** Colours that the user gave, by cluster id. */
  colours: z._default(z.record(z.string(), z.string()), {}),
});
type Remembered = z.infer<typeof schema>;
type Key = 'added' | 'forgotten' | 'protected' | 'allowedPrograms';

/** What the list of clusters remembers between launches; holds no secret. */
export interface Store {
  readonly has: (key: Key, value: string) => boolean;
  readonly all: (key: Key) => readonly string[];
  readonly add: (key: Key, value: string) => void;
  readonly remove: (key: Key, value: string) => void;
  readonly remotes: () => readonly RemoteCluster[];
  readonly setRemotes: (remotes: readonly RemoteCluster[]) => void;
  readonly colour: (id: string) => string | undefined;
  /** "" forgets the colour. */
  readonly setColour: (id: string, colour: string) => void;
}

/** Keeps it in `clusters.json` of the state directory, written whole and renamed, readable by the user only. */
export function openStore(directory: string, log: Log): Store {
  const file = join(directory, 'clusters.json');
  let remembered: Remembered = schema.parse({});
  try {
    const read = schema.safeParse(JSON.parse(readFileSync(file, 'utf8')));
    if (read.success) remembered = read.data;
    else log.warn('clusters', `${file} is not understood and will be written anew`);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
      log.warn('clusters', `${file} cannot be read: ${String(error)}`);
  }
  const save = () => {
    try {
      mkdirSync(directory, { recursive: true, mode: 0o700 });
      writeFileSync(`${file}.new`, `${JSON.stringify(remembered, null, 2)}\n`, { mode: 0o600 });
      renameSync(`${file}.new`, file);
    } catch (error) {
      log.warn('clusters', `${file} cannot be written, so this is forgotten at the end: ${String(error)}`);
    }
  };
  return {
    has: (key, value) => remembered[key].includes(value),
    all: (key) => remembered[key],
    add(key, value) {
      if (remembered[key].includes(value)) return;
      remembered = { ...remembered, [key]: [...remembered[key], value] };
      save();
    },
    remove(key, value) {
      if (!remembered[key].includes(value)) return;
      remembered = { ...remembered, [key]: remembered[key].filter((entry) => entry !== value) };
      save();
    },
    remotes: () => remembered.remotes,
    setRemotes(remotes) {
      remembered = { ...remembered, remotes: [...remotes] };
      save();
    },
    colour: (id) => remembered.colours[id],
    setColour(id, colour) {
      const { [id]: _, ...others } = remembered.colours;
      remembered = { ...remembered, colours: colour === '' ? others : { ...others, [id]: colour } };
      save();
    },
  };
}
