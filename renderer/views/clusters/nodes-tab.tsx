import { Button } from '@mantine/core';
import { IconArrowsLeftRight, IconTerminal2 } from '@tabler/icons-react';
import { Link, useNavigate, useSearch } from '@tanstack/react-router';
import type { Cluster, ClusterNode, Inventory } from '../../../contract/clusters.ts';
import { addressesOf } from '../../ui/addresses.ts';
import { type Column, DataGrid } from '../../ui/data-grid.tsx';
import { formatBytes, formatCount, formatRate } from '../../ui/format.ts';
import { Facts, FailureCard, Section, SidePane } from '../../ui/pieces.tsx';
import { AgentBadge, ReadyBadge } from '../../ui/status.tsx';
import styles from './clusters.module.css';

const mono = (text: string) => <span className="mono">{text}</span>;
/** One below the other; those of IPv6 are smaller, and have two lines if they need them. */
const stacked = (texts: readonly string[]) => (
  <span className={styles.addresses} title={texts.join(', ')}>
    {texts.map((text) => (
      <span key={text} className={text.includes(':') ? `mono ${styles.long}` : 'mono'}>
        {text}
      </span>
    ))}
  </span>
);
/** Wraps where the column is too narrow; `words` keeps words whole. */
const lines = (text: string, words = false) => (
  <span className={words ? styles.lines : `${styles.lines} ${styles.anywhere}`} title={text}>
    {text}
  </span>
);

/** Addresses of IPv6 need room: the kernel gives way, which the node's details have as well. */
const wide = '150px';
const columns = (long: boolean): readonly Column<ClusterNode>[] => [
  {
    id: 'name',
    title: 'Node',
    width: 'minmax(76px, 1.2fr)',
    sort: (node) => node.name,
    render: (node) => <b>{lines(node.name)}</b>,
  },
  {
    id: 'ready',
    title: 'Kubernetes',
    width: '94px',
    sort: (node) => Number(node.ready),
    render: (node) => <ReadyBadge ready={node.ready} />,
  },
  {
    id: 'agent',
    title: 'Agent',
    width: 'minmax(144px, 0.3fr)',
    sort: (node) => node.agent.state,
    render: (node) => (
      <span className={styles.stack}>
        <AgentBadge state={node.agent.state} />
        {node.agent.version ? (
          <span className="muted clip" title={node.agent.version}>
            {node.agent.version}
          </span>
        ) : null}
      </span>
    ),
  },
  {
    id: 'routing',
    title: 'Routing',
    width: 'minmax(76px, 0.3fr)',
    sort: (node) => node.agent.routingMode ?? '',
    render: (node) => lines(node.agent.routingMode ?? '–', true),
  },
  {
    id: 'address',
    title: 'Address',
    width: `minmax(${long ? wide : '104px'}, 0.4fr)`,
    sort: (node) => node.address,
    render: (node) => stacked(addressesOf(node)),
  },
  {
    id: 'cidr',
    title: 'Pod CIDR',
    width: `minmax(${long ? wide : '104px'}, 0.4fr)`,
    sort: (node) => node.podCIDR,
    render: (node) => stacked(node.podCIDR.split(', ')),
  },
  ...(long
    ? []
    : [
        {
          id: 'kernel',
          title: 'Kernel',
          width: 'minmax(92px, 0.6fr)',
          sort: (node: ClusterNode) => node.kernel,
          render: (node: ClusterNode) => lines(node.kernel),
        },
      ]),
  {
    id: 'endpoints',
    title: 'Endpoints',
    width: '72px',
    end: true,
    sort: (node) => node.agent.endpoints ?? -1,
    render: (node) => node.agent.endpoints ?? '–',
  },
  {
    id: 'memory',
    title: 'Memory',
    width: '77px',
    end: true,
    sort: (node) => node.agent.memoryBytes ?? -1,
    render: (node) => (node.agent.memoryBytes === undefined ? '–' : formatBytes(node.agent.memoryBytes)),
  },
  {
    id: 'flows',
    title: 'Flows',
    width: '50px',
    end: true,
    sort: (node) => node.agent.flowsPerSecond ?? -1,
    render: (node) => (node.agent.flowsPerSecond === undefined ? '–' : formatRate(node.agent.flowsPerSecond)),
  },
  {
    id: 'lost',
    title: 'Lost',
    width: '44px',
    end: true,
    sort: (node) => node.agent.flowsLost ?? -1,
    render: (node) => (
      <span style={(node.agent.flowsLost ?? 0) > 0 ? { color: 'var(--warn)', fontWeight: 600 } : {}}>
        {node.agent.flowsLost === undefined ? '–' : formatCount(node.agent.flowsLost)}
      </span>
    ),
  },
];

const looks = { short: { columns: columns(false), rowHeight: 44 }, long: { columns: columns(true), rowHeight: 56 } };
const hasIPv6 = (node: ClusterNode) => [...addressesOf(node), node.podCIDR].some((text) => text.includes(':'));

interface NodesTabProps {
  readonly cluster: Cluster;
  readonly inventory: Inventory;
}

/** Nodes of a cluster with the agent on each. */
export function NodesTab({ inventory }: NodesTabProps) {
  const search = useSearch({ strict: false }) as { node?: string };
  const navigate = useNavigate();
  const choose = (node: string | undefined) =>
    void navigate({ to: '.', replace: true, search: ((old: object) => ({ ...old, node })) as never });
  const look = inventory.nodes.some(hasIPv6) ? looks.long : looks.short;
  const selected = inventory.nodes.find((node) => node.name === search.node);
  return (
    <>
      <DataGrid
        label="Nodes"
        rows={inventory.nodes}
        columns={look.columns}
        rowKey={(node) => node.name}
        rowHeight={look.rowHeight}
        selected={selected?.name}
        onSelect={(node) => choose(node.name)}
        tone={(node) =>
          !node.ready || node.agent.state === 'failing' || node.agent.state === 'unreachable'
            ? 'bad'
            : node.agent.state === 'degraded'
              ? 'warn'
              : undefined
        }
        initialSort={{ column: 'name', descending: false }}
        empty={<p style={{ padding: 16 }}>The cluster has no nodes.</p>}
      />
      {selected ? <NodeDetails node={selected} onClose={() => choose(undefined)} /> : null}
    </>
  );
}

function NodeDetails({ node, onClose }: { readonly node: ClusterNode; readonly onClose: () => void }) {
  const { agent } = node;
  const components = agent.components ?? [];
  return (
    <SidePane
      label={`Node ${node.name}`}
      onClose={onClose}
      title={
        <>
          <h2>{node.name}</h2>
          <div style={{ display: 'flex', gap: 6, alignItems: 'center', marginTop: 3 }}>
            <span className="muted">node</span> <ReadyBadge ready={node.ready} />
            <span className="muted">agent</span> <AgentBadge state={agent.state} plain />
          </div>
        </>
      }
    >
      <Section title="Actions">
        <div style={{ display: 'flex', gap: 6 }}>
          <Button
            variant="default"
            component={Link}
            to="/flows"
            search={{ filter: `node:${node.name}` } as never}
            leftSection={<IconArrowsLeftRight size={14} />}
          >
            Show flows
          </Button>
          <Button
            variant="default"
            component={Link}
            to="/terminal"
            search={{ node: node.name } as never}
            leftSection={<IconTerminal2 size={14} />}
          >
            Open a shell
          </Button>
        </div>
      </Section>
      {node.reason || agent.message || components.some((one) => one.state === 'degraded' || one.state === 'failing') ? (
        <Section title="Problems">
          <div style={{ display: 'grid', gap: 8 }}>
            {node.reason ? (
              <FailureCard
                failure={{
                  code: 'node.not-ready',
                  what: 'Kubernetes says that the node is not ready.',
                  why: node.reason,
                  fix:
                    agent.state === 'absent'
                      ? 'Install the agent: it brings the network that the node waits for.'
                      : 'See what the agent says below.',
                }}
              />
            ) : null}
            {agent.message ? (
              <FailureCard
                warning={agent.state !== 'failing'}
                failure={{
                  code: `agent.${agent.state}`,
                  what: 'The agent reports a problem.',
                  why: agent.message,
                  fix: 'See its components, and its log in the pod fairlead-agent of this node.',
                }}
              />
            ) : null}
            {components
              .filter((one) => one.state === 'degraded' || one.state === 'failing')
              .map((one) => (
                <FailureCard
                  key={one.name}
                  warning={one.state === 'degraded'}
                  failure={{
                    code: `agent.${one.name}`,
                    what: `${one.name}: ${one.state}`,
                    why: one.message,
                    fix: one.fix || 'No fix is known; see the agent’s log.',
                  }}
                />
              ))}
          </div>
        </Section>
      ) : null}
      <Section title="Agent">
        <Facts
          items={[
            ['Version', agent.version ?? 'not installed'],
            ['Routing', agent.routingMode],
            ['Masquerade', agent.masquerade],
            ['kube-proxy', agent.kubeProxyReplacement ? `replaced: ${agent.kubeProxyReplacement}` : undefined],
            ['Memory', agent.memoryBytes === undefined ? undefined : formatBytes(agent.memoryBytes)],
            ['Endpoints', agent.endpoints],
            ['Identities', agent.identities],
            ['Flows', agent.flowsPerSecond === undefined ? undefined : formatRate(agent.flowsPerSecond)],
            ['Events lost', agent.flowsLost === undefined ? undefined : agent.flowsLost.toLocaleString('en')],
          ]}
        />
      </Section>
      {components.length > 0 ? (
        <Section title="Components">
          {components.map((one) => (
            <div
              key={one.name}
              style={{
                display: 'grid',
                gridTemplateColumns: '86px 92px 1fr',
                gap: 6,
                padding: '2px 0',
                alignItems: 'start',
              }}
            >
              <span>{one.name}</span>
              <ReadyBadge ready={one.state === 'ok' || one.state === 'off'} yes={one.state} no={one.state} />
              <span className="muted">{one.message}</span>
            </div>
          ))}
        </Section>
      ) : null}
      <Section title="Node">
        <Facts
          items={[
            ['Address', mono(addressesOf(node).join(', '))],
            ['Pod CIDR', mono(node.podCIDR)],
            ['Pods', node.pods],
            ['Kernel', node.kernel],
            ['System', node.os],
            ['kubelet', node.kubelet],
            ['Runtime', node.runtime],
            ['SSH', node.ssh ? mono(node.ssh) : 'no host of the SSH configuration fits'],
          ]}
        />
      </Section>
    </SidePane>
  );
}
