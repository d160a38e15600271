import { application } from './application.ts';
import { clusters } from './clusters.ts';
import { connectivity } from './connectivity.ts';
import { explain } from './explain.ts';
import { flows } from './flows.ts';
import { install } from './install.ts';
import { logs } from './logs.ts';
import { policies } from './policies.ts';
import { questions } from './questions.ts';
import { rights } from './rights.ts';
import { support } from './support.ts';
import { terminals } from './terminals.ts';
import { topology } from './topology.ts';
import { verify } from './verify.ts';

/** The one typed API between engine and renderer. A procedure's name on the wire is `capability.verb`. */
export const contract = {
  application,
  clusters,
  connectivity,
  explain,
  flows,
  install,
  logs,
  policies,
  questions,
  rights,
  support,
  terminals,
  topology,
  verify,
} as const;
export type Contract = typeof contract;

export * from './application.ts';
export * from './checks.ts';
export * from './clusters.ts';
export * from './connectivity.ts';
export * from './explain.ts';
export * from './failure.ts';
export * from './flows.ts';
export * from './install.ts';
export * from './logs.ts';
export * from './policies.ts';
export * from './procedure.ts';
export * from './questions.ts';
export * from './rights.ts';
export * from './support.ts';
export * from './terminals.ts';
export * from './topology.ts';
export * from './value-fields.ts';
export * from './values.ts';
export * from './values-import.ts';
export * from './verify.ts';
