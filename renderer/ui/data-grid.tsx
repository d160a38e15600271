// biome-ignore-all lint/a11y/useSemanticElements: a virtual grid cannot be a table element: its rows are placed by hand
import { IconArrowDown, IconArrowUp } from '@tabler/icons-react';
import { useVirtualizer } from '@tanstack/react-virtual';
import {
  type KeyboardEvent,
  memo,
  type ReactNode,
  type RefObject,
  useCallback,
  useEffect,
  useId,
  useMemo,
  useRef,
  useState,
} from 'react';
import styles from './data-grid.module.css';

export interface Column<T> {
  readonly id: string;
  readonly title: string;
  /** A track of CSS grid, e.g. "96px" or "minmax(160px, 2fr)". */
  readonly width: string;
  readonly render: (row: T) => ReactNode;
  /** Value to sort by; without it the column does not sort. */
  readonly sort?: (row: T) => string | number;
  readonly end?: boolean;
}

export interface Sorting {
  readonly column: string;
  readonly descending: boolean;
}

interface DataGridProps<T> {
  readonly label: string;
  readonly rows: readonly T[];
  readonly columns: readonly Column<T>[];
  readonly rowKey: (row: T) => string;
  readonly rowHeight?: number;
  readonly selected?: string | undefined;
  /** Enter, click or Space on a row. */
  readonly onSelect?: (row: T) => void;
  readonly tone?: (row: T) => 'bad' | 'warn' | undefined;
  readonly initialSort?: Sorting;
  /** Rows that arrive in their own order and must not be sorted (live tables). */
  readonly unsorted?: boolean;
  readonly scrollRef?: RefObject<HTMLDivElement | null>;
  readonly onScroll?: (element: HTMLDivElement) => void;
  readonly onKey?: (event: KeyboardEvent, row: T | undefined) => void;
  readonly empty?: ReactNode;
}

/** Sorts a copy: numbers by value, words as people sort them. Equal rows keep their order. */
export function sortRows<T>(rows: readonly T[], columns: readonly Column<T>[], sorting: Sorting | undefined) {
  const by = sorting && columns.find((column) => column.id === sorting.column)?.sort;
  if (!by) return rows;
  const collator = new Intl.Collator('en', { numeric: true });
  const sign = sorting.descending ? -1 : 1;
  return [...rows].sort((a, b) => {
    const left = by(a);
    const right = by(b);
    return (
      sign *
      (typeof left === 'number' && typeof right === 'number'
        ? left - right
        : collator.compare(String(left), String(right)))
    );
  });
}

/** Pixels that the columns need at least: head and rows are grids of their own and must agree on their tracks. */
export function leastWidth(columns: readonly { readonly width: string }[]): number {
  return columns.reduce((sum, column) => sum + Number.parseInt(/\d+(?=px)/.exec(column.width)?.[0] ?? '0', 10), 0);
}

interface RowProps<T> {
  readonly row: T;
  readonly id: string;
  readonly index: number;
  readonly columns: readonly Column<T>[];
  readonly template: string;
  readonly top: number;
  readonly height: number;
  readonly className: string;
  readonly selected: boolean;
  readonly onPick: (index: number) => void;
}

function RowContent<T>({ row, id, index, columns, template, top, height, className, selected, onPick }: RowProps<T>) {
  return (
    // biome-ignore lint/a11y/useFocusableInteractive: the grid has the focus and names its active row
    // biome-ignore lint/a11y/useKeyWithClickEvents: the grid handles the keys
    <div
      id={id}
      role="row"
      aria-rowindex={index + 2}
      aria-selected={selected}
      className={className}
      style={{ gridTemplateColumns: template, transform: `translateY(${top}px)`, height }}
      onClick={() => onPick(index)}
    >
      {columns.map((column) => (
        // biome-ignore lint/a11y/useFocusableInteractive: cells are read, not focused one by one
        <div key={column.id} role="gridcell" className={`${styles.cell} ${column.end ? styles.end : ''}`}>
          {column.render(row)}
        </div>
      ))}
    </div>
  );
}
const Row = memo(RowContent) as typeof RowContent;

/**
 * A dense table that draws only what is seen. One tab stop: arrows, Page Up/Down, Home and End move the active row,
 * Enter or Space selects it. Columns with `sort` sort by a click on their head.
 */
export function DataGrid<T>(props: DataGridProps<T>) {
  const { label, rows, columns, rowKey, rowHeight = 28, selected, onSelect, tone, unsorted, onScroll, onKey } = props;
  const id = useId();
  const own = useRef<HTMLDivElement>(null);
  const scroller = props.scrollRef ?? own;
  const [sorting, setSorting] = useState<Sorting | undefined>(props.initialSort);
  const [active, setActive] = useState(-1);
  const sorted = useMemo(
    () => (unsorted ? rows : sortRows(rows, columns, sorting)),
    [unsorted, rows, columns, sorting],
  );
  const template = useMemo(() => columns.map((column) => column.width).join(' '), [columns]);
  const least = useMemo(() => leastWidth(columns), [columns]);
  const virtualizer = useVirtualizer({
    count: sorted.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => rowHeight,
    overscan: 12,
    scrollPaddingStart: 30,
  });
  // biome-ignore lint/correctness/useExhaustiveDependencies: sizes change with the density only
  useEffect(() => virtualizer.measure(), [rowHeight]);

  const current = useRef({ sorted, onSelect });
  current.current = { sorted, onSelect };
  const pick = useCallback((index: number) => {
    setActive(index);
    const row = current.current.sorted[index];
    if (row !== undefined) current.current.onSelect?.(row);
  }, []);

  const keys = (event: KeyboardEvent<HTMLDivElement>) => {
    const page = Math.max(1, Math.floor((scroller.current?.clientHeight ?? 300) / rowHeight) - 2);
    const moves: Readonly<Record<string, number>> = {
      ArrowDown: active + 1,
      ArrowUp: active - 1,
      j: active + 1,
      k: active - 1,
      PageDown: active + page,
      PageUp: active - page,
      Home: 0,
      End: sorted.length - 1,
    };
    const target = event.target === event.currentTarget ? moves[event.key] : undefined;
    if (target !== undefined && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      const next = Math.max(0, Math.min(sorted.length - 1, target));
      setActive(next);
      virtualizer.scrollToIndex(next);
      return;
    }
    if (event.key === 'Enter' && event.target === event.currentTarget && active >= 0) {
      event.preventDefault();
      return pick(active);
    }
    onKey?.(event, sorted[active]);
  };

  const items = virtualizer.getVirtualItems();
  return (
    <div
      ref={scroller}
      className={styles.grid}
      role="grid"
      aria-label={label}
      aria-rowcount={sorted.length + 1}
      aria-colcount={columns.length}
      {...(active >= 0 && active < sorted.length ? { 'aria-activedescendant': `${id}-${active}` } : {})}
      tabIndex={0}
      onKeyDown={keys}
      onScroll={(event) => onScroll?.(event.currentTarget)}
    >
      {/* biome-ignore lint/a11y/useFocusableInteractive: heads hold buttons where they sort */}
      <div
        role="row"
        aria-rowindex={1}
        className={styles.head}
        style={{ gridTemplateColumns: template, minWidth: least }}
      >
        {columns.map((column) => (
          <Head
            key={column.id}
            column={column}
            sorting={unsorted ? undefined : sorting}
            fixed={unsorted ?? false}
            onSort={setSorting}
          />
        ))}
      </div>
      {sorted.length === 0 ? (
        <div role="row" tabIndex={-1}>
          <div role="gridcell" tabIndex={-1}>
            {props.empty ?? <p style={{ padding: 16 }}>Nothing here.</p>}
          </div>
        </div>
      ) : (
        <div role="rowgroup" className={styles.body} style={{ height: virtualizer.getTotalSize(), minWidth: least }}>
          {items.map((item) => {
            const row = sorted[item.index];
            if (row === undefined) return null;
            const key = rowKey(row);
            const mark = tone?.(row);
            const chosen = key === selected;
            return (
              <Row
                key={key}
                id={`${id}-${item.index}`}
                row={row}
                index={item.index}
                columns={columns}
                template={template}
                top={item.start}
                height={rowHeight}
                selected={chosen}
                className={[
                  styles.row,
                  chosen ? styles.selected : '',
                  item.index === active ? styles.active : '',
                  mark ? styles[`tone_${mark}`] : '',
                ].join(' ')}
                onPick={pick}
              />
            );
          })}
        </div>
      )}
    </div>
  );
}

interface HeadProps<T> {
  readonly column: Column<T>;
  readonly sorting: Sorting | undefined;
  readonly fixed: boolean;
  readonly onSort: (sorting: Sorting) => void;
}

function Head<T>({ column, sorting, fixed, onSort }: HeadProps<T>) {
  const on = sorting?.column === column.id;
  const Arrow = sorting?.descending ? IconArrowDown : IconArrowUp;
  return (
    // biome-ignore lint/a11y/useFocusableInteractive: the button inside has the focus
    <div
      role="columnheader"
      className={`${styles.headCell} ${column.end ? styles.end : ''}`}
      {...(column.sort && !fixed
        ? { 'aria-sort': on ? (sorting.descending ? 'descending' : 'ascending') : 'none' }
        : {})}
    >
      {column.sort && !fixed ? (
        <button
          type="button"
          className={styles.sort}
          onClick={() => onSort({ column: column.id, descending: on ? !sorting.descending : false })}
        >
          {column.title}
          {on ? <Arrow size={12} aria-hidden /> : null}
        </button>
      ) : (
        <span className="clip">{column.title}</span>
      )}
    </div>
  );
}
