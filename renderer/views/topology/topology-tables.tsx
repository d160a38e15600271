import { SegmentedControl } from '@mantine/core';
import { IconArrowRight, IconBan } from '@tabler/icons-react';
import { useMemo, useState } from 'react';
import type { Topology, TopologyEdge, TopologyNode } from '../../../contract/topology.ts';
import { type Column, DataGrid } from '../../ui/data-grid.tsx';
import { formatAge, formatBitRate, formatCount, formatRate } from '../../ui/format.ts';
import { Spacer, Toolbar } from '../../ui/pieces.tsx';
import { Status } from '../../ui/status.tsx';
import { policyName } from '../flows/flow-columns.tsx';
import { matchesFind } from './graph-elements.ts';
import styles from './topology.module.css';

/** Verdict of an edge in a word, a colour and an icon. */
export function EdgeVerdict({ edge, plain }: { readonly edge: TopologyEdge; readonly plain?: boolean }) {
  switch (edge.verdict) {
    case 'forwarded':
      return (
        <Status tone="ok" icon={IconArrowRight} plain={plain ?? false}>
          Forwarded
        </Status>
      );
    case 'dropped':
      return (
        <Status tone="bad" icon={IconBan} plain={plain ?? false}>
          Denied
        </Status>
      );
    case 'mixed':
      return (
        <Status tone="warn" icon={IconBan} plain={plain ?? false}>
          Partly denied
        </Status>
      );
  }
}

/** "80/TCP, 53/UDP". */
export function portsText(edge: TopologyEdge): string {
  return [...new Set(edge.ports.map((port) => (port.port > 0 ? `${port.port}/${port.protocol}` : port.protocol)))].join(
    ', ',
  );
}

interface TablesProps {
  readonly topology: Topology;
  readonly hidden: ReadonlySet<string>;
  readonly find: string;
  readonly selected: string | undefined;
  readonly onSelect: (id: string) => void;
}

/** The same as the graph, as sortable lists of edges and of nodes. */
export function TopologyTables({ topology, hidden, find, selected, onSelect }: TablesProps) {
  const [which, setWhich] = useState<'edges' | 'nodes'>('edges');
  const names = useMemo(
    () =>
      new Map(
        topology.nodes.map((node) => [
          node.id,
          node.namespace && node.kind !== 'namespace' ? `${node.namespace}/${node.label}` : node.label,
        ]),
      ),
    [topology],
  );
  const shown = useMemo(
    () => topology.nodes.filter((node) => !hidden.has(node.id) && (find === '' || matchesFind(node, find))),
    [topology, hidden, find],
  );
  const edges = useMemo(() => {
    const ids = new Set(shown.map((node) => node.id));
    return topology.edges.filter(
      (edge) => !hidden.has(edge.source) && !hidden.has(edge.target) && (ids.has(edge.source) || ids.has(edge.target)),
    );
  }, [topology, shown, hidden]);
  const edgeColumns = useMemo<readonly Column<TopologyEdge>[]>(() => {
    const name = (id: string) => names.get(id) ?? id;
    return [
      {
        id: 'source',
        title: 'Source',
        width: 'minmax(150px, 1.6fr)',
        sort: (edge) => name(edge.source),
        render: (edge) => name(edge.source),
      },
      {
        id: 'target',
        title: 'Destination',
        width: 'minmax(150px, 1.6fr)',
        sort: (edge) => name(edge.target),
        render: (edge) => name(edge.target),
      },
      {
        id: 'verdict',
        title: 'Verdict',
        width: '130px',
        sort: (edge) => edge.verdict,
        render: (edge) => <EdgeVerdict edge={edge} />,
      },
      {
        id: 'ports',
        title: 'Ports',
        width: 'minmax(100px, 0.8fr)',
        sort: portsText,
        render: (edge) => <span className="mono">{portsText(edge)}</span>,
      },
      {
        id: 'events',
        title: 'Events',
        width: '84px',
        end: true,
        sort: (edge) => edge.eventsPerSecond,
        render: (edge) => formatRate(edge.eventsPerSecond),
      },
      {
        id: 'dropped',
        title: 'Dropped',
        width: '84px',
        end: true,
        sort: (edge) => edge.droppedPerSecond,
        render: (edge) => formatRate(edge.droppedPerSecond),
      },
      {
        id: 'bytes',
        title: 'Traffic',
        width: '96px',
        end: true,
        sort: (edge) => edge.bytesPerSecond,
        render: (edge) => formatBitRate(edge.bytesPerSecond),
      },
      {
        id: 'policy',
        title: 'Policy',
        width: 'minmax(110px, 1fr)',
        sort: (edge) => [...edge.deniedBy, ...edge.allowedBy].map(policyName).join(),
        render: (edge) => [...new Set([...edge.deniedBy, ...edge.allowedBy].map(policyName))].join(', '),
      },
      {
        id: 'seen',
        title: 'Last seen',
        width: '84px',
        end: true,
        sort: (edge) => -edge.lastSeen,
        render: (edge) => formatAge(edge.lastSeen, topology.at),
      },
    ];
  }, [names, topology.at]);
  const nodeColumns = useMemo<readonly Column<TopologyNode>[]>(
    () => [
      {
        id: 'label',
        title: 'Name',
        width: 'minmax(180px, 2fr)',
        sort: (node) => node.label,
        render: (node) => node.label,
      },
      { id: 'kind', title: 'Kind', width: '96px', sort: (node) => node.kind, render: (node) => node.kind },
      {
        id: 'namespace',
        title: 'Namespace',
        width: 'minmax(100px, 1fr)',
        sort: (node) => node.namespace,
        render: (node) => node.namespace,
      },
      {
        id: 'hosts',
        title: 'On',
        width: 'minmax(100px, 1fr)',
        sort: (node) => node.hosts.join(),
        render: (node) => node.hosts.join(', '),
      },
      {
        id: 'pods',
        title: 'Pods',
        width: '64px',
        end: true,
        sort: (node) => node.pods,
        render: (node) => formatCount(node.pods),
      },
      {
        id: 'addresses',
        title: 'Addresses',
        width: 'minmax(120px, 1fr)',
        sort: (node) => node.addresses.join(),
        render: (node) => <span className="mono">{node.addresses.join(', ')}</span>,
      },
      {
        id: 'isolated',
        title: 'Default deny',
        width: '120px',
        sort: (node) => Number(node.isolatedIngress) * 2 + Number(node.isolatedEgress),
        render: (node) =>
          [node.isolatedIngress ? 'ingress' : '', node.isolatedEgress ? 'egress' : ''].filter(Boolean).join(', ') ||
          '–',
      },
    ],
    [],
  );
  return (
    <div className={styles.tables}>
      <Toolbar label="Table">
        <SegmentedControl
          value={which}
          onChange={(value) => setWhich(value as 'edges' | 'nodes')}
          data={[
            { value: 'edges', label: `Connections (${edges.length})` },
            { value: 'nodes', label: `Endpoints (${shown.length})` },
          ]}
        />
        <Spacer />
      </Toolbar>
      {which === 'edges' ? (
        <DataGrid
          label="Connections"
          rows={edges}
          columns={edgeColumns}
          rowKey={(edge) => edge.id}
          selected={selected}
          onSelect={(edge) => onSelect(edge.id)}
          tone={(edge) => (edge.verdict === 'dropped' ? 'bad' : edge.verdict === 'mixed' ? 'warn' : undefined)}
          initialSort={{ column: 'events', descending: true }}
        />
      ) : (
        <DataGrid
          label="Endpoints"
          rows={shown}
          columns={nodeColumns}
          rowKey={(node) => node.id}
          selected={selected}
          onSelect={(node) => onSelect(node.id)}
          initialSort={{ column: 'label', descending: false }}
        />
      )}
    </div>
  );
}
