import { IconAlertTriangle, IconCircleX, IconInfoCircle } from '@tabler/icons-react';
import { useNavigate } from '@tanstack/react-router';
import type { PolicyProblem, PolicySummary } from '../../../contract/policies.ts';
import { formatAge, plural } from '../../ui/format.ts';
import { ChipButton, Facts, Section } from '../../ui/pieces.tsx';
import { Status } from '../../ui/status.tsx';
import styles from './policies.module.css';

const severities = {
  error: { icon: IconCircleX, colour: 'var(--bad)' },
  warning: { icon: IconAlertTriangle, colour: 'var(--warn)' },
  info: { icon: IconInfoCircle, colour: 'var(--info)' },
} as const;

interface FindingsProps {
  readonly problems: readonly PolicyProblem[];
  readonly selects: readonly string[];
  readonly meaning: readonly string[];
  readonly onGoTo: (line: number, column: number) => void;
}

/** Problems with links to their lines, what the policy means, and which pods it selects now. */
export function Findings({ problems, selects, meaning, onGoTo }: FindingsProps) {
  const navigate = useNavigate();
  return (
    <>
      <Section title={problems.length === 0 ? 'Problems: none' : `Problems: ${problems.length}`}>
        {problems.length === 0 ? (
          <p className="muted">The text is complete, and every field is known.</p>
        ) : (
          problems.map((problem, index) => {
            const { icon: Icon, colour } = severities[problem.severity];
            return (
              <button
                // biome-ignore lint/suspicious/noArrayIndexKey: two problems may be alike in all else
                key={`${problem.code} ${problem.path} ${problem.line} ${index}`}
                type="button"
                className={styles.problem}
                onClick={() => onGoTo(problem.line || 1, problem.column || 1)}
              >
                <Icon size={15} color={colour} aria-label={problem.severity} />
                <b>{problem.what}</b>
                <span>{problem.why}</span>
                <span style={{ color: 'var(--accent)' }}>{problem.fix}</span>
                <span className="muted mono">
                  {problem.line > 0 ? `line ${problem.line}` : ''} {problem.path}
                </span>
              </button>
            );
          })
        )}
      </Section>
      {meaning.length > 0 ? (
        <Section title="What it means">
          <ul className={styles.meaning}>
            {meaning.map((sentence) => (
              <li key={sentence}>{sentence}</li>
            ))}
          </ul>
        </Section>
      ) : null}
      <Section title={`Selects ${plural(selects.length, 'pod')} now`}>
        {selects.length === 0 ? (
          <p className="muted">No running pod has these labels.</p>
        ) : (
          <div style={{ display: 'flex', flexWrap: 'wrap', gap: 4 }}>
            {selects.slice(0, 60).map((pod) => (
              <ChipButton
                key={pod}
                title="Show in topology"
                onClick={() =>
                  void navigate({ to: '/topology', search: { scope: 'pod', select: `pod:${pod}` } as never })
                }
              >
                {pod}
              </ChipButton>
            ))}
            {selects.length > 60 ? (
              <Status tone="idle" icon={IconInfoCircle} plain>{`and ${selects.length - 60} more`}</Status>
            ) : null}
          </div>
        )}
      </Section>
    </>
  );
}

/** What is known of a policy that is in the cluster. */
export function About({ summary }: { readonly summary: PolicySummary }) {
  return (
    <Section title="In the cluster">
      <Facts
        items={[
          [
            'Selector',
            <span key="s" className="mono">
              {summary.selector}
            </span>,
          ],
          ['Default deny', summary.directions.join(' and ') || 'none'],
          ['Enforced on', `${summary.enforcedOn} of ${plural(summary.expectedOn, 'node')}`],
          ['Description', summary.description],
          ['Managed by', summary.managedBy],
          ['Created', `${formatAge(summary.createdAt, Date.now())} ago`],
        ]}
      />
    </Section>
  );
}
