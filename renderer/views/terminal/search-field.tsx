import { TextInput } from '@mantine/core';
import { IconArrowDown, IconArrowUp, IconLetterCase, IconRegex } from '@tabler/icons-react';
import { useEffect, useState } from 'react';
import { IconButton } from '../../ui/pieces.tsx';
import type { Session } from './sessions.ts';
import styles from './terminal.module.css';

/** Searches the whole scrollback of a terminal: matches are marked, counted, and walked through. */
export function SearchField({ session, onClose }: { readonly session: Session; readonly onClose: () => void }) {
  const { screen } = session;
  const [text, setText] = useState('');
  const [caseSensitive, setCaseSensitive] = useState(false);
  const [pattern, setPattern] = useState(false);
  const [outcome, setOutcome] = useState<'found' | 'none' | 'bad'>('found');
  const [matches, setMatches] = useState({ index: -1, count: 0 });
  useEffect(() => {
    const off = screen.onMatches((index, count) => setMatches({ index, count }));
    return () => {
      off();
      screen.endSearch();
    };
  }, [screen]);
  const go = (backwards: boolean) => {
    if (text) setOutcome(screen.search(text, { backwards, caseSensitive, pattern }));
  };
  const close = () => {
    onClose();
    screen.focus();
  };
  // What was chosen anew is looked for at once.
  // biome-ignore lint/correctness/useExhaustiveDependencies: the text is looked for as it is typed
  useEffect(() => {
    if (text) setOutcome(screen.search(text, { backwards: true, caseSensitive, pattern }));
    else {
      screen.endSearch();
      setOutcome('found');
      setMatches({ index: -1, count: 0 });
    }
  }, [text, caseSensitive, pattern]);
  const count =
    outcome === 'bad'
      ? 'bad pattern'
      : outcome === 'none'
        ? 'not found'
        : text === ''
          ? ''
          : matches.index < 0
            ? `${matches.count}`
            : `${matches.index + 1} of ${matches.count}`;
  return (
    <>
      <TextInput
        aria-label="Search in the output"
        placeholder="Search; Enter: next"
        value={text}
        error={outcome !== 'found' && text !== ''}
        autoFocus
        w={170}
        onChange={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === 'Escape') close();
          if (event.key === 'Enter') go(event.shiftKey);
        }}
      />
      <span className={styles.count} role="status" aria-label="Matches">
        {count}
      </span>
      <IconButton icon={IconArrowUp} size="sm" label="Earlier match (Shift Enter)" onClick={() => go(true)} />
      <IconButton icon={IconArrowDown} size="sm" label="Later match (Enter)" onClick={() => go(false)} />
      <IconButton
        icon={IconLetterCase}
        size="sm"
        label="Match case"
        active={caseSensitive}
        onClick={() => setCaseSensitive(!caseSensitive)}
      />
      <IconButton
        icon={IconRegex}
        size="sm"
        label="Regular expression"
        active={pattern}
        onClick={() => setPattern(!pattern)}
      />
    </>
  );
}
