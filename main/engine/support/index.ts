import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createGzip } from 'node:zlib';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import type { SupportProgress } from '../../../contract/support.ts';
import type { Agents } from '../agents/agent-pool.ts';
import type { Connections } from '../capability.ts';
import { resources } from '../kube/cluster-connection.ts';
import type { Log } from '../log.ts';
import { type ArchiveFile, tarEnd, tarEntry } from './archive.ts';
import { type Bench, definitions } from './items.ts';

export interface SupportOptions {
  readonly connections: Connections;
  readonly agents: Agents;
  readonly log: Log;
  readonly stateDirectory: string;
}

/** Texts longer than this are cut in the preview; the bundle has them whole. */
const previewLength = 64 << 10;
const pieceBytes = 256 << 10;

/** Newest part of a file of this console: its log may have grown for months. */
function tail(path: string, most = 2 << 20): string {
  const text = readFileSync(path, 'utf8');
  return text.length > most ? text.slice(-most) : text;
}

/** Collects what somebody who helps needs to see, and shows every part of it before. */
export function createSupport(options: SupportOptions): CapabilityImplementation<'support'> {
  const { connections, agents, log } = options;
  const own = new Map(
    ['fairlead.log', 'audit.jsonl'].map((name) => [name, () => tail(join(options.stateDirectory, name))] as const),
  );
  const prepare = async (
    cluster: string,
    signal: AbortSignal,
  ): Promise<Result<{ readonly bench: Bench; readonly failures: Failure[] }>> => {
    const connection = await connections.get(cluster);
    if (!connection.ok) return connection;
    const failures: Failure[] = [];
    return ok({
      failures,
      bench: { connection: connection.value, agents, signal, own, fail: (failure) => failures.push(failure) },
    });
  };

  return {
    async items({ cluster }) {
      const connection = await connections.get(cluster);
      if (!connection.ok) return connection;
      const [nodes, pods] = await Promise.all([
        connection.value.list(resources.nodes),
        connection.value.list(resources.pods),
      ]);
      const scale = { nodes: nodes.ok ? nodes.value.length : 1, pods: pods.ok ? pods.value.length : 0 };
      return ok({
        items: definitions.map(({ id, title, contents, sensitive, chosen, estimate }) => ({
          id,
          title,
          contents,
          sensitive,
          chosen,
          estimate: estimate(scale),
        })),
      });
    },

    async preview({ cluster, item }, { signal }) {
      const definition = definitions.find(({ id }) => id === item);
      if (!definition) return failed(unknownItem(item));
      const prepared = await prepare(cluster, signal);
      if (!prepared.ok) return prepared;
      const { bench, failures } = prepared.value;
      const files = await definition.collect(bench);
      return ok({
        failures,
        files: files.map(({ name, content }) => ({
          name,
          bytes: content.length,
          text: content.toString('utf8', 0, previewLength),
        })),
      });
    },

    async collect({ cluster, items }, sink, { signal }) {
      const unknown = items.find((id) => !definitions.some((definition) => definition.id === id));
      if (unknown !== undefined) return unknownItem(unknown);
      const chosen = definitions.filter(({ id }) => items.includes(id));
      const connection = await connections.get(cluster);
      if (!connection.ok) return connection.failure;
      const time = Date.now();
      const root = `fairlead-support-${new Date(time).toISOString().slice(0, 19).replaceAll(/[:T]/g, '-')}`;
      const gzip = createGzip();
      const pieces: Buffer[] = [];
      gzip.on('data', (piece: Buffer) => pieces.push(piece));
      const push = (content: Buffer) =>
        new Promise<void>((resolve, reject) => {
          gzip.write(content, (error) => (error ? reject(error) : resolve()));
        });
      const send = async () => {
        const data = Buffer.concat(pieces.splice(0));
        for (let at = 0; at < data.length; at += pieceBytes)
          await sink.push([{ kind: 'piece', data: Uint8Array.from(data.subarray(at, at + pieceBytes)) }]);
      };
      const state = (item: Omit<Extract<SupportProgress, { kind: 'item' }>, 'kind'>) =>
        sink.push([{ kind: 'item', ...item }]);
      const summary: object[] = [];
      try {
        for (const { id, collect, title } of chosen) {
          if (signal.aborted) return undefined;
          const failures: Failure[] = [];
          await state({ id, state: 'running', files: 0, bytes: 0, failures: [] });
          const bench: Bench = {
            connection: connection.value,
            agents,
            signal,
            own,
            fail: (failure) => failures.push(failure),
          };
          const files: readonly ArchiveFile[] = await collect(bench);
          for (const file of files) await push(tarEntry({ ...file, name: `${root}/${file.name}` }, time));
          await send();
          const bytes = files.reduce((sum, file) => sum + file.content.length, 0);
          summary.push({ id, title, files: files.map(({ name }) => name), bytes, failures });
          const failedWhole = files.length === 0 && failures.length > 0;
          await state({ id, state: failedWhole ? 'failed' : 'done', files: files.length, bytes, failures });
        }
        const content = Buffer.from(
          `${JSON.stringify({ format: 'fairlead.support/1', made: new Date(time).toISOString(), cluster: connection.value.contextName, items: summary }, null, 2)}\n`,
        );
        await push(tarEntry({ name: `${root}/bundle.json`, content }, time));
        await push(tarEnd);
        await new Promise<void>((resolve) => {
          gzip.once('end', resolve);
          gzip.end();
        });
        await send();
        log.info('support', `a bundle of ${connection.value.contextName} was made: ${items.join(', ')}`);
      } finally {
        gzip.destroy();
      }
      return undefined;
    },
  };
}

function unknownItem(id: string): Failure {
  return {
    code: 'support.unknown-item',
    what: 'The bundle was not made.',
    why: `There is no item “${id}”.`,
    fix: 'Choose from the list.',
  };
}
