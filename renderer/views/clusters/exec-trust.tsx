import { Button, Modal } from '@mantine/core';
import type { Cluster } from '../../../contract/clusters.ts';
import { useAction, useProcedure } from '../../app/streams.ts';
import { Copy, Facts, FailureCard, ReasonedButton, SkeletonRows } from '../../ui/pieces.tsx';

/** Shows the program that a context would run to log in, and asks before it is ever run. Cancel has the focus. */
export function ExecTrust({ cluster, onClose }: { readonly cluster: Cluster; readonly onClose: () => void }) {
  const plugin = useProcedure(`exec ${cluster.id}`, (client, signal) =>
    client.clusters.describeExecPlugin({ cluster: cluster.id }, { signal }),
  );
  const allow = useAction((client, hash: string) => client.clusters.allowExecPlugin({ cluster: cluster.id, hash }));
  const { value } = plugin;
  return (
    <Modal
      opened
      onClose={onClose}
      title="A program wants to run on this machine"
      size="lg"
      closeButtonProps={{ 'aria-label': 'Close' }}
    >
      <div style={{ display: 'grid', gap: 12 }}>
        <p>
          To log in to <b>{cluster.name}</b>, its kubeconfig names a program. A kubeconfig can name any program at all:
          allow it only if you know where the file comes from.
        </p>
        {plugin.failure ? <FailureCard failure={plugin.failure} onRetry={plugin.retry} /> : null}
        {plugin.pending ? <SkeletonRows rows={4} /> : null}
        {value ? (
          <Facts
            items={[
              [
                'Program',
                <span key="p" className="mono">
                  {value.command}
                </span>,
              ],
              [
                'Found at',
                <span key="f" className="mono">
                  {value.resolved || 'not found on PATH'}
                </span>,
              ],
              [
                'Arguments',
                <span key="a" className="mono">
                  {value.args.length > 0 ? value.args.map((argument) => JSON.stringify(argument)).join(' ') : 'none'}
                </span>,
              ],
              [
                'Environment',
                value.env.length > 0 ? (
                  <span key="e" className="mono" style={{ whiteSpace: 'pre-wrap', overflowWrap: 'anywhere' }}>
                    {value.env.map((entry) => JSON.stringify(entry)).join('\n')}
                  </span>
                ) : (
                  <span key="e">nothing added</span>
                ),
              ],
              [
                'Fingerprint',
                <span key="h" className="mono">
                  {value.hash} <Copy text={value.hash} label="Copy the fingerprint" />
                </span>,
              ],
            ]}
          />
        ) : null}
        <p className="muted">
          The answer is remembered for exactly this program with these arguments and this environment. If any of them
          changes, you are asked again.
        </p>
        {allow.failure ? <FailureCard failure={allow.failure} /> : null}
        <div style={{ display: 'flex', justifyContent: 'flex-end', gap: 8 }}>
          <Button variant="default" onClick={onClose} data-autofocus>
            Cancel
          </Button>
          <ReasonedButton
            blocked={
              cluster.execPlugin?.locked
                ? 'No login program may run here: Fairlead was started with --deny-login-programs.'
                : value
                  ? undefined
                  : 'What would be run is not known yet.'
            }
            loading={allow.pending}
            onClick={() => value && void allow.run(value.hash).then((done) => done && onClose())}
          >
            Allow this program
          </ReasonedButton>
        </div>
      </div>
    </Modal>
  );
}
