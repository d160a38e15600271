import { z } from 'zod/mini';
import { clusterIdSchema } from './clusters.ts';
import { reads, streams } from './procedure.ts';

/** What a debug container may do; the names and contents are those of `kubectl debug --profile`. */
export const debugProfileSchema = z.enum(['general', 'netadmin', 'baseline', 'restricted']);
export type DebugProfile = z.infer<typeof debugProfileSchema>;

export const terminalTargetSchema = z.union([
  z.object({
    kind: z.literal('pod'),
    cluster: clusterIdSchema,
    namespace: z.string(),
    pod: z.string(),
    container: z.string(),
    command: z.readonly(z.array(z.string())),
  }),
  /** On a node, by SSH. */
  z.object({ kind: z.literal('node'), cluster: clusterIdSchema, node: z.string() }),
  /** An ephemeral container of `image` in a running pod. */
  z.object({
    kind: z.literal('debug'),
    cluster: clusterIdSchema,
    namespace: z.string(),
    pod: z.string(),
    /** Container whose processes it sees; "" for none. */
    container: z.string(),
    image: z.string(),
    profile: debugProfileSchema,
  }),
  /** On a node, by a privileged pod of `image` that is made for this shell and removed with it. */
  z.object({ kind: z.literal('node-pod'), cluster: clusterIdSchema, node: z.string(), image: z.string() }),
]);
export type TerminalTarget = Readonly<z.infer<typeof terminalTargetSchema>>;

export const terminalEventSchema = z.union([
  /** Output as it came. */
  z.object({ kind: z.literal('data'), data: z.instanceof(Uint8Array) }),
  /** So much of the output was passed over after an interrupt. */
  z.object({ kind: z.literal('skipped'), bytes: z.number() }),
  /** What is being waited for before the shell is there. */
  z.object({ kind: z.literal('progress'), text: z.string() }),
  z.object({ kind: z.literal('opened'), title: z.string() }),
  /** A host key that nobody has vouched for: the session waits for `answerHostKey`. */
  z.object({ kind: z.literal('host-key'), host: z.string(), algorithm: z.string(), fingerprint: z.string() }),
  /** `lost`: the connection broke; the shell itself did not end. */
  z.object({
    kind: z.literal('exited'),
    code: z.nullable(z.number()),
    reason: z.string(),
    lost: z.boolean(),
  }),
]);
export type TerminalEvent = Readonly<z.infer<typeof terminalEventSchema>>;

export const terminals = {
  /** Opens a session; it lives as long as the stream. The `session` name is chosen by the caller and unique. */
  open: streams(
    z.object({
      session: z.string(),
      target: terminalTargetSchema,
      columns: z.number(),
      rows: z.number(),
      /** Session whose connection was lost: what was made for it is used again if it is still there. */
      resumes: z.optional(z.string()),
      /** Nobody has asked for it just now, so nobody is asked anything. */
      unattended: z.optional(z.boolean()),
    }),
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
  /** Images to debug with on a node, the best first; `present`: the node holds it already. */
  debugImages: reads(
    z.object({ cluster: clusterIdSchema, node: z.string() }),
    z.object({ images: z.readonly(z.array(z.object({ name: z.string(), present: z.boolean() }))) }),
  ),
} as const;
