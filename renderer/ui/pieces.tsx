import { ActionIcon, Button, type ButtonProps, CopyButton, Tooltip } from '@mantine/core';
import {
  IconAlertTriangle,
  IconCheck,
  IconCircleX,
  IconCopy,
  IconInfoCircle,
  IconRefresh,
  IconX,
  type TablerIcon,
} from '@tabler/icons-react';
import {
  createContext,
  type KeyboardEvent,
  type MouseEventHandler,
  type ReactNode,
  type Ref,
  useContext,
  useId,
} from 'react';
import type { Failure } from '../../contract/failure.ts';
import styles from './pieces.module.css';

/** Copies a text and shows for a moment that it did. */
export function Copy({ text, label }: { readonly text: string; readonly label: string }) {
  return (
    <CopyButton value={text} timeout={1500}>
      {({ copied, copy }) => (
        <Tooltip label={copied ? 'Copied' : label}>
          <ActionIcon size="sm" onClick={copy} aria-label={label}>
            {copied ? <IconCheck size={14} /> : <IconCopy size={14} />}
          </ActionIcon>
        </Tooltip>
      )}
    </CopyButton>
  );
}

/** A failure as plain text, for the clipboard and support. */
export function failureText(failure: Failure): string {
  const details = failure.details ? `\n${failure.details}` : '';
  return `${failure.what}\nWhy: ${failure.why}\nFix: ${failure.fix}\nCode: ${failure.code}${details}`;
}

interface FailureCardProps {
  readonly failure: Failure;
  readonly onRetry?: (() => void) | undefined;
  readonly retryLabel?: string;
  readonly warning?: boolean;
}

/** What went wrong, why, and what to do; with copy, and retry where that makes sense. */
export function FailureCard({ failure, onRetry, retryLabel = 'Try again', warning = false }: FailureCardProps) {
  const Icon = warning ? IconAlertTriangle : IconCircleX;
  return (
    <div className={`${styles.failure} ${warning ? styles.warn : ''}`} role={warning ? 'status' : 'alert'}>
      <Icon size={16} className={styles.failureIcon ?? ''} aria-hidden />
      <div className={styles.failureWhat}>{failure.what}</div>
      <div className={styles.failureActions}>
        {onRetry ? (
          <Button variant="default" size="compact-xs" leftSection={<IconRefresh size={13} />} onClick={onRetry}>
            {retryLabel}
          </Button>
        ) : null}
        <Copy text={failureText(failure)} label="Copy this error" />
      </div>
      <dl className={styles.failureBody}>
        <dt>Why</dt>
        <dd>{failure.why}</dd>
        <dt>Fix</dt>
        <dd>{failure.fix}</dd>
        <dt>Code</dt>
        <dd className="mono">{failure.code}</dd>
      </dl>
      {failure.details ? (
        <details className={styles.details}>
          <summary>Details</summary>
          <pre tabIndex={0}>{failure.details}</pre>
        </details>
      ) : null}
    </div>
  );
}

interface EmptyProps {
  readonly icon: TablerIcon;
  readonly title: string;
  readonly children: ReactNode;
  readonly actions?: ReactNode;
}

/** Nothing to show: why, and what to do next. */
export function Empty({ icon: Icon, title, children, actions }: EmptyProps) {
  return (
    <div className={styles.empty}>
      <Icon size={30} stroke={1.4} className={styles.emptyIcon ?? ''} aria-hidden />
      <h2>{title}</h2>
      <div className={styles.emptyText}>{children}</div>
      {actions ? <div className={styles.emptyActions}>{actions}</div> : null}
    </div>
  );
}

/** Lines that stand for content on its way. */
export function SkeletonRows({ rows = 8, label = 'Loading' }: { readonly rows?: number; readonly label?: string }) {
  return (
    <div className={styles.skeleton} role="status" aria-label={label}>
      {Array.from({ length: rows }, (_, row) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: the lines have no identity
        <span key={row} style={{ width: `${92 - ((row * 17) % 45)}%` }} />
      ))}
    </div>
  );
}

/** Names and values, one per line; undefined values are left out. */
export function Facts({ items }: { readonly items: readonly (readonly [string, ReactNode] | undefined)[] }) {
  return (
    <dl className={styles.facts}>
      {items.map((item) =>
        item === undefined || item[1] === undefined || item[1] === '' ? null : (
          <FactRow key={item[0]} name={item[0]} value={item[1]} />
        ),
      )}
    </dl>
  );
}

function FactRow({ name, value }: { readonly name: string; readonly value: ReactNode }) {
  return (
    <>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </>
  );
}

/** A titled part of a pane. */
export function Section({ title, aside, children }: { title: string; aside?: ReactNode; children: ReactNode }) {
  return (
    <section className={styles.section}>
      <div className={styles.sectionHead}>
        <h3>{title}</h3>
        {aside}
      </div>
      {children}
    </section>
  );
}

interface SidePaneProps {
  readonly title: ReactNode;
  readonly label: string;
  readonly onClose: () => void;
  readonly width?: number;
  readonly children: ReactNode;
}

/** Details at the right of a view; Escape closes it. */
export function SidePane({ title, label, onClose, width, children }: SidePaneProps) {
  const close = (event: KeyboardEvent) => {
    if (event.key !== 'Escape' || event.defaultPrevented) return;
    event.stopPropagation();
    onClose();
  };
  return (
    <aside className={styles.pane} style={width ? { width } : {}} aria-label={label} onKeyDown={close}>
      <div className={styles.paneHead}>
        <div className={styles.paneTitle}>{title}</div>
        <Tooltip label="Close (Esc)">
          <ActionIcon size="sm" onClick={onClose} aria-label="Close details">
            <IconX size={15} />
          </ActionIcon>
        </Tooltip>
      </div>
      <div className={styles.paneBody} tabIndex={0} role="region" aria-label={label}>
        {children}
      </div>
    </aside>
  );
}

/** A row of controls above a view's content. */
export function Toolbar({ children, label }: { readonly children: ReactNode; readonly label: string }) {
  return (
    <div className={styles.toolbar} role="toolbar" aria-label={label}>
      {children}
    </div>
  );
}

/** Pushes what follows to the end of a toolbar. */
export function Spacer() {
  return <span className={styles.spacer} />;
}

interface BannerProps {
  readonly tone: 'warn' | 'bad' | 'info';
  readonly children: ReactNode;
  readonly actions?: ReactNode;
}

/** One line across a view that must not be missed. */
export function Banner({ tone, children, actions }: BannerProps) {
  const Icon = tone === 'info' ? IconInfoCircle : IconAlertTriangle;
  return (
    <div className={`${styles.banner} ${styles[`banner_${tone}`]}`} role="status">
      <Icon size={15} aria-hidden />
      <span>{children}</span>
      <Spacer />
      {actions}
    </div>
  );
}

/** Short texts such as labels, wrapped. */
export function Chips({ items, none = 'none' }: { readonly items: readonly string[]; readonly none?: string }) {
  if (items.length === 0) return <span className="muted">{none}</span>;
  return (
    <div className={styles.chips}>
      {items.map((item) => (
        <span key={item} className={styles.chip}>
          {item}
        </span>
      ))}
    </div>
  );
}

/** A chip that does something. */
export function ChipButton({ children, onClick, title }: { children: ReactNode; onClick: () => void; title?: string }) {
  return (
    <button type="button" className={styles.chip} onClick={onClick} title={title}>
      {children}
    </button>
  );
}

/** Keys of a shortcut, e.g. "g f". */
export function Keys({ keys }: { readonly keys: string }) {
  return (
    <span style={{ display: 'inline-flex', flex: 'none', alignItems: 'flex-start', gap: 3 }}>
      {keys.split(' ').map((key, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: the same key may come twice
        <kbd key={index} className={styles.kbd}>
          {key}
        </kbd>
      ))}
    </span>
  );
}

interface ReasonedButtonProps extends ButtonProps {
  /** Why it cannot be used now; undefined when it can. */
  readonly blocked?: string | undefined;
  readonly hint?: string;
  readonly onClick?: MouseEventHandler<HTMLButtonElement>;
  readonly ref?: Ref<HTMLButtonElement>;
  readonly type?: 'button' | 'submit';
  readonly autoFocus?: boolean;
}

/** What is done when a button is pressed that is blocked: the reason may have gone meanwhile. */
export const BlockedPress = createContext<() => void>(() => undefined);

/** A button that says why when it is disabled. It stays focusable then, so that the keyboard reaches the reason too. */
export function ReasonedButton({ blocked, hint, onClick, children, ...rest }: ReasonedButtonProps) {
  const id = useId();
  const pressed = useContext(BlockedPress);
  const button = (
    <Button
      {...rest}
      {...(blocked ? { 'data-disabled': true, 'aria-disabled': true, 'aria-describedby': id } : {})}
      onClick={(event) => {
        if (!blocked) return onClick?.(event);
        event.preventDefault();
        pressed();
      }}
    >
      {children}
    </Button>
  );
  const text = blocked ?? hint;
  if (!text) return button;
  return (
    <>
      <Tooltip label={text}>{button}</Tooltip>
      {blocked ? (
        <span id={id} hidden>
          {blocked}
        </span>
      ) : null}
    </>
  );
}

interface IconButtonProps {
  readonly icon: TablerIcon;
  readonly label: string;
  readonly onClick: () => void;
  readonly blocked?: string | undefined;
  readonly active?: boolean;
  readonly size?: 'sm' | 'md';
}

/** An icon with its name as tooltip and for screen readers. */
export function IconButton({ icon: Icon, label, onClick, blocked, active, size = 'md' }: IconButtonProps) {
  const pressed = useContext(BlockedPress);
  return (
    <Tooltip label={blocked ? `${label}: ${blocked}` : label}>
      <ActionIcon
        size={size}
        variant={active ? 'light' : 'subtle'}
        {...(active ? { color: 'sea' } : {})}
        aria-label={label}
        {...(active === undefined ? {} : { 'aria-pressed': active })}
        {...(blocked ? { 'data-disabled': true, 'aria-disabled': true } : {})}
        onClick={() => (blocked ? pressed() : onClick())}
      >
        <Icon size={size === 'sm' ? 14 : 16} />
      </ActionIcon>
    </Tooltip>
  );
}
