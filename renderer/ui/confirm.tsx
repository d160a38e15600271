import { Button, Modal, TextInput } from '@mantine/core';
import { type ReactNode, useEffect, useRef, useState } from 'react';
import type { Failure } from '../../contract/failure.ts';
import { FailureCard, ReasonedButton } from './pieces.tsx';

interface ConfirmProps {
  readonly opened: boolean;
  readonly title: string;
  readonly children: ReactNode;
  readonly confirm: string;
  readonly danger?: boolean;
  /** Must be typed before the action is possible. */
  readonly typed?: string | undefined;
  /** Why it cannot be confirmed as it stands. */
  readonly blocked?: string | undefined;
  readonly pending?: boolean;
  readonly failure?: Failure | undefined;
  readonly onConfirm: () => void;
  readonly onClose: () => void;
}

/** Asks before something happens. Cancel has the focus, so that Enter never destroys anything by habit. */
export function Confirm(props: ConfirmProps) {
  const { opened, title, children, confirm, danger, typed, blocked, pending, failure, onConfirm, onClose } = props;
  const [text, setText] = useState('');
  const cancel = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (opened) setText('');
  }, [opened]);
  return (
    <Modal opened={opened} onClose={onClose} title={title} size="md" closeButtonProps={{ 'aria-label': 'Close' }}>
      <div style={{ display: 'grid', gap: 12 }}>
        <div>{children}</div>
        {typed ? (
          <TextInput
            label={
              <>
                Type <b className="mono">{typed}</b> to confirm
              </>
            }
            value={text}
            onChange={(event) => setText(event.currentTarget.value)}
            autoComplete="off"
            spellCheck={false}
          />
        ) : null}
        {failure ? <FailureCard failure={failure} /> : null}
        <div style={{ display: 'flex', gap: 8, justifyContent: 'flex-end' }}>
          <Button ref={cancel} variant="default" onClick={onClose} data-autofocus>
            Cancel
          </Button>
          <ReasonedButton
            {...(danger ? { color: 'var(--bad)' } : {})}
            loading={pending ?? false}
            blocked={blocked ?? (typed && text !== typed ? `Type ${typed} first.` : undefined)}
            onClick={onConfirm}
          >
            {confirm}
          </ReasonedButton>
        </div>
      </div>
    </Modal>
  );
}
