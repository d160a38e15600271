import { Button } from '@mantine/core';
import { IconArrowLeft, IconArrowRight, IconArrowsLeftRight, IconEyeOff, IconTerminal2 } from '@tabler/icons-react';
import { Link } from '@tanstack/react-router';
import type { Topology, TopologyEdge, TopologyNode } from '../../../contract/topology.ts';
import { formatAge, formatBitRate, formatCount, formatRate } from '../../ui/format.ts';
import { Chips, Facts, Section, SidePane } from '../../ui/pieces.tsx';
import { ReadyBadge } from '../../ui/status.tsx';
import { policyName } from '../flows/flow-columns.tsx';
import { PolicyLink } from '../flows/flow-details.tsx';
import styles from './topology.module.css';
import { EdgeVerdict, portsText } from './topology-tables.tsx';

interface DetailsProps {
  readonly topology: Topology;
  readonly id: string;
  readonly onClose: () => void;
  readonly onSelect: (id: string) => void;
  readonly onHide: (id: string) => void;
}

/** Filter token of the flows view for one end. */
function tokenOf(node: TopologyNode, prefix: '' | 'from-' | 'to-'): string {
  switch (node.kind) {
    case 'pod':
      return `${prefix}pod:${node.namespace}/${node.label}`;
    case 'namespace':
      return `${prefix}namespace:${node.label}`;
    case 'workload':
      return prefix === ''
        ? `workload:${node.namespace}/${node.label}`
        : `${prefix}pod:${node.namespace}/${node.label}`;
    case 'entity':
      return `${prefix}label:reserved:${node.label}`;
  }
}

/** Details of what is selected: a node with its edges, or an edge with its ports and policies. */
export function TopologyDetails(props: DetailsProps) {
  const { topology, id } = props;
  const node = topology.nodes.find((one) => one.id === id);
  const edge = topology.edges.find((one) => one.id === id);
  if (node) return <NodeDetails {...props} node={node} />;
  if (edge) return <EdgeDetails {...props} edge={edge} />;
  return (
    <SidePane label="Details" title={<b>{id.slice(id.indexOf(':') + 1)}</b>} onClose={props.onClose}>
      <Section title="Not in the picture now">
        <p>
          {id.startsWith('group:')
            ? 'This is a group. Select something inside it to see its details.'
            : 'It has not been seen in this window, or belongs to another scope. It stays selected and comes back with its next event.'}
        </p>
      </Section>
    </SidePane>
  );
}

function names(topology: Topology): ReadonlyMap<string, TopologyNode> {
  return new Map(topology.nodes.map((node) => [node.id, node]));
}

function NodeDetails({ topology, node, onClose, onSelect, onHide }: DetailsProps & { readonly node: TopologyNode }) {
  const by = names(topology);
  const incoming = topology.edges.filter((edge) => edge.target === node.id);
  const outgoing = topology.edges.filter((edge) => edge.source === node.id);
  const list = (edges: readonly TopologyEdge[], other: (edge: TopologyEdge) => string, incomingEdges: boolean) =>
    edges.length === 0 ? (
      <p className="muted">Nothing in this window.</p>
    ) : (
      [...edges]
        .sort((a, b) => b.eventsPerSecond - a.eventsPerSecond)
        .slice(0, 40)
        .map((edge) => (
          <button key={edge.id} type="button" className={styles.edgeRow} onClick={() => onSelect(edge.id)}>
            <span className={styles.edgeHead}>
              {incomingEdges ? (
                <IconArrowLeft size={13} aria-label="from" />
              ) : (
                <IconArrowRight size={13} aria-label="to" />
              )}
              <span className="clip" style={{ flex: 1 }}>
                {by.get(other(edge))?.label ?? other(edge)}
              </span>
              <EdgeVerdict edge={edge} plain />
            </span>
            <span className="muted">
              <span className="mono">{portsText(edge)}</span> · {formatRate(edge.eventsPerSecond)}
              {edge.droppedPerSecond > 0 ? ` · ${formatRate(edge.droppedPerSecond)} dropped` : ''}
            </span>
          </button>
        ))
    );
  const pod = node.kind === 'pod' ? `${node.namespace}/${node.label}` : '';
  return (
    <SidePane
      label="Details"
      onClose={onClose}
      title={
        <>
          <h2>{node.label}</h2>
          <span className="muted">
            {node.kind}
            {node.namespace && node.kind !== 'namespace' ? ` in ${node.namespace}` : ''}
          </span>
        </>
      }
    >
      <Section title="Actions">
        <div style={{ display: 'flex', flexWrap: 'wrap', gap: 6 }}>
          <Button
            component={Link}
            to="/flows"
            search={{ filter: tokenOf(node, '') } as never}
            leftSection={<IconArrowsLeftRight size={14} />}
          >
            Show flows
          </Button>
          {pod ? (
            <Button
              variant="default"
              component={Link}
              to="/terminal"
              search={{ pod } as never}
              leftSection={<IconTerminal2 size={14} />}
            >
              Open a shell
            </Button>
          ) : null}
          <Button variant="default" leftSection={<IconEyeOff size={14} />} onClick={() => onHide(node.id)}>
            Hide
          </Button>
        </div>
      </Section>
      <Section title="About">
        <Facts
          items={[
            node.kind === 'entity' ? undefined : ['State', <ReadyBadge key="r" ready={node.ready} />],
            [
              'Default deny',
              [node.isolatedIngress ? 'ingress' : '', node.isolatedEgress ? 'egress' : '']
                .filter(Boolean)
                .join(' and ') || 'off: everything is admitted',
            ],
            node.pods > 1 ? ['Pods', node.pods] : undefined,
            node.hosts.length > 0 ? ['On', node.hosts.join(', ')] : undefined,
            node.addresses.length > 0
              ? [
                  'Addresses',
                  <span key="a" className="mono">
                    {node.addresses.slice(0, 12).join(', ')}
                  </span>,
                ]
              : undefined,
            [
              'Identity',
              <span key="i" className="mono">
                {node.identities.slice(0, 12).join(', ')}
              </span>,
            ],
            ['Labels', <Chips key="l" items={node.labels} />],
          ]}
        />
      </Section>
      <Section title={`Receives from ${incoming.length}`}>{list(incoming, (edge) => edge.source, true)}</Section>
      <Section title={`Sends to ${outgoing.length}`}>{list(outgoing, (edge) => edge.target, false)}</Section>
    </SidePane>
  );
}

function EdgeDetails({ topology, edge, onClose, onSelect }: DetailsProps & { readonly edge: TopologyEdge }) {
  const by = names(topology);
  const source = by.get(edge.source);
  const target = by.get(edge.target);
  const filter = [source ? tokenOf(source, 'from-') : '', target ? tokenOf(target, 'to-') : ''].join(' ').trim();
  return (
    <SidePane
      label="Details"
      onClose={onClose}
      title={
        <div style={{ display: 'grid', gap: 3, justifyItems: 'start' }}>
          <EdgeVerdict edge={edge} />
          <h2>
            {source?.label ?? edge.source} → {target?.label ?? edge.target}
          </h2>
        </div>
      }
    >
      <Section title="Actions">
        <div style={{ display: 'flex', flexWrap: 'wrap', gap: 6 }}>
          <Button
            component={Link}
            to="/flows"
            search={{ filter } as never}
            leftSection={<IconArrowsLeftRight size={14} />}
          >
            Show flows
          </Button>
          {source ? (
            <Button variant="default" onClick={() => onSelect(source.id)}>
              Select source
            </Button>
          ) : null}
          {target ? (
            <Button variant="default" onClick={() => onSelect(target.id)}>
              Select destination
            </Button>
          ) : null}
        </div>
      </Section>
      {edge.dropped > 0 ? (
        <Section title="Denied">
          <Facts
            items={[
              [
                'Reason',
                <span key="r" className="mono">
                  {edge.dropReason || 'unknown'}
                </span>,
              ],
              [
                'By policy',
                edge.deniedBy.length > 0
                  ? edge.deniedBy.map((policy) => <PolicyLink key={policyName(policy)} policy={policy} />)
                  : 'none is named',
              ],
            ]}
          />
        </Section>
      ) : null}
      {edge.allowedBy.length > 0 ? (
        <Section title="Admitted by">
          {edge.allowedBy.map((policy) => (
            <div key={policyName(policy)}>
              <PolicyLink policy={policy} />
            </div>
          ))}
        </Section>
      ) : null}
      <Section title="Rates">
        <Facts
          items={[
            ['Events', formatRate(edge.eventsPerSecond)],
            ['Connections', formatRate(edge.connectionsPerSecond)],
            ['Dropped', formatRate(edge.droppedPerSecond)],
            ['Traffic', formatBitRate(edge.bytesPerSecond)],
            ['Last seen', `${formatAge(edge.lastSeen, topology.at)} ago`],
          ]}
        />
      </Section>
      <Section title="Ports">
        <table style={{ width: '100%', borderSpacing: 0 }}>
          <thead>
            <tr className="muted" style={{ textAlign: 'left' }}>
              <th>Port</th>
              <th>Service</th>
              <th style={{ textAlign: 'right' }}>Forwarded</th>
              <th style={{ textAlign: 'right' }}>Dropped</th>
            </tr>
          </thead>
          <tbody>
            {edge.ports.slice(0, 60).map((port, index) => (
              // biome-ignore lint/suspicious/noArrayIndexKey: ports may repeat per service
              <tr key={index}>
                <td className="mono">{port.port > 0 ? `${port.port}/${port.protocol}` : port.protocol}</td>
                <td>{port.service || '–'}</td>
                <td style={{ textAlign: 'right' }}>{formatCount(port.forwarded)}</td>
                <td
                  style={{ textAlign: 'right', ...(port.dropped > 0 ? { color: 'var(--bad)', fontWeight: 600 } : {}) }}
                >
                  {formatCount(port.dropped)}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </Section>
    </SidePane>
  );
}
