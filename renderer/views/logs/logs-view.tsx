import { Button, MultiSelect, Switch, TextInput } from '@mantine/core';
import { IconDownload, IconFileText, IconSearch } from '@tabler/icons-react';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { useDeferredValue, useEffect, useMemo, useRef, useState } from 'react';
import type { Cluster, Inventory } from '../../../contract/clusters.ts';
import type { LogItem, LogSource } from '../../../contract/logs.ts';
import { useClusters } from '../../app/clusters.tsx';
import { NeedsCluster } from '../../app/needs-cluster.tsx';
import { useStream } from '../../app/streams.ts';
import { type Column, DataGrid } from '../../ui/data-grid.tsx';
import { download } from '../../ui/download.ts';
import { formatCount, formatMoment, plural } from '../../ui/format.ts';
import {
  Banner,
  Copy,
  Empty,
  Facts,
  FailureCard,
  Section,
  SidePane,
  SkeletonRows,
  Spacer,
  Toolbar,
} from '../../ui/pieces.tsx';
import { append, emptyBuffer, type LogBuffer, type LogRow, levelOf } from './log-buffer.ts';

/** Logs of agents and pods, followed and merged by time. */
export function LogsView() {
  const { inventory } = useClusters();
  return (
    <NeedsCluster>
      {(cluster) => {
        if (cluster.source === 'recording')
          return (
            <Empty icon={IconFileText} title="A recording has no logs">
              Logs of containers are not part of a recorded case. Connect a real cluster to read them.
            </Empty>
          );
        if (inventory.value) return <Logs key={cluster.id} cluster={cluster} inventory={inventory.value} />;
        return inventory.failure ? (
          <div style={{ padding: 16 }}>
            <FailureCard failure={inventory.failure} onRetry={inventory.retry} />
          </div>
        ) : (
          <SkeletonRows rows={14} label="Reading the cluster" />
        );
      }}
    </NeedsCluster>
  );
}

const nameOf = (source: LogSource) => `${source.namespace}/${source.pod}/${source.container}`;

/** Every container, agents first: what an operator of the network looks at. */
function containersOf(inventory: Inventory): readonly LogSource[] {
  const isAgent = (source: LogSource) => source.pod.startsWith('fairlead-agent');
  return inventory.pods
    .flatMap((pod) => pod.containers.map((container) => ({ namespace: pod.namespace, pod: pod.name, container })))
    .sort((a, b) => Number(isAgent(b)) - Number(isAgent(a)) || nameOf(a).localeCompare(nameOf(b)));
}

function Logs({ cluster, inventory }: { readonly cluster: Cluster; readonly inventory: Inventory }) {
  const search = useSearch({ strict: false }) as { pods?: string };
  const navigate = useNavigate();
  const containers = useMemo(() => containersOf(inventory), [inventory]);
  const names = useMemo(() => containers.map(nameOf), [containers]);
  const agents = useMemo(
    () => containers.filter((source) => source.pod.startsWith('fairlead-agent')).map(nameOf),
    [containers],
  );
  const chosen = search.pods === undefined ? agents : search.pods.split(',').filter(Boolean);
  const choose = (next: readonly string[]) =>
    void navigate({
      to: '.',
      replace: true,
      search: ((old: object) => ({ ...old, pods: next.join(',') || ',' })) as never,
    });
  const key = chosen.join(',');
  const sources = useMemo<readonly LogSource[]>(
    () =>
      key
        .split(',')
        .filter(Boolean)
        .map((name) => {
          const [namespace = '', pod = '', container = ''] = name.split('/');
          return { namespace, pod, container };
        }),
    [key],
  );
  const [find, setFind] = useState('');
  const wanted = useDeferredValue(find);
  const [paused, setPaused] = useState(false);
  const [buffer, setBuffer] = useState<LogBuffer>(emptyBuffer);
  const held = useRef<LogItem[]>([]);
  const pausedNow = useRef(paused);
  pausedNow.current = paused;
  useEffect(() => {
    if (paused || held.current.length === 0) return;
    const items = held.current;
    held.current = [];
    setBuffer((old) => append(old, items));
  }, [paused]);
  const stream = useStream<LogItem>(
    `logs ${cluster.id} ${key}`,
    sources.length > 0
      ? (client, handlers) =>
          client.logs.follow({ cluster: cluster.id, sources: [...sources], tail: 200, follow: true }, handlers)
      : undefined,
    (items) => {
      if (!pausedNow.current) return setBuffer((old) => append(old, items));
      held.current.push(...items);
      // Paused for long: what the buffer could not keep anyway is not kept twice.
      if (held.current.length > 20_000) held.current.splice(0, held.current.length - 20_000);
    },
    () => {
      held.current = [];
      setBuffer(emptyBuffer);
    },
  );
  const rows = useMemo(() => {
    const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length === 0) return buffer.rows;
    return buffer.rows.filter((row) => {
      const text = row.text.toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }, [buffer, wanted]);
  const scroller = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  // biome-ignore lint/correctness/useExhaustiveDependencies: new rows are what it follows
  useEffect(() => {
    const element = scroller.current;
    if (element && atEnd.current && !paused) element.scrollTop = element.scrollHeight;
  }, [rows, paused]);
  const [selected, setSelected] = useState<number | undefined>(undefined);
  const shown = buffer.rows.find((row) => row.key === selected);
  const label = (row: LogRow) => sources[row.source];
  const columns: readonly Column<LogRow>[] = [
    {
      id: 'time',
      title: 'Time',
      width: '200px',
      render: (row) => <span className="mono">{formatMoment(row.time)}</span>,
    },
    {
      id: 'source',
      title: 'Container',
      width: 'minmax(150px, 230px)',
      render: (row) => {
        const source = label(row);
        return source ? <span title={nameOf(source)}>{`${source.pod} ${source.container}`}</span> : '';
      },
    },
    {
      id: 'text',
      title: 'Text',
      width: 'minmax(300px, 1fr)',
      render: (row) => <span className="mono">{row.text}</span>,
    },
  ];
  const troubled = sources.flatMap((source, index) => {
    const state = buffer.states.get(index);
    return state && (state.state === 'failed' || (state.state === 'waiting' && state.message))
      ? [`${nameOf(source)}: ${state.message || state.state}`]
      : [];
  });
  return (
    <div style={{ display: 'flex', flexDirection: 'column', height: '100%', minHeight: 0 }}>
      <Toolbar label="Logs">
        <MultiSelect
          aria-label="Containers"
          placeholder={chosen.length === 0 ? 'Choose containers' : ''}
          data={names}
          value={[...chosen]}
          onChange={choose}
          searchable
          clearable
          limit={60}
          maxDropdownHeight={320}
          style={{ minWidth: 320, maxWidth: 560, flex: 1 }}
          // One line: with many containers the list of them must not push the lines off the page.
          styles={{
            pillsList: { flexWrap: 'nowrap', overflow: 'hidden' },
            input: { maxHeight: 34, overflow: 'hidden' },
          }}
        />
        <Button variant="default" disabled={agents.length === 0} onClick={() => choose(agents)}>
          All agents
        </Button>
        <TextInput
          aria-label="Find in the lines"
          placeholder="words in a line"
          leftSection={<IconSearch size={14} />}
          value={find}
          onChange={(event) => setFind(event.currentTarget.value)}
          style={{ width: 220 }}
        />
        <Switch
          label="Follow"
          checked={!paused}
          onChange={(event) => setPaused(!event.currentTarget.checked)}
          size="sm"
        />
        <Spacer />
        <span className="muted">
          {plural(rows.length, 'line')}
          {buffer.forgotten > 0 ? `, ${formatCount(buffer.forgotten)} older ones let go` : ''}
        </span>
        <Button
          variant="default"
          leftSection={<IconDownload size={14} />}
          disabled={rows.length === 0}
          onClick={() =>
            download(
              `${cluster.name}-logs.txt`,
              rows
                .map((row) => {
                  const source = label(row);
                  return `${new Date(row.time).toISOString()} ${source ? nameOf(source) : ''} ${row.text}\n`;
                })
                .join(''),
              'text/plain',
            )
          }
        >
          Save
        </Button>
      </Toolbar>
      {stream.failure ? (
        <div style={{ padding: 12 }}>
          <FailureCard failure={stream.failure} onRetry={stream.retry} />
        </div>
      ) : null}
      {troubled.length > 0 ? (
        <Banner tone="warn">
          {troubled[0]}
          {troubled.length > 1 ? ` (and ${troubled.length - 1} more)` : ''}
        </Banner>
      ) : null}
      <div style={{ display: 'flex', flex: 1, minHeight: 0 }}>
        <div style={{ display: 'flex', flex: 1, flexDirection: 'column', minWidth: 0 }}>
          <DataGrid
            label="Lines"
            rows={rows}
            columns={columns}
            rowKey={(row) => String(row.key)}
            selected={selected === undefined ? undefined : String(selected)}
            onSelect={(row) => setSelected(row.key)}
            tone={(row) => levelOf(row.text)}
            unsorted
            scrollRef={scroller}
            onScroll={(element) => {
              atEnd.current = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
            }}
            empty={
              <Empty icon={IconFileText} title={sources.length === 0 ? 'No container is chosen' : 'No line yet'}>
                {sources.length === 0
                  ? 'Choose containers above, or all agents. Their lines are shown together in the order of their times.'
                  : find
                    ? 'No line has these words. Lines that come are looked at too.'
                    : 'Lines appear here as the containers write them.'}
              </Empty>
            }
          />
        </div>
        {shown ? (
          <SidePane title="Line" label="One line" width={480} onClose={() => setSelected(undefined)}>
            <Section title="Line" aside={<Copy text={shown.text} label="Copy the line" />}>
              <Facts
                items={[
                  [
                    'Time',
                    <span key="t" className="mono">
                      {new Date(shown.time).toISOString()}
                    </span>,
                  ],
                  ['Container', label(shown) ? nameOf(label(shown) as LogSource) : ''],
                ]}
              />
              <pre className="mono" style={{ whiteSpace: 'pre-wrap', overflowWrap: 'anywhere', margin: 0 }}>
                {shown.text}
              </pre>
            </Section>
          </SidePane>
        ) : null}
      </div>
    </div>
  );
}
