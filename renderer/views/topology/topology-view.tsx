import { Button, MultiSelect, SegmentedControl, TextInput, Tooltip } from '@mantine/core';
import { useDebouncedValue } from '@mantine/hooks';
import {
  IconAffiliate,
  IconEye,
  IconPlayerPause,
  IconPlayerPlay,
  IconSearch,
  IconTable,
  IconTopologyStar3,
} from '@tabler/icons-react';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { lazy, Suspense, useEffect, useMemo, useRef, useState } from 'react';
import type { Cluster } from '../../../contract/clusters.ts';
import { type Topology, type TopologyScope, topologyScopeSchema } from '../../../contract/topology.ts';
import { useClusters } from '../../app/clusters.tsx';
import { NeedsCluster } from '../../app/needs-cluster.tsx';
import { useShortcuts } from '../../app/shortcuts.ts';
import { useLatest } from '../../app/streams.ts';
import { formatCount, plural } from '../../ui/format.ts';
import { Banner, Empty, FailureCard, SkeletonRows, Spacer, Toolbar } from '../../ui/pieces.tsx';
import type { Grouping } from './graph-elements.ts';
import { matchesFind } from './graph-elements.ts';
import styles from './topology.module.css';
import { TopologyDetails } from './topology-details.tsx';
import { TopologyTables } from './topology-tables.tsx';

// The drawing brings cytoscape along; the tables do not need it.
const TopologyGraph = lazy(async () => ({ default: (await import('./topology-graph.tsx')).TopologyGraph }));

/** How long an edge stays after its last event. */
const windowSeconds = 60;

const scopes = [
  { value: 'namespace', label: 'Namespace' },
  { value: 'workload', label: 'Workload' },
  { value: 'pod', label: 'Pod' },
];

/** Who talks to whom, live. */
export function TopologyView() {
  return <NeedsCluster>{(cluster) => <TopologyContent key={cluster.id} cluster={cluster} />}</NeedsCluster>;
}

function TopologyContent({ cluster }: { readonly cluster: Cluster }) {
  const search = useSearch({ from: '/topology' });
  const navigate = useNavigate();
  const { inventory } = useClusters();
  const scope: TopologyScope = topologyScopeSchema.safeParse(search.scope).data ?? 'workload';
  const grouping: Grouping = search.group === 'namespace' || search.group === 'none' ? search.group : 'node';
  const namespaces = useMemo(() => (search.namespaces ? search.namespaces.split(',') : []), [search.namespaces]);
  const hidden = useMemo(() => new Set(search.hide ? search.hide.split(',') : []), [search.hide]);
  const table = search.view === 'table';
  const [find, setFind] = useState(search.find ?? '');
  const [settledFind] = useDebouncedValue(find, 180);
  const [frozen, setFrozen] = useState<Topology | undefined>(undefined);
  const input = useRef<HTMLInputElement>(null);
  const change = (to: Partial<Record<keyof typeof search, string | undefined>>) =>
    void navigate({ to: '/topology', replace: true, search: (old) => ({ ...old, ...to }) as never });

  const live = useLatest<Topology>(`topology ${cluster.id} ${scope} ${namespaces.join()}`, (client, handlers) =>
    client.topology.watch({ cluster: cluster.id, scope, namespaces, windowSeconds }, handlers),
  );
  const topology = frozen ?? live.value;
  const toggle = () => setFrozen(frozen ? undefined : live.value);
  // biome-ignore lint/correctness/useExhaustiveDependencies: another scope or filter is another picture
  useEffect(() => setFrozen(undefined), [scope, search.namespaces]);
  useShortcuts({ '/': () => input.current?.focus(), ' ': toggle });
  const found = topology && settledFind ? topology.nodes.filter((node) => matchesFind(node, settledFind)).length : 0;

  return (
    <>
      <Toolbar label="Topology">
        <SegmentedControl
          aria-label="Scope"
          data={scopes}
          value={scope}
          onChange={(value) => change({ scope: value, select: undefined })}
        />
        <Tooltip label="How things are grouped. What spans several Kubernetes nodes stands outside of them.">
          <SegmentedControl
            aria-label="Group by"
            value={grouping}
            onChange={(value) => change({ group: value })}
            data={[
              { value: 'node', label: 'By node' },
              { value: 'namespace', label: 'By namespace' },
              { value: 'none', label: 'Ungrouped' },
            ]}
          />
        </Tooltip>
        <MultiSelect
          size="xs"
          aria-label="Namespaces"
          placeholder={namespaces.length === 0 ? 'All namespaces' : ''}
          data={(inventory.value?.namespaces ?? []).map((one) => one.name)}
          value={[...namespaces]}
          onChange={(value) => change({ namespaces: value.join(',') || undefined })}
          searchable
          clearable
          maw={360}
          miw={170}
        />
        <TextInput
          ref={input}
          aria-label="Find"
          placeholder="Find  ( / )"
          leftSection={<IconSearch size={14} />}
          value={find}
          onChange={(event) => setFind(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== 'Escape') return;
            setFind('');
            event.currentTarget.blur();
          }}
          rightSection={settledFind ? <span className="muted">{found}</span> : null}
          w={190}
        />
        {hidden.size > 0 ? (
          <Button variant="default" leftSection={<IconEye size={14} />} onClick={() => change({ hide: undefined })}>
            Show {hidden.size} hidden
          </Button>
        ) : null}
        <Spacer />
        <Tooltip label={frozen ? 'Follow again (Space)' : 'Hold the picture still (Space)'}>
          <Button
            variant={frozen ? 'filled' : 'default'}
            aria-pressed={!!frozen}
            onClick={toggle}
            px={9}
            leftSection={frozen ? <IconPlayerPlay size={14} /> : <IconPlayerPause size={14} />}
          >
            {frozen ? 'Follow' : 'Pause'}
          </Button>
        </Tooltip>
        <SegmentedControl
          aria-label="Show as"
          value={table ? 'table' : 'graph'}
          onChange={(value) => change({ view: value === 'table' ? 'table' : undefined })}
          data={[
            { value: 'graph', label: <IconLabel icon={IconTopologyStar3} text="Graph" /> },
            { value: 'table', label: <IconLabel icon={IconTable} text="Table" /> },
          ]}
        />
      </Toolbar>
      {topology?.summarised ? <Banner tone="info">{topology.summarised.text}</Banner> : null}
      {topology && topology.missing.length > 0 ? (
        <Banner tone="bad">
          The picture lacks {topology.missing.join(', ')}: no agent answers there, so traffic between pods of it is not
          shown.
        </Banner>
      ) : null}
      {topology && topology.lost > 0 ? (
        <Banner tone="warn">
          {formatCount(topology.lost)} flow events were lost; rates may be too low and rare edges missing.
        </Banner>
      ) : null}
      {live.failure && topology ? (
        <div style={{ padding: 8 }}>
          <FailureCard failure={live.failure} onRetry={live.retry} />
        </div>
      ) : null}
      <div className={styles.content}>
        {!topology ? (
          <div style={{ flex: 1 }}>
            {live.failure ? (
              <div style={{ padding: 16, maxWidth: 760 }}>
                <FailureCard failure={live.failure} onRetry={live.retry} />
              </div>
            ) : (
              <SkeletonRows rows={14} label="Loading the topology" />
            )}
          </div>
        ) : topology.nodes.length === 0 ? (
          <div style={{ flex: 1 }}>
            <Empty icon={IconAffiliate} title="No traffic in the last minute">
              Edges appear as soon as pods talk to each other.
              {namespaces.length > 0 ? ' Only some namespaces are chosen: clear the filter to see all.' : ''}
            </Empty>
          </div>
        ) : table ? (
          <TopologyTables
            topology={topology}
            hidden={hidden}
            find={settledFind}
            selected={search.select}
            onSelect={(id) => change({ select: id })}
          />
        ) : (
          <Suspense fallback={<SkeletonRows rows={14} label="Loading the drawing" />}>
            <TopologyGraph
              name={`${cluster.id} ${scope} ${grouping}`}
              topology={topology}
              grouping={grouping}
              hidden={hidden}
              find={settledFind}
              selected={search.select}
              onSelect={(id) => change({ select: id })}
            />
          </Suspense>
        )}
        {topology && search.select ? (
          <TopologyDetails
            topology={topology}
            id={search.select}
            onClose={() => change({ select: undefined })}
            onSelect={(id) => change({ select: id })}
            onHide={(id) => change({ hide: [...hidden, id].join(','), select: undefined })}
          />
        ) : null}
      </div>
      {topology ? (
        <div
          style={{
            padding: '3px 12px',
            borderTop: '1px solid var(--line)',
            background: 'var(--raised)',
            color: 'var(--muted)',
            fontSize: 12,
          }}
          role="status"
          aria-live="off"
        >
          {plural(topology.nodes.filter((node) => node.kind !== 'entity').length, scope)},{' '}
          {plural(topology.edges.length, 'connection')} in the last {windowSeconds} s{frozen ? ' · held' : ''}
        </div>
      ) : null}
    </>
  );
}

function IconLabel({ icon: Icon, text }: { readonly icon: typeof IconTable; readonly text: string }) {
  return (
    <span style={{ display: 'inline-flex', alignItems: 'center', gap: 5 }}>
      <Icon size={14} aria-hidden />
      {text}
    </span>
  );
}
