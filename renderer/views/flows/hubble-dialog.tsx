import { Button, Modal, Textarea } from '@mantine/core';
import { useState } from 'react';
import { useAction, useProcedure } from '../../app/streams.ts';
import { Copy, FailureCard, SkeletonRows } from '../../ui/pieces.tsx';
import { formatFilter, parseFilter } from './filter-grammar.ts';

interface HubbleDialogProps {
  readonly line: string;
  readonly onClose: () => void;
  readonly onLine: (line: string) => void;
}

/** The filter as a line for the hubble CLI, and the other way round. */
export function HubbleDialog({ line, onClose, onLine }: HubbleDialogProps) {
  const { allow, deny } = parseFilter(line);
  const command = useProcedure(`hubble ${line}`, (client) =>
    client.flows.asHubbleCommand({ allow, deny, last: 20, follow: true }),
  );
  const [pasted, setPasted] = useState('');
  const take = useAction((client, text: string) => client.flows.fromHubbleCommand({ command: text }));
  return (
    <Modal
      opened
      onClose={onClose}
      title="The same in the hubble CLI"
      size="lg"
      closeButtonProps={{ 'aria-label': 'Close' }}
    >
      <div style={{ display: 'grid', gap: 14 }}>
        <div>
          <h3 style={{ marginBottom: 4 }}>This filter as a command</h3>
          {command.failure ? <FailureCard failure={command.failure} onRetry={command.retry} /> : null}
          {command.pending ? <SkeletonRows rows={2} /> : null}
          {command.value ? (
            <div style={{ display: 'flex', gap: 8, alignItems: 'start' }}>
              <code
                className="mono"
                style={{ flex: 1, padding: 8, background: 'var(--raised)', borderRadius: 4, overflowWrap: 'anywhere' }}
              >
                {command.value.command}
              </code>
              <Copy text={command.value.command} label="Copy the command" />
            </div>
          ) : null}
        </div>
        <Textarea
          label="Take over a command"
          description="Paste a “hubble observe …” line; its flags become this view’s filter."
          autosize
          minRows={2}
          value={pasted}
          onChange={(event) => setPasted(event.currentTarget.value)}
          styles={{ input: { fontFamily: 'var(--font-mono)' } }}
        />
        {take.failure ? <FailureCard failure={take.failure} /> : null}
        <div style={{ display: 'flex', justifyContent: 'flex-end', gap: 8 }}>
          <Button variant="default" onClick={onClose}>
            Close
          </Button>
          <Button
            loading={take.pending}
            onClick={() =>
              void take.run(pasted).then((taken) => {
                if (!taken) return;
                onLine(formatFilter(taken.allow, taken.deny));
                onClose();
              })
            }
          >
            Use this filter
          </Button>
        </div>
      </div>
    </Modal>
  );
}
