import { Button, Modal } from '@mantine/core';
import { lazy, Suspense } from 'react';
import type { Cluster } from '../../../contract/clusters.ts';
import type { PolicyId } from '../../../contract/policies.ts';
import { useBlocked } from '../../app/rights.ts';
import { useAction, useProcedure } from '../../app/streams.ts';
import { Banner, FailureCard, ReasonedButton, SkeletonRows } from '../../ui/pieces.tsx';

const DiffView = lazy(async () => ({ default: (await import('../../ui/code/diff-view.tsx')).DiffView }));

interface ApplyDialogProps {
  readonly cluster: Cluster;
  /** What the text names; undefined while it is not known. */
  readonly id: PolicyId | undefined;
  /** True when the text was begun as a new policy. */
  readonly expectsNew: boolean;
  readonly text: string;
  readonly resourceVersion: string;
  readonly onClose: () => void;
  readonly onReread: () => void;
  /** The policy was deleted meanwhile: the text becomes a new one. */
  readonly onCreateAgain: () => void;
  readonly onApplied: (id: PolicyId) => void;
}

const sentences = {
  create: 'A new policy would be created.',
  update: 'The policy would be changed.',
  unchanged: 'The server would change nothing.',
  delete: 'The policy would be deleted.',
} as const;

/** Asks the server what it would store, shows the difference, and applies it when told to. */
export function ApplyDialog(props: ApplyDialogProps) {
  const { cluster, id, expectsNew, text, resourceVersion, onClose, onReread, onCreateAgain, onApplied } = props;
  const dry = useProcedure(`dry run ${cluster.id} ${text}`, (client, signal) =>
    client.policies.dryRun({ cluster: cluster.id, text }, { signal }),
  );
  const change = dry.value;
  // Held to what the dry run has shown; "" says that there was nothing, so that nothing is overwritten unseen.
  const apply = useAction((client) =>
    client.policies.apply({
      cluster: cluster.id,
      text,
      resourceVersion: resourceVersion || change?.resourceVersion || '',
    }),
  );
  const denied = useBlocked(
    `policies.${change?.action === 'create' ? 'create' : 'update'}.${id?.kind ?? 'CiliumNetworkPolicy'}`,
    id?.namespace,
  );
  const blocked =
    denied ??
    (change === undefined
      ? 'The server has not answered the dry run yet.'
      : change.action === 'unchanged'
        ? 'There is nothing to apply.'
        : undefined);
  const conflict = apply.failure?.code === 'policies.conflict' || apply.failure?.code === 'policy.conflict';
  const gone = apply.failure?.code === 'policies.gone';
  return (
    <Modal
      opened
      onClose={onClose}
      title={`Dry run: ${id ? `${id.namespace ? `${id.namespace}/` : ''}${id.name}` : 'policy'} in ${cluster.name}`}
      size={1040}
      closeButtonProps={{ 'aria-label': 'Close' }}
    >
      <div style={{ display: 'grid', gap: 12 }}>
        {dry.failure ? <FailureCard failure={dry.failure} onRetry={dry.retry} /> : null}
        {dry.pending ? <SkeletonRows rows={8} label="Dry run on the server" /> : null}
        {change ? (
          <>
            <p>
              <b>What the server would store.</b> {sentences[change.action]}{' '}
              <span className="muted">Nothing has been changed yet.</span>
            </p>
            {expectsNew && change.action === 'update' ? (
              <Banner tone="warn">
                A policy of this name exists already. Applying replaces it; choose another name if that is not meant.
              </Banner>
            ) : null}
            {change.warnings.map((warning) => (
              <Banner key={warning} tone="warn">
                {warning}
              </Banner>
            ))}
            <Suspense fallback={<SkeletonRows rows={10} />}>
              <DiffView
                before={change.before}
                after={change.after}
                height={440}
                labels={['In the cluster', 'After applying']}
              />
            </Suspense>
          </>
        ) : null}
        {apply.failure ? (
          <FailureCard
            failure={apply.failure}
            {...(conflict
              ? {
                  onRetry: () => {
                    onReread();
                    onClose();
                  },
                  retryLabel: 'Reload, and keep my text',
                }
              : {})}
            {...(gone
              ? {
                  onRetry: () => {
                    onCreateAgain();
                    onClose();
                  },
                  retryLabel: 'Make it a new policy',
                }
              : {})}
          />
        ) : null}
        <div style={{ display: 'flex', justifyContent: 'flex-end', gap: 8 }}>
          <Button variant="default" onClick={onClose} data-autofocus>
            Cancel
          </Button>
          <ReasonedButton
            blocked={blocked}
            loading={apply.pending}
            onClick={() => void apply.run().then((done) => done && onApplied(done.id))}
          >
            Apply
          </ReasonedButton>
        </div>
      </div>
    </Modal>
  );
}
