import { z } from 'zod/mini';
import { clusterIdSchema } from './clusters.ts';
import { reads, streams } from './procedure.ts';

export const terminalTargetSchema = z.union([
  z.object({
    kind: z.literal('pod'),
    cluster: clusterIdSchema,
    namespace: z.string(),
    pod: z.string(),
    container: z.string(),
    command: z.readonly(z.array(z.string())),
  }),
  z.object({ kind: z.literal('node'), cluster: clusterIdSchema, node: z.string() }),
]);
export type TerminalTarget = Readonly<z.infer<typeof terminalTargetSchema>>;

export const terminalEventSchema = z.union([
  /** Output as it came. */
  z.object({ kind: z.literal('data'), data: z.instanceof(Uint8Array) }),
  z.object({ kind: z.literal('opened'), title: z.string() }),
  /** A host key that nobody has vouched for: the session waits for `answerHostKey`. */
  z.object({ kind: z.literal('host-key'), host: z.string(), algorithm: z.string(), fingerprint: z.string() }),
  z.object({ kind: z.literal('exited'), code: z.nullable(z.number()), reason: z.string() }),
]);
export type TerminalEvent = Readonly<z.infer<typeof terminalEventSchema>>;

export const terminals = {
  /** Opens a session; it lives as long as the stream. The `session` name is chosen by the caller and unique. */
  open: streams(
    z.object({ session: z.string(), target: terminalTargetSchema, columns: z.number(), rows: z.number() }),
    terminalEventSchema,
  ),
  input: reads(z.object({ session: z.string(), data: z.string() }), z.object({})),
  resize: reads(z.object({ session: z.string(), columns: z.number(), rows: z.number() }), z.object({})),
  /** Trust an unknown host key (kept in Fairlead's own store), or not. */
  answerHostKey: reads(z.object({ session: z.string(), accept: z.boolean() }), z.object({})),
  /** SSH hosts that the user's configuration names, for display. */
  sshHosts: reads(
    z.object({ cluster: clusterIdSchema }),
    z.object({ hosts: z.readonly(z.array(z.object({ alias: z.string(), node: z.string() }))) }),
  ),
} as const;
