import type { Implementation } from '../../contract/implementation.ts';
import { contract, type Failure, failed } from '../../contract/index.ts';

/** An engine for tests of what stands around it: answers every verb with the failure `test.refused`. */
export function refusingImplementation(): Implementation {
  const failure: Failure = {
    code: 'test.refused',
    what: 'No.',
    why: 'This engine is for tests.',
    fix: 'Use a real one.',
  };
  const capabilities = Object.entries(contract).map(([name, verbs]) => [
    name,
    Object.fromEntries(
      Object.entries(verbs).map(([verb, declared]) => [
        verb,
        declared.kind === 'stream' ? async () => failure : async () => failed(failure),
      ]),
    ),
  ]);
  return Object.fromEntries(capabilities) as Implementation;
}
