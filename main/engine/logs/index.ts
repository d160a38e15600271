import type { Readable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import type { LogItem, LogSource } from '../../../contract/logs.ts';
import { pause } from '../agents/agent-pool.ts';
import type { Connections } from '../capability.ts';
import type { ClusterConnection } from '../kube/cluster-connection.ts';
import type { Log } from '../log.ts';
import { Merge, plain, splitLine } from './merge.ts';

export interface LogsOptions {
  readonly connections: Connections;
  readonly log: Log;
}

/** How long a line waits for older ones of other sources, and how often ready lines are sent, in milliseconds. */
const hold = 250;
const flushInterval = 50;
/** Readers wait while so many lines are held: the view takes fewer than come. */
const mostHeld = 5000;
const mostSources = 200;
const retryDelays = [500, 1000, 2000, 5000];
const batch = 500;

/** A line longer than this is cut: nobody reads it, and it would have to be held whole. */
const longestLine = 64 << 10;

/** Lines of a stream. Breaks with the stream's error and ends when it is destroyed, which readline does not. */
async function* linesOf(stream: Readable): AsyncGenerator<string> {
  const decoder = new StringDecoder('utf8');
  let rest = '';
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    rest += decoder.write(chunk);
    const lines = rest.split('\n');
    rest = (lines.pop() ?? '').slice(0, longestLine);
    for (const line of lines) yield line.slice(0, longestLine).replace(/\r$/, '');
  }
  if (rest !== '') yield rest;
}

interface Reading {
  readonly connection: ClusterConnection;
  readonly source: LogSource;
  readonly tail: number;
  readonly follow: boolean;
  readonly signal: AbortSignal;
  readonly line: (time: number, text: string) => Promise<void>;
  readonly state: (state: Extract<LogItem, { kind: 'state' }>['state'], message: string) => void;
}

/** Reads one container's log to its end, and again from there while it is followed: containers start anew. */
async function read({ connection, source, tail, follow, signal, line, state }: Reading): Promise<void> {
  let last = '';
  for (let attempt = 0; !signal.aborted; attempt++) {
    const query = new URLSearchParams({ container: source.container, timestamps: 'true', follow: String(follow) });
    if (last === '') query.set('tailLines', String(tail));
    else query.set('sinceTime', last);
    const path = `/api/v1/namespaces/${encodeURIComponent(source.namespace)}/pods/${encodeURIComponent(source.pod)}/log?${query}`;
    const opened = await connection.stream(path, signal);
    if (opened.ok) {
      state('open', '');
      const from = last;
      const destroy = () => opened.value.destroy();
      signal.addEventListener('abort', destroy, { once: true });
      try {
        for await (const raw of linesOf(opened.value)) {
          const parts = splitLine(raw);
          // Lines of the very moment at which the last reading ended come a second time.
          if (parts && from !== '' && parts.stamp <= from) continue;
          if (parts) last = parts.stamp;
          await line(parts?.time ?? Date.now(), plain(parts?.text ?? raw));
          attempt = 0;
          if (signal.aborted) break;
        }
      } catch (error) {
        if (!signal.aborted) state('waiting', error instanceof Error ? error.message : String(error));
      } finally {
        signal.removeEventListener('abort', destroy);
        destroy();
      }
      if (!follow) return state('ended', '');
    } else {
      const { code, why } = opened.failure;
      if (!follow || code === 'kube.not-found' || code === 'kube.forbidden')
        return state('failed', `${opened.failure.what} ${why}`);
      state('waiting', why);
    }
    if (signal.aborted) return;
    if (opened.ok) state('waiting', 'The container ended; waiting for it to start again.');
    await pause(retryDelays[Math.min(attempt, retryDelays.length - 1)] ?? 5000, signal);
  }
}

/** Logs of containers, followed and merged. */
export function createLogs({ connections, log }: LogsOptions): CapabilityImplementation<'logs'> {
  return {
    async follow({ cluster, sources, tail, follow }, sink, { signal }) {
      if (sources.length > mostSources)
        return {
          code: 'logs.too-many',
          what: 'The logs were not opened.',
          why: `${sources.length} containers were chosen; the API server keeps a connection open for each, and ${mostSources} are allowed.`,
          fix: 'Choose fewer.',
        };
      const connection = await connections.get(cluster);
      if (!connection.ok) return connection.failure;
      const ended = new AbortController();
      const until = AbortSignal.any([signal, ended.signal, connection.value.signal]);
      const merge = new Merge(hold);
      const states: LogItem[] = [];
      let room: (() => void)[] = [];
      let reading = sources.length;
      const readers = sources.map((source, index) =>
        read({
          connection: connection.value,
          source,
          tail: Math.max(0, Math.min(Math.round(tail), 10_000)),
          follow,
          signal: until,
          async line(time, text) {
            merge.add({ source: index, time, text, arrived: Date.now() });
            if (merge.size > mostHeld) await new Promise<void>((resolve) => room.push(resolve));
          },
          state: (state, message) => states.push({ kind: 'state', source: index, state, message }),
        })
          .catch((error: unknown) => {
            log.warn('logs', `${source.namespace}/${source.pod}: ${String(error)}`);
            states.push({ kind: 'state', source: index, state: 'failed', message: String(error) });
          })
          .finally(() => {
            reading -= 1;
          }),
      );
      const release = () => {
        const waiting = room;
        room = [];
        for (const go of waiting) go();
      };
      try {
        while (!until.aborted) {
          const finished = reading === 0;
          const items: LogItem[] = states.splice(0);
          for (const { source, time, text } of merge.take(Date.now(), finished))
            items.push({ kind: 'line', source, time, text });
          for (let at = 0; at < items.length; at += batch) await sink.push(items.slice(at, at + batch));
          release();
          if (finished && states.length === 0 && merge.size === 0) break;
          await pause(flushInterval, until);
        }
      } finally {
        ended.abort();
        release();
        await Promise.all(readers);
      }
      return undefined;
    },
  };
}
