import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runInThisContext } from 'node:vm';
import { projectFile } from '../../project.ts';
import type {
  Explanation,
  IdentityLabels,
  PolicyCIDRGroup,
  PolicyDocument,
  PolicyPod,
  PolicyQuery,
  PolicyService,
  PolicyVerdicts,
  SelectedPods,
  Validation,
} from './types.ts';

/**
 * The agent's own policy engine (node-agent/policy), compiled to WebAssembly: what it answers is what the nodes enforce.
 * Every function is pure, synchronous and quick (well under a millisecond for a policy). Documents are Kubernetes objects
 * as JSON values; read YAML with the `yaml` package first. A wrong document is never an exception: it comes back as
 * `problems`. Only a request that breaks the types below throws.
 */
export interface PolicyEngine {
  /** Syntax, schema and semantics of one policy of any of the three kinds, and what it means in plain sentences. */
  validate(document: PolicyDocument): Validation;
  /** Which pods a policy governs, as indexes into `pods`; none where it is not valid. */
  selected(request: { readonly policy: PolicyDocument; readonly pods: readonly PolicyPod[] }): SelectedPods;
  /** Whether connections may be opened, and which rules say so. Policies that are not valid are passed over. */
  verdicts(request: {
    readonly policies: readonly PolicyDocument[];
    readonly pods: readonly PolicyPod[];
    readonly queries: readonly PolicyQuery[];
    readonly groups?: readonly PolicyCIDRGroup[];
    readonly services?: readonly PolicyService[];
  }): PolicyVerdicts;
  /** What the candidate would change beside (or in place of its earlier edition among) the policies in force. */
  explain(request: {
    readonly policies: readonly PolicyDocument[];
    readonly candidate: PolicyDocument;
    readonly pods: readonly PolicyPod[];
    readonly groups?: readonly PolicyCIDRGroup[];
    readonly services?: readonly PolicyService[];
  }): Explanation;
  /** The labels that make up each pod's identity, as source:key=value. */
  labels(request: { readonly pods: readonly PolicyPod[] }): IdentityLabels;
}

interface GoProgram {
  readonly importObject: WebAssembly.Imports;
  run(instance: WebAssembly.Instance): Promise<void>;
}

type Entry = (name: string, request: string) => string | Error;

const globals = globalThis as typeof globalThis & { Go?: new () => GoProgram; fairleadPolicy?: Entry };

/**
 * Loads the engine from a directory with policy.wasm and wasm_exec.js (scripts/build-policy-wasm.mjs makes it). Takes about
 * a tenth of a second and 20 MB, so load it once; see {@link policyEngine}.
 */
export async function loadPolicyEngine(directory: string): Promise<PolicyEngine> {
  const [support, program] = await Promise.all([
    readFile(join(directory, 'wasm_exec.js'), 'utf8'),
    readFile(join(directory, 'policy.wasm')),
  ]);
  // The Go distribution's support file is a classic script that sets globalThis.Go.
  if (globals.Go === undefined) runInThisContext(support, { filename: join(directory, 'wasm_exec.js') });
  const Go = globals.Go;
  if (Go === undefined) throw new Error(`${directory}/wasm_exec.js does not define Go`);
  const go = new Go();
  const { instance } = await WebAssembly.instantiate(program, go.importObject);
  // The program registers its entry and then stays; its promise settles only if it dies.
  let died: string | undefined;
  void go.run(instance).then(
    () => {
      died = 'the policy engine has ended';
    },
    (error: unknown) => {
      died = `the policy engine has crashed: ${String(error)}`;
    },
  );
  const entry = globals.fairleadPolicy;
  delete globals.fairleadPolicy;
  if (entry === undefined) throw new Error(died ?? `${directory}/policy.wasm is not the policy engine`);

  function call<Answer>(name: string, request: unknown): Answer {
    if (died !== undefined) throw new Error(died);
    // undefined has no JSON; as a document it is an empty one.
    const answer = (entry as Entry)(name, JSON.stringify(request) ?? 'null');
    if (answer instanceof Error) throw answer;
    return JSON.parse(answer) as Answer;
  }
  return {
    validate: (document) => call('validate', document),
    selected: (request) => call('selected', request),
    verdicts: (request) => call('verdicts', request),
    explain: (request) => call('explain', request),
    labels: (request) => call('labels', request),
  };
}

let shared: Promise<PolicyEngine> | undefined;

/** The engine of this build (out/wasm), loaded at the first call and shared. A failure to load is tried again next time. */
export function policyEngine(): Promise<PolicyEngine> {
  shared ??= Promise.resolve()
    .then(() => loadPolicyEngine(projectFile('out/wasm')))
    .catch((error: unknown) => {
      shared = undefined;
      throw error;
    });
  return shared;
}
