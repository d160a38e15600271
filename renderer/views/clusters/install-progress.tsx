import { Button, Progress } from '@mantine/core';
import type { InstallProgress } from '../../../contract/install.ts';
import { formatAge } from '../../ui/format.ts';
import { FailureCard, ReasonedButton, Spacer } from '../../ui/pieces.tsx';
import { StepBadge } from '../../ui/status.tsx';
import styles from './clusters.module.css';

interface InstallProgressProps {
  readonly progress: InstallProgress;
  readonly stopping: boolean;
  readonly onStop: () => void;
  readonly onDone: () => void;
}

const nouns: Readonly<Record<InstallProgress['action'], string>> = {
  install: 'Installation',
  upgrade: 'Upgrade',
  rollback: 'Rollback',
  uninstall: 'Uninstall',
};
const ends: Readonly<Record<Exclude<InstallProgress['state'], 'running'>, string>> = {
  done: 'done',
  failed: 'failed',
  stopped: 'stopped',
};

/** An apply as it goes, step by step and node by node, with the log of each step. */
export function InstallProgressList({ progress, stopping, onStop, onDone }: InstallProgressProps) {
  const { steps, state } = progress;
  const finished = steps.filter((step) => step.state === 'done' || step.state === 'skipped').length;
  return (
    <div className={styles.box}>
      <div className={styles.boxHead}>
        <h2>
          {nouns[progress.action]} {state === 'running' ? 'is running' : ends[state]}
        </h2>
        <span className="muted" role="status">
          {finished} of {steps.length} steps
        </span>
        <Spacer />
        {state === 'running' ? (
          <ReasonedButton
            variant="default"
            loading={stopping}
            hint="Stops after the step that is running. What was done stays; a new plan goes on from there."
            onClick={onStop}
          >
            Stop
          </ReasonedButton>
        ) : (
          <Button onClick={onDone}>{state === 'done' ? 'Done' : 'Back'}</Button>
        )}
      </div>
      <Progress
        value={steps.length === 0 ? 0 : (finished / steps.length) * 100}
        size={3}
        radius={0}
        aria-label="Progress"
        {...(state === 'failed' ? { color: 'var(--bad)' } : {})}
      />
      {steps.map((step) => (
        <div key={step.id} className={styles.step}>
          <StepBadge state={step.state} />
          <div>
            {step.title}
            {step.node && !step.title.includes(step.node) ? <span className="muted"> on {step.node}</span> : null}
            {step.message ? <span className="muted"> · {step.message}</span> : null}
          </div>
          <span className="muted">{step.startedAt && step.endedAt ? formatAge(step.startedAt, step.endedAt) : ''}</span>
          {step.failure ? (
            <div style={{ gridColumn: '1 / -1' }}>
              <FailureCard failure={step.failure} />
            </div>
          ) : null}
          {step.log.length > 0 && step.state !== 'done' ? (
            <pre>{step.log.slice(-12).join('\n')}</pre>
          ) : step.log.length > 0 ? (
            <details style={{ gridColumn: '2 / -1' }}>
              <summary className="muted">Log</summary>
              <pre>{step.log.join('\n')}</pre>
            </details>
          ) : null}
        </div>
      ))}
    </div>
  );
}
