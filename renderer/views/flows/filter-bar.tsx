import { Combobox, useCombobox } from '@mantine/core';
import { IconFilter, IconX } from '@tabler/icons-react';
import { type KeyboardEvent, type RefObject, useMemo, useState } from 'react';
import type { Inventory } from '../../../contract/clusters.ts';
import { verdictSchema } from '../../../contract/flows.ts';
import { addressesOf } from '../../ui/addresses.ts';
import { filterKeys, parseFilter, parseTokens } from './filter-grammar.ts';
import styles from './flows.module.css';

interface FilterBarProps {
  readonly line: string;
  readonly onChange: (line: string) => void;
  readonly inventory: Inventory | undefined;
  readonly inputRef: RefObject<HTMLInputElement | null>;
}

interface Suggestion {
  readonly value: string;
  readonly text: string;
}

const most = 12;

/** Values that fit a key, from what the cluster holds. */
function valuesFor(key: string, inventory: Inventory | undefined): readonly string[] {
  const pods = inventory?.pods ?? [];
  switch (key) {
    case 'verdict':
      return verdictSchema.options;
    case 'direction':
      return ['INGRESS', 'EGRESS'];
    case 'reply':
      return ['true', 'false'];
    case 'protocol':
      return ['TCP', 'UDP', 'ICMPv4', 'ICMPv6', 'SCTP'];
    case 'event':
      return ['drop', 'trace', 'policy-verdict', 'trace-sock', 'l7'];
    case 'reason':
      return [
        'POLICY_DENIED',
        'POLICY_DENY',
        'CT_MAP_INSERTION_FAILED',
        'INVALID_SOURCE_IP',
        'STALE_OR_UNROUTABLE_IP',
        'UNSUPPORTED_L3_PROTOCOL',
      ];
    case 'flags':
      return ['SYN', 'ACK', 'FIN', 'RST', 'PSH', 'URG'];
    case 'namespace':
    case 'from-namespace':
    case 'to-namespace':
      return (inventory?.namespaces ?? []).map((one) => one.name);
    case 'pod':
    case 'from-pod':
    case 'to-pod':
      return pods.map((pod) => `${pod.namespace}/${pod.name}`);
    case 'ip':
    case 'from-ip':
    case 'to-ip':
      return pods.flatMap(addressesOf);
    case 'label':
    case 'from-label':
    case 'to-label':
      return pods.flatMap((pod) => Object.entries(pod.labels).map(([name, value]) => `${name}=${value}`));
    case 'workload':
      return pods.map((pod) => `${pod.namespace}/${pod.workload.name}`);
    case 'service':
      return (inventory?.services ?? []).map((one) => `${one.namespace}/${one.name}`);
    case 'port':
    case 'to-port':
      return (inventory?.services ?? []).flatMap((one) => one.ports.map((port) => String(port.port)));
    case 'node':
      return (inventory?.nodes ?? []).map((node) => node.name);
    default:
      return [];
  }
}

function suggest(typed: string, inventory: Inventory | undefined): readonly Suggestion[] {
  const bang = typed.startsWith('!') ? '!' : '';
  const body = typed.slice(bang.length);
  const colon = body.indexOf(':');
  if (colon < 0) {
    return filterKeys
      .filter(({ key }) => key.includes(body.toLowerCase()))
      .slice(0, most)
      .map(({ key, text }) => ({ value: `${bang}${key}:`, text }));
  }
  const key = body.slice(0, colon);
  const parts = body.slice(colon + 1).split(',');
  const last = (parts.at(-1) ?? '').toLowerCase();
  const before = parts.slice(0, -1);
  const found = [...new Set(valuesFor(key, inventory))]
    .filter((value) => value.toLowerCase().includes(last) && !before.includes(value))
    .slice(0, most);
  return found.map((value) => ({ value: `${bang}${key}:${[...before, value].join(',')}`, text: '' }));
}

/** The filter as chips, and a field that completes keys and values. Enter takes the token over. */
export function FilterBar({ line, onChange, inventory, inputRef }: FilterBarProps) {
  const combobox = useCombobox({ onDropdownClose: () => combobox.resetSelectedOption() });
  const [typed, setTyped] = useState('');
  const [not, setNot] = useState(false);
  const parsed = useMemo(() => parseFilter(line), [line]);
  const suggestions = useMemo(() => suggest(typed, inventory), [typed, inventory]);

  const add = (text: string) => {
    const fresh = text.trim();
    if (fresh === '') return;
    onChange([line, not ? `not ${fresh}` : fresh].filter(Boolean).join(' '));
    setTyped('');
    setNot(false);
    combobox.closeDropdown();
  };
  const removeAt = (index: number) =>
    onChange(
      parsed.tokens
        .filter((_, at) => at !== index)
        .map((token) => token.text)
        .join(' '),
    );
  const change = (text: string) => {
    // A finished word becomes a chip, so that pasted lines do too.
    if (/\s$/.test(text) && !text.includes('"')) {
      const word = text.trim();
      if (word.toLowerCase() === 'not') {
        setNot(true);
        return setTyped('');
      }
      return add(word);
    }
    setTyped(text);
    combobox.openDropdown();
    combobox.updateSelectedOptionIndex();
  };
  const keys = (event: KeyboardEvent<HTMLInputElement>) => {
    if (event.key === 'Backspace' && typed === '' && parsed.tokens.length > 0) removeAt(parsed.tokens.length - 1);
    if (event.key === 'Escape') {
      if (combobox.dropdownOpened) combobox.closeDropdown();
      else inputRef.current?.blur();
    }
    if (event.key === 'Enter' && combobox.getSelectedOptionIndex() < 0) {
      event.preventDefault();
      add(typed);
    }
  };
  return (
    <Combobox
      store={combobox}
      onOptionSubmit={(value) => {
        if (value.endsWith(':')) {
          setTyped(value);
          combobox.openDropdown();
        } else add(value);
      }}
      withinPortal
      width={380}
      position="bottom-start"
    >
      <Combobox.DropdownTarget>
        <div className={styles.filterBox}>
          <IconFilter size={14} aria-hidden />
          {parsed.tokens.map((token, index) => (
            <span
              // biome-ignore lint/suspicious/noArrayIndexKey: the same token may come twice
              key={`${token.text}${index}`}
              className={`${styles.token} ${token.not ? styles.not : ''} ${token.kind === 'problem' ? styles.problem : ''}`}
              title={token.problem ?? token.text}
            >
              <span className="clip">{token.text}</span>
              <button type="button" aria-label={`Remove ${token.text}`} onClick={() => removeAt(index)}>
                <IconX size={11} />
              </button>
            </span>
          ))}
          {not ? <span className={`${styles.token} ${styles.not}`}>not&nbsp;</span> : null}
          <Combobox.EventsTarget>
            <input
              ref={inputRef}
              className={styles.input}
              value={typed}
              aria-label="Filter flows"
              placeholder={
                parsed.tokens.length === 0
                  ? 'Filter: verdict:DROPPED  from-pod:default/xwing  not to-port:53   ( / )'
                  : ''
              }
              spellCheck={false}
              autoComplete="off"
              onChange={(event) => change(event.currentTarget.value)}
              onFocus={() => combobox.openDropdown()}
              onBlur={() => combobox.closeDropdown()}
              onKeyDown={keys}
            />
          </Combobox.EventsTarget>
          {parsed.tokens.length > 0 ? (
            <span className={styles.token} style={{ background: 'none', padding: 0 }}>
              <button type="button" aria-label="Clear the filter" title="Clear the filter" onClick={() => onChange('')}>
                <IconX size={13} />
              </button>
            </span>
          ) : null}
        </div>
      </Combobox.DropdownTarget>
      <Combobox.Dropdown hidden={suggestions.length === 0}>
        <Combobox.Options aria-label="Completions">
          {suggestions.map((suggestion) => (
            <Combobox.Option key={suggestion.value} value={suggestion.value}>
              <span className="mono">{suggestion.value}</span> <span className="muted">{suggestion.text}</span>
            </Combobox.Option>
          ))}
        </Combobox.Options>
      </Combobox.Dropdown>
    </Combobox>
  );
}

/** Is anything in the line that would filter? */
export function isFiltered(line: string): boolean {
  return parseTokens(line).some((token) => token.kind === 'filter');
}
