import { Button, Menu, Popover, Select, Tooltip } from '@mantine/core';
import {
  IconArrowsLeftRight,
  IconArrowUp,
  IconColumns3,
  IconDownload,
  IconPlayerPause,
  IconPlayerPlay,
  IconTerminal,
} from '@tabler/icons-react';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { useCallback, useMemo, useRef, useState, useSyncExternalStore } from 'react';
import type { Cluster } from '../../../contract/clusters.ts';
import type { Flow, FlowHealth, FlowItem } from '../../../contract/flows.ts';
import { useClusters } from '../../app/clusters.tsx';
import { NeedsCluster } from '../../app/needs-cluster.tsx';
import { usePreferences } from '../../app/preferences.ts';
import { useShortcuts } from '../../app/shortcuts.ts';
import { useStream } from '../../app/streams.ts';
import { DataGrid } from '../../ui/data-grid.tsx';
import { download } from '../../ui/download.ts';
import { formatCount, formatRate, formatShare, plural } from '../../ui/format.ts';
import { Banner, Empty, FailureCard, IconButton, SkeletonRows, Spacer, Toolbar } from '../../ui/pieces.tsx';
import { ReadyBadge } from '../../ui/status.tsx';
import { FilterBar, isFiltered } from './filter-bar.tsx';
import { hasToken, parseFilter, toggleToken } from './filter-grammar.ts';
import { flowColumns } from './flow-columns.tsx';
import { FlowDetails } from './flow-details.tsx';
import { flowsToCsv, flowsToJson } from './flow-export.ts';
import { FlowStore, flowCapacity } from './flow-store.ts';
import styles from './flows.module.css';
import { HubbleDialog } from './hubble-dialog.tsx';

const quick: readonly { readonly token: string; readonly text: string; readonly hint: string }[] = [
  { token: 'verdict:DROPPED', text: 'Dropped only', hint: 'Only flows that were dropped' },
  { token: 'not port:53', text: 'Hide DNS', hint: 'Without port 53' },
  { token: 'not identity:1,4,6', text: 'Hide host & health', hint: 'Without host, health and remote-node' },
];

const windows = [
  { value: '', label: 'Last flows' },
  { value: '1', label: 'Last minute' },
  { value: '5', label: 'Last 5 minutes' },
  { value: '15', label: 'Last 15 minutes' },
  { value: '60', label: 'Last hour' },
];
/** Flows per node to start with. */
const startWith = 500;

/** Live flows of a cluster. */
export function FlowsView() {
  return <NeedsCluster>{(cluster) => <Flows key={cluster.id} cluster={cluster} />}</NeedsCluster>;
}

function Flows({ cluster }: { readonly cluster: Cluster }) {
  const { filter: line = '', since = '' } = useSearch({ from: '/flows' });
  const navigate = useNavigate();
  const { inventory } = useClusters();
  const { density, flowColumns: shown } = usePreferences();
  const [store] = useState(() => new FlowStore());
  const picture = useSyncExternalStore(store.subscribe, store.picture);
  const [selected, setSelected] = useState<Flow | undefined>(undefined);
  const [paused, setPaused] = useState(false);
  const [hubble, setHubble] = useState(false);
  const scroller = useRef<HTMLDivElement>(null);
  const input = useRef<HTMLInputElement>(null);
  const parsed = useMemo(() => parseFilter(line), [line]);

  const stream = useStream<FlowItem>(
    `flows ${cluster.id} ${JSON.stringify([parsed.allow, parsed.deny])} ${since}`,
    (client, handlers) =>
      client.flows.watch(
        {
          cluster: cluster.id,
          allow: parsed.allow,
          deny: parsed.deny,
          last: since ? flowCapacity : startWith,
          ...(since ? { since: Date.now() - Number(since) * 60_000 } : {}),
          follow: true,
        },
        handlers,
      ),
    store.take,
    store.clear,
  );

  const pause = useCallback(
    (next: boolean) => {
      setPaused(next);
      store.hold(next || (scroller.current?.scrollTop ?? 0) > 4);
    },
    [store],
  );
  const follow = useCallback(() => {
    scroller.current?.scrollTo({ top: 0 });
    setPaused(false);
    store.hold(false);
  }, [store]);
  const setLine = useCallback(
    (next: string) => {
      // Another filter is another request: what was held still belongs to the old one.
      follow();
      void navigate({
        to: '/flows',
        replace: true,
        search: (old) => ({ ...old, filter: next === '' ? undefined : next }) as never,
      });
    },
    [navigate, follow],
  );
  useShortcuts({
    '/': () => input.current?.focus(),
    ' ': () => (paused ? follow() : pause(true)),
  });
  const columns = useMemo(() => flowColumns.filter((column) => shown.includes(column.id)), [shown]);
  const addToken = (token: string) => setLine(hasToken(line, token) ? line : toggleToken(line, token));
  const health = picture.health;
  const silent = health?.nodes.filter((node) => node.state === 'unreachable') ?? [];

  return (
    <>
      <Toolbar label="Flows">
        <FollowButton paused={paused} onPause={() => pause(true)} onFollow={follow} />
        <FilterBar line={line} onChange={setLine} inventory={inventory.value} inputRef={input} />
        {quick.map(({ token, text, hint }) => (
          <Tooltip key={token} label={hint}>
            <Button
              variant={hasToken(line, token) ? 'light' : 'default'}
              aria-pressed={hasToken(line, token)}
              onClick={() => setLine(toggleToken(line, token))}
              px={9}
            >
              {text}
            </Button>
          </Tooltip>
        ))}
        <Select
          aria-label="Time window"
          w={132}
          data={windows}
          value={since}
          onChange={(value) =>
            void navigate({ to: '/flows', search: (old) => ({ ...old, since: value || undefined }) as never })
          }
        />
        <IconButton icon={IconTerminal} label="Copy as or paste a hubble command" onClick={() => setHubble(true)} />
        <ColumnsMenu />
        <ExportMenu rows={picture.rows} />
      </Toolbar>
      {parsed.problems.length > 0 ? (
        <Banner tone="warn">{parsed.problems.join(' ')} It is left out of the filter.</Banner>
      ) : null}
      {silent.map((node) => (
        <Banner key={node.node} tone="bad">
          Flows of {node.node} are missing: {node.message || 'its agent does not answer.'}
        </Banner>
      ))}
      {stream.failure && picture.total > 0 ? (
        <div style={{ padding: 8 }}>
          <FailureCard failure={stream.failure} onRetry={stream.retry} />
        </div>
      ) : null}
      <div className={styles.content}>
        <div className={styles.table}>
          {picture.waiting > 0 ? (
            <Button
              className={styles.new ?? ''}
              size="compact-sm"
              leftSection={<IconArrowUp size={13} />}
              onClick={follow}
            >
              {formatCount(picture.waiting)} new
            </Button>
          ) : null}
          <DataGrid
            label="Flows, newest first"
            rows={picture.rows}
            columns={columns}
            rowKey={(flow) => String(flow.sequence)}
            rowHeight={density === 'compact' ? 25 : 32}
            unsorted
            selected={selected ? String(selected.sequence) : undefined}
            onSelect={(flow) => setSelected(flow)}
            tone={(flow) =>
              flow.verdict === 'DROPPED' || flow.verdict === 'ERROR'
                ? 'bad'
                : flow.verdict === 'AUDIT'
                  ? 'warn'
                  : undefined
            }
            scrollRef={scroller}
            onScroll={(element) => store.hold(paused || element.scrollTop > 4)}
            empty={
              <NothingYet
                cluster={cluster}
                line={line}
                failure={stream.failure}
                retry={stream.retry}
                arrived={health !== undefined}
                onClear={() => setLine('')}
              />
            }
          />
          <StatusLine
            health={health}
            shown={picture.rows.length}
            total={picture.total}
            live={isFiltered(line) ? undefined : picture.live}
            held={picture.held}
            paused={paused}
          />
        </div>
        {selected ? <FlowDetails flow={selected} onClose={() => setSelected(undefined)} onFilter={addToken} /> : null}
      </div>
      {hubble ? <HubbleDialog line={line} onClose={() => setHubble(false)} onLine={setLine} /> : null}
    </>
  );
}

function FollowButton({ paused, onPause, onFollow }: { paused: boolean; onPause: () => void; onFollow: () => void }) {
  return (
    <Tooltip label={paused ? 'Follow again (Space)' : 'Hold the table still (Space); flows go on being collected'}>
      <Button
        variant={paused ? 'filled' : 'default'}
        w={92}
        px={8}
        aria-pressed={paused}
        leftSection={paused ? <IconPlayerPlay size={14} /> : <IconPlayerPause size={14} />}
        onClick={paused ? onFollow : onPause}
      >
        {paused ? 'Follow' : 'Pause'}
      </Button>
    </Tooltip>
  );
}

interface NothingYetProps {
  readonly cluster: Cluster;
  readonly line: string;
  readonly failure: Parameters<typeof FailureCard>[0]['failure'] | undefined;
  readonly retry: () => void;
  readonly arrived: boolean;
  readonly onClear: () => void;
}

function NothingYet({ cluster, line, failure, retry, arrived, onClear }: NothingYetProps) {
  if (failure) {
    return (
      <div style={{ padding: 16, maxWidth: 760 }}>
        <FailureCard failure={failure} onRetry={retry} />
      </div>
    );
  }
  if (!arrived) return <SkeletonRows rows={14} label="Waiting for flows" />;
  if (isFiltered(line)) {
    return (
      <Empty
        icon={IconArrowsLeftRight}
        title="No flow passes this filter yet"
        actions={<Button onClick={onClear}>Clear the filter</Button>}
      >
        Flows appear here as soon as one matches. The filter is applied on the nodes.
      </Empty>
    );
  }
  return (
    <Empty icon={IconArrowsLeftRight} title="No traffic yet">
      {cluster.name} is watched, but no pod has sent or received anything. Start one, or open a shell in Terminal and
      try a connection.
    </Empty>
  );
}

function ColumnsMenu() {
  const { density, flowColumns: shown, set } = usePreferences();
  return (
    <Menu closeOnItemClick={false} position="bottom-end">
      <Menu.Target>
        <Tooltip label="Columns and density">
          <Button variant="default" px={8} aria-label="Columns and density">
            <IconColumns3 size={15} />
          </Button>
        </Tooltip>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Label>Rows</Menu.Label>
        {(['compact', 'comfortable'] as const).map((one) => (
          <Menu.RadioItem key={one} checked={density === one} onChange={() => set({ density: one })} value={one}>
            {one === 'compact' ? 'Compact' : 'Comfortable'}
          </Menu.RadioItem>
        ))}
        <Menu.Label>Columns</Menu.Label>
        {flowColumns.map((column) => (
          <Menu.CheckboxItem
            key={column.id}
            checked={shown.includes(column.id)}
            onChange={(checked) =>
              set({ flowColumns: checked ? [...shown, column.id] : shown.filter((id) => id !== column.id) })
            }
          >
            {column.title}
          </Menu.CheckboxItem>
        ))}
      </Menu.Dropdown>
    </Menu>
  );
}

function ExportMenu({ rows }: { readonly rows: readonly Flow[] }) {
  const stamp = () => new Date().toISOString().replaceAll(/[:.]/g, '-');
  return (
    <Menu position="bottom-end">
      <Menu.Target>
        <Tooltip label={`Export ${plural(rows.length, 'flow')}`}>
          <Button variant="default" px={8} aria-label="Export">
            <IconDownload size={15} />
          </Button>
        </Tooltip>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Item onClick={() => download(`flows-${stamp()}.csv`, flowsToCsv(rows), 'text/csv')}>As CSV</Menu.Item>
        <Menu.Item onClick={() => download(`flows-${stamp()}.jsonl`, flowsToJson(rows), 'application/x-ndjson')}>
          As JSON lines
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}

interface StatusLineProps {
  readonly health: FlowHealth | undefined;
  readonly shown: number;
  readonly total: number;
  /** Flows since the stream began; undefined while a filter hides some, for then a share would be wrong. */
  readonly live: number | undefined;
  readonly held: boolean;
  readonly paused: boolean;
}

/** What was seen, what is kept, and what was lost where. */
function StatusLine({ health, shown, total, live, held, paused }: StatusLineProps) {
  const lost =
    (health?.nodes.reduce((sum, node) => sum + node.lostInKernel + node.lostInAgent, 0) ?? 0) +
    (health?.lostInConsole ?? 0);
  return (
    <div className={styles.status} role="status" aria-live="off">
      <span>{paused ? 'Paused' : held ? 'Held while you scroll' : 'Following'}</span>
      <span>
        {formatCount(shown)} of {plural(total, 'flow')} kept
      </span>
      <span>{health ? formatRate(health.rate) : ''}</span>
      <Spacer />
      {health ? (
        <Popover position="top-end" width={440}>
          <Popover.Target>
            <button type="button" className={styles.nodeHealth} style={lost > 0 ? { color: 'var(--warn)' } : {}}>
              {lost === 0
                ? 'No event lost'
                : `${formatCount(lost)} events lost${live === undefined ? '' : ` (${formatShare(lost, lost + live)})`}`}{' '}
              · {plural(health.nodes.length, 'node')}
            </button>
          </Popover.Target>
          <Popover.Dropdown>
            <table style={{ width: '100%', borderSpacing: '8px 2px' }}>
              <thead>
                <tr className="muted" style={{ textAlign: 'left' }}>
                  <th>Node</th>
                  <th>Stream</th>
                  <th style={{ textAlign: 'right' }}>Lost in kernel</th>
                  <th style={{ textAlign: 'right' }}>in agent</th>
                </tr>
              </thead>
              <tbody>
                {health.nodes.map((node) => (
                  <tr key={node.node} title={node.message}>
                    <td>{node.node}</td>
                    <td>
                      <ReadyBadge ready={node.state === 'streaming'} yes="streaming" no={node.state} />
                    </td>
                    <td style={{ textAlign: 'right' }}>{node.lostInKernel.toLocaleString('en')}</td>
                    <td style={{ textAlign: 'right' }}>{node.lostInAgent.toLocaleString('en')}</td>
                  </tr>
                ))}
              </tbody>
            </table>
            <p className="muted" style={{ marginTop: 6 }}>
              Dropped by the console to keep up: {health.lostInConsole.toLocaleString('en')}. Counted since this stream
              began.
            </p>
          </Popover.Dropdown>
        </Popover>
      ) : null}
    </div>
  );
}
