import { z } from 'zod/mini';
import { clusterIdSchema } from './clusters.ts';
import { reads } from './procedure.ts';

/** What is asked: would this packet arrive, and by which way? */
export const packetQuestionSchema = z.object({
  cluster: clusterIdSchema,
  /** Sender: "namespace/pod" or the address of a pod. */
  from: z.string().check(z.trim(), z.minLength(1)),
  /** Receiver: "namespace/pod", "service:namespace/name" or an address. */
  to: z.string().check(z.trim(), z.minLength(1)),
  protocol: z.enum(['tcp', 'udp', 'sctp', 'icmp']),
  /** Of which both ends have to have an address; "either" takes that of the sender's address, or IPv4 where both ends have it. */
  family: z._default(z.enum(['either', 'ipv4', 'ipv6']), 'either'),
  /** Of the receiver; 0 for icmp only. */
  port: z.int().check(z.minimum(0), z.maximum(65535)),
  /** 0: one that no connection of the sender has. */
  sourcePort: z._default(z.int().check(z.minimum(0), z.maximum(65535)), 0),
  /** Asks the rules of layer 7 as well: "GET http://host/path" or "DNS name"; "" does not. */
  l7: z._default(z.string(), ''),
  /** The sender's process is out of reach of the socket programs. */
  perPacket: z._default(z.boolean(), false),
});
export type PacketQuestion = Readonly<z.input<typeof packetQuestionSchema>>;

export const packetStepSchema = z.object({
  node: z.string(),
  /** Program (from_pod, connect, …) or "routing table". */
  hook: z.string(),
  kind: z.string(),
  /** The map that was asked, the question and the answer; "" for steps that ask none. */
  map: z.string(),
  key: z.string(),
  value: z.string(),
  rule: z.string(),
  rewrite: z.string(),
  /** forwarded, dropped, redirected or refused; "" where the packet goes on within the program. */
  verdict: z.string(),
  /** The step as a sentence. */
  text: z.string(),
  dropReason: z.string(),
  /** File and line of the program that decided, of a drop. */
  source: z.string(),
});
export type PacketStep = Readonly<z.infer<typeof packetStepSchema>>;

export const packetAnswerSchema = z.object({
  verdict: z.enum(['delivered', 'host', 'leaves', 'dropped', 'refused', 'proxy', 'unknown']),
  summary: z.string(),
  dropReason: z.string(),
  steps: z.readonly(z.array(packetStepSchema)),
  /** What could not be tried, and why. */
  notes: z.readonly(z.array(z.string())),
});
export type PacketAnswer = Readonly<z.infer<typeof packetAnswerSchema>>;

/** A packet's way through the nodes' own programs, which are run on it without leaving a trace. */
export const explain = {
  packet: reads(packetQuestionSchema, packetAnswerSchema),
} as const;
