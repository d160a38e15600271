import type { PolicyProblem, PolicyValidation } from '../../../contract/policies.ts';
import { parsePolicyText } from './document.ts';
import { nearMisses } from './near-misses.ts';
import type { PolicyEngine } from './wasm/policy-engine.ts';
import type { PolicyPod } from './wasm/types.ts';

/** What a policy is validated against. */
export interface Surroundings {
  readonly pods: readonly PolicyPod[];
  /** Names of namespaces; undefined when they are not known. */
  readonly namespaces: ReadonlySet<string> | undefined;
}

/** Checks a policy's text by the agents' own engine, and looks which live pods it would select. Pure. */
export function validatePolicy(text: string, engine: PolicyEngine, around: Surroundings): PolicyValidation {
  const parsed = parsePolicyText(text);
  const { value, id, locate } = parsed;
  const problems: PolicyProblem[] = [...parsed.problems];
  const known = id ? { id } : {};
  if (value === undefined || problems.length > 0) return { ...known, problems, selects: [], meaning: [] };

  // Without a namespace the API server takes the context's; the engine needs to know which.
  const document =
    id && id.namespace !== ''
      ? { ...value, metadata: { ...(value as { metadata: object }).metadata, namespace: id.namespace } }
      : value;
  const judged = engine.validate(document);
  for (const problem of judged.problems) problems.push({ ...problem, ...locate(problem.path) });
  if (id && id.namespace !== '' && around.namespaces && !around.namespaces.has(id.namespace))
    problems.push({
      severity: 'error',
      code: 'no-namespace',
      path: 'metadata.namespace',
      ...locate('metadata.namespace'),
      what: `There is no namespace “${id.namespace}”.`,
      why: 'The API server would refuse the policy.',
      fix: 'Correct metadata.namespace, or create the namespace first.',
    });
  const selected = judged.valid ? engine.selected({ policy: document, pods: around.pods }).pods : [];
  const selects = selected.flatMap((index) => {
    const pod = around.pods[index];
    return pod ? [`${pod.namespace}/${pod.name}`] : [];
  });
  if (judged.valid && selects.length === 0) problems.push(...selectsNothing(document, id?.namespace, around, locate));
  return { ...known, problems, selects, meaning: [...judged.meaning] };
}

function selectsNothing(
  document: unknown,
  namespace: string | undefined,
  { pods }: Surroundings,
  locate: (path: string) => Pick<PolicyProblem, 'line' | 'column' | 'endLine' | 'endColumn'>,
): readonly PolicyProblem[] {
  const within = namespace === '' ? undefined : namespace;
  const misses = nearMisses(document, pods, within);
  const inside = within === undefined ? pods.length : pods.filter((pod) => pod.namespace === within).length;
  const [first] = misses;
  const path = first?.path ?? 'spec.endpointSelector';
  return [
    {
      severity: 'warning',
      code: 'selects-nothing',
      path,
      ...locate(path),
      what: 'It selects no pod that runs now.',
      why:
        inside === 0
          ? within === undefined
            ? 'No pods run in this cluster.'
            : `No pods run in namespace ${within}.`
          : misses.length > 0
            ? misses.map((miss) => miss.text).join(' ')
            : 'Every label is there, but no single pod has all of them.',
      fix: 'Correct the selector, or leave it if the pods come later.',
    },
  ];
}
