import { z } from 'zod/mini';
import { reads, streams } from './procedure.ts';

/** A write that the console made, for the local audit log. */
export const auditEntrySchema = z.object({
  time: z.number(),
  cluster: z.string(),
  action: z.string(),
  subject: z.string(),
  /** "done", "begun", or why it was not done. */
  result: z.string(),
  /** Account on this workstation, and the user that the cluster saw. */
  who: z._default(z.string(), ''),
  /** The object before and after, as YAML; "" where there is none. */
  before: z._default(z.string(), ''),
  after: z._default(z.string(), ''),
});
export type AuditEntry = Readonly<z.output<typeof auditEntrySchema>>;

export const application = {
  /** What runs this console. */
  about: reads(
    z.object({}),
    z.object({
      version: z.string(),
      mode: z.enum(['browser', 'desktop']),
      platform: z.string(),
      /** Can this host run the embedded lab (root on Linux)? Why not, otherwise. */
      lab: z.object({ possible: z.boolean(), running: z.boolean(), reason: z.string() }),
      /** Recordings that can be opened. */
      recordings: z.readonly(z.array(z.object({ name: z.string(), title: z.string() }))),
    }),
  ),
  /** Starts the embedded lab; lines of progress; ends when it is up (its cluster then appears) or with a failure. */
  startLab: streams(z.object({}), z.object({ line: z.string() })),
  /** Opens a recording as a cluster of its own. */
  openRecording: reads(z.object({ name: z.string() }), z.object({ cluster: z.string() })),
  /** Records a connected cluster into a case file on the engine's machine; ends when cancelled. */
  record: streams(
    z.object({ cluster: z.string(), title: z.string(), path: z.string() }),
    z.object({ flows: z.number(), bytes: z.number() }),
  ),
  audit: reads(z.object({}), z.object({ entries: z.readonly(z.array(auditEntrySchema)) })),
} as const;
