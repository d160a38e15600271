import { Button, Modal, PasswordInput, TextInput } from '@mantine/core';
import { useState } from 'react';
import type { Question } from '../../contract/questions.ts';
import { Copy, Facts, FailureCard, ReasonedButton } from '../ui/pieces.tsx';
import { useAction, useLatest } from './streams.ts';

/** Whatever the engine needs a person for, one at a time, wherever that person is in the console. */
export function Questions() {
  const waiting = useLatest<{ readonly questions: readonly Question[] }>('questions', (client, handlers) =>
    client.questions.watch({}, handlers),
  );
  const [question] = waiting.value?.questions ?? [];
  const cancel = useAction((client, id: string) => client.questions.cancel({ id }));
  if (!question) return null;
  const more = (waiting.value?.questions.length ?? 1) - 1;
  return (
    <Modal
      key={question.id}
      opened
      onClose={() => void cancel.run(question.id)}
      title={titleOf(question)}
      size="md"
      closeOnClickOutside={false}
      closeButtonProps={{ 'aria-label': 'Give up' }}
    >
      <div style={{ display: 'grid', gap: 12 }}>
        <Body question={question} onCancel={() => void cancel.run(question.id)} />
        {cancel.failure ? <FailureCard failure={cancel.failure} /> : null}
        {more > 0 ? (
          <p className="muted">
            {more} more {more === 1 ? 'question waits' : 'questions wait'} behind this one.
          </p>
        ) : null}
      </div>
    </Modal>
  );
}

function titleOf(question: Question): string {
  switch (question.kind) {
    case 'host-key':
      return `Is this ${question.host}?`;
    case 'secrets':
      return question.title;
    case 'browser':
      return question.title;
  }
}

function Body({ question, onCancel }: { readonly question: Question; readonly onCancel: () => void }) {
  switch (question.kind) {
    case 'host-key':
      return <HostKey question={question} onCancel={onCancel} />;
    case 'secrets':
      return <Secrets question={question} onCancel={onCancel} />;
    case 'browser':
      return <Browser question={question} onCancel={onCancel} />;
  }
}

interface BodyProps<K extends Question['kind']> {
  readonly question: Extract<Question, { readonly kind: K }>;
  readonly onCancel: () => void;
}

function Actions({ children }: { readonly children: React.ReactNode }) {
  return <div style={{ display: 'flex', justifyContent: 'flex-end', gap: 8 }}>{children}</div>;
}

/** The name that sshd gives to the file of a key of this algorithm. */
function keyFile(algorithm: string): string {
  return algorithm === 'ssh-rsa' ? 'rsa' : algorithm.startsWith('ecdsa') ? 'ecdsa' : 'ed25519';
}

function HostKey({ question, onCancel }: BodyProps<'host-key'>) {
  const decide = useAction((client) => client.questions.decide({ id: question.id, accept: true }));
  return (
    <>
      <p>
        No known_hosts file has a key for <b className="mono">{question.host}</b>. Compare the fingerprint with the
        machine’s own before anything is sent to it.
      </p>
      <Facts
        items={[
          ['Key', question.algorithm],
          [
            'Fingerprint',
            <span key="f" className="mono" style={{ overflowWrap: 'anywhere' }}>
              {question.fingerprint} <Copy text={question.fingerprint} label="Copy the fingerprint" />
            </span>,
          ],
          [
            'On the machine',
            <span key="c" className="mono">
              {`ssh-keygen -lf /etc/ssh/ssh_host_${keyFile(question.algorithm)}_key.pub`}
            </span>,
          ],
        ]}
      />
      <p className="muted">
        If you trust it, Fairlead keeps the key in its own store; your known_hosts files are never written.
      </p>
      {decide.failure ? <FailureCard failure={decide.failure} /> : null}
      <Actions>
        <Button variant="default" onClick={onCancel} data-autofocus>
          Do not connect
        </Button>
        <ReasonedButton loading={decide.pending} onClick={() => void decide.run()}>
          Trust this key
        </ReasonedButton>
      </Actions>
    </>
  );
}

function Secrets({ question, onCancel }: BodyProps<'secrets'>) {
  const [texts, setTexts] = useState<readonly string[]>(() => question.prompts.map(() => ''));
  const answer = useAction((client) => client.questions.answer({ id: question.id, answers: texts }));
  const set = (index: number, text: string) => setTexts((old) => old.map((was, at) => (at === index ? text : was)));
  return (
    <form
      style={{ display: 'grid', gap: 12 }}
      onSubmit={(event) => {
        event.preventDefault();
        void answer.run();
      }}
    >
      <p>
        Asked for <b className="mono">{question.about}</b>
        {question.instructions ? <>: {question.instructions}</> : '.'}
      </p>
      {question.prompts.map((prompt, index) => {
        const Input = prompt.hidden ? PasswordInput : TextInput;
        return (
          <Input
            // biome-ignore lint/suspicious/noArrayIndexKey: prompts have no other name and never change
            key={index}
            label={prompt.label}
            value={texts[index] ?? ''}
            onChange={(event) => set(index, event.currentTarget.value)}
            autoComplete="off"
            {...(index === 0 ? { 'data-autofocus': true } : {})}
          />
        );
      })}
      <p className="muted">It is used for this login only; Fairlead does not write it anywhere.</p>
      {answer.failure ? <FailureCard failure={answer.failure} /> : null}
      <Actions>
        <Button variant="default" onClick={onCancel}>
          Cancel
        </Button>
        <Button type="submit" loading={answer.pending}>
          Continue
        </Button>
      </Actions>
    </form>
  );
}

function Browser({ question, onCancel }: BodyProps<'browser'>) {
  return (
    <>
      <p>
        To log in to <b>{question.about}</b>, finish in your browser. This closes by itself when that is done.
      </p>
      <p className="mono" style={{ overflowWrap: 'anywhere', maxHeight: 120, overflow: 'auto' }}>
        {question.url} <Copy text={question.url} label="Copy the address" />
      </p>
      <p className="muted">{question.kept}</p>
      <Actions>
        <Button variant="default" onClick={onCancel}>
          Give up
        </Button>
        <Button component="a" href={question.url} target="_blank" rel="noreferrer" data-autofocus>
          Open the login page
        </Button>
      </Actions>
    </>
  );
}
