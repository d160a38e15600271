import { IconCircleCheckFilled, IconCircleX, IconHelpCircle } from '@tabler/icons-react';
import type { PolicyId, PolicySummary } from '../../../contract/policies.ts';
import { Status } from '../../ui/status.tsx';

/** "ns/name", or the name alone for what stands for the whole cluster. */
export function policyTitle(id: PolicyId): string {
  return id.namespace ? `${id.namespace}/${id.name}` : id.name;
}

/** Is it accepted, in word, colour and icon. */
export function PolicyStatus({ policy, plain }: { readonly policy: PolicySummary; readonly plain?: boolean }) {
  switch (policy.status) {
    case 'valid':
      return (
        <Status tone="ok" icon={IconCircleCheckFilled} plain={plain ?? true}>
          Valid
        </Status>
      );
    case 'invalid':
      return (
        <Status tone="bad" icon={IconCircleX}>
          Invalid
        </Status>
      );
    case 'unknown':
      return (
        <Status tone="idle" icon={IconHelpCircle} plain={plain ?? true}>
          Unknown
        </Status>
      );
  }
}
