import type { CapabilityImplementation } from '../../contract/implementation.ts';
import { type Contract, contract, type Failure, failed } from '../../contract/index.ts';

/** Answers every verb of a capability with a failure; stands in until the capability is wired. */
export function unbuilt<C extends keyof Contract>(capability: C): CapabilityImplementation<C> {
  const failure: Failure = {
    code: 'not-built',
    what: `“${capability}” is not part of this build.`,
    why: 'The capability has not been wired into the engine.',
    fix: 'Use a newer build.',
  };
  const verbs = Object.entries(contract[capability]).map(([verb, declared]) => [
    verb,
    declared.kind === 'stream' ? async () => failure : async () => failed(failure),
  ]);
  return Object.fromEntries(verbs) as CapabilityImplementation<C>;
}
