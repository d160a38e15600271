import { Select, TextInput } from '@mantine/core';
import { IconBox, IconSearch, IconServer } from '@tabler/icons-react';
import { useMemo, useRef, useState } from 'react';
import type { Cluster, ClusterNode, Pod } from '../../../contract/clusters.ts';
import type { Action } from '../../../contract/rights.ts';
import type { TerminalTarget } from '../../../contract/terminals.ts';
import { useClusters, writeBlocked } from '../../app/clusters.tsx';
import { blockedNow, useBlocked } from '../../app/rights.ts';
import { useShortcuts } from '../../app/shortcuts.ts';
import { addressesOf } from '../../ui/addresses.ts';
import { type Column, DataGrid } from '../../ui/data-grid.tsx';
import { ReasonedButton, SkeletonRows, Toolbar } from '../../ui/pieces.tsx';
import { ReadyBadge } from '../../ui/status.tsx';
import { useAsking } from './debug-dialogs.tsx';

interface Choice {
  readonly key: string;
  readonly target: TerminalTarget;
  readonly pod: Pod | undefined;
  readonly node: ClusterNode | undefined;
  readonly name: string;
  /** Why no shell can be opened there, whatever the user's rights are. */
  readonly blocked: string | undefined;
  readonly namespace: string;
  /** A shell of another kind, for which something has to be made in the cluster. */
  readonly other: {
    readonly label: string;
    readonly blocked: string | undefined;
    readonly action: Action;
    readonly ask: () => void;
  };
}

/** Shells that are tried in a container, the better one first. */
export const shells = ['/bin/sh', '-c', 'if command -v bash >/dev/null 2>&1; then exec bash; fi; exec sh'] as const;

interface PickerProps {
  readonly cluster: Cluster;
  readonly onPick: (target: TerminalTarget) => void;
  readonly onCancel: (() => void) | undefined;
}

/** Where a shell can be opened: every container and every node. */
export function Picker({ cluster, onPick, onCancel }: PickerProps) {
  const { inventory } = useClusters();
  const [find, setFind] = useState('');
  const [kind, setKind] = useState('all');
  const input = useRef<HTMLInputElement>(null);
  useShortcuts({ '/': () => input.current?.focus() });
  const choices = useMemo<readonly Choice[]>(() => {
    const value = inventory.value;
    if (!value) return [];
    const nodes = value.nodes.map(
      (node): Choice => ({
        key: `node ${node.name}`,
        target: { kind: 'node', cluster: cluster.id, node: node.name },
        pod: undefined,
        node,
        name: node.name,
        blocked: node.ssh ? undefined : 'No host of the SSH configuration fits this node.',
        namespace: '',
        other: {
          label: 'By pod…',
          blocked: undefined,
          action: 'terminals.nodePod',
          ask: () => useAsking.getState().ask({ kind: 'node-pod', node: node.name }),
        },
      }),
    );
    const pods = value.pods.flatMap((pod) =>
      pod.containers.map(
        (container): Choice => ({
          key: `pod ${pod.namespace}/${pod.name}/${container}`,
          target: {
            kind: 'pod',
            cluster: cluster.id,
            namespace: pod.namespace,
            pod: pod.name,
            container,
            command: shells,
          },
          pod,
          node: undefined,
          name: `${pod.namespace}/${pod.name}`,
          blocked: pod.phase === 'Running' ? undefined : `The pod is ${pod.phase}.`,
          namespace: pod.namespace,
          other: {
            label: 'Debug…',
            blocked: pod.phase === 'Running' ? undefined : `The pod is ${pod.phase}.`,
            action: 'terminals.debug',
            ask: () => useAsking.getState().ask({ kind: 'debug', namespace: pod.namespace, pod: pod.name, container }),
          },
        }),
      ),
    );
    return [...nodes, ...pods];
  }, [inventory.value, cluster.id]);
  const rows = useMemo(() => {
    const words = find.toLowerCase().split(/\s+/).filter(Boolean);
    return choices.filter(
      (choice) =>
        (kind === 'all' || choice.target.kind === kind) &&
        words.every((word) =>
          `${choice.name} ${choice.target.kind === 'pod' ? choice.target.container : ''} ${choice.pod?.node ?? ''}`
            .toLowerCase()
            .includes(word),
        ),
    );
  }, [choices, find, kind]);
  const columns = useMemo<readonly Column<Choice>[]>(
    () => [
      {
        id: 'kind',
        title: 'Kind',
        width: '78px',
        sort: (choice) => choice.target.kind,
        render: (choice) => (
          <span style={{ display: 'inline-flex', gap: 5, alignItems: 'center' }}>
            {choice.target.kind === 'pod' ? <IconBox size={14} aria-hidden /> : <IconServer size={14} aria-hidden />}
            {choice.target.kind}
          </span>
        ),
      },
      {
        id: 'name',
        title: 'Name',
        width: 'minmax(220px, 2fr)',
        sort: (choice) => choice.name,
        render: (choice) => <b title={choice.name}>{choice.name}</b>,
      },
      {
        id: 'container',
        title: 'Container',
        width: 'minmax(110px, 1fr)',
        sort: (choice) => (choice.target.kind === 'pod' ? choice.target.container : ''),
        render: (choice) => (choice.target.kind === 'pod' ? choice.target.container : '–'),
      },
      {
        id: 'where',
        title: 'On',
        width: 'minmax(90px, 0.8fr)',
        sort: (choice) => choice.pod?.node ?? choice.node?.ssh ?? '',
        render: (choice) => choice.pod?.node ?? (choice.node?.ssh ? `ssh ${choice.node.ssh}` : '–'),
      },
      {
        id: 'address',
        title: 'Address',
        width: '120px',
        sort: (choice) => choice.pod?.address ?? choice.node?.address ?? '',
        render: (choice) => {
          const [first = '', ...others] = addressesOf(choice.pod ?? choice.node);
          return (
            <span className="mono" title={[first, ...others].join(', ')}>
              {first}
              {others.length > 0 ? <span className="muted"> +{others.length}</span> : null}
            </span>
          );
        },
      },
      {
        id: 'ready',
        title: 'State',
        width: '104px',
        sort: (choice) => Number(choice.pod?.ready ?? choice.node?.ready),
        render: (choice) => <ReadyBadge ready={choice.pod?.ready ?? choice.node?.ready ?? false} />,
      },
      {
        id: 'open',
        title: '',
        width: '140px',
        end: true,
        render: (choice) => <Openers choice={choice} />,
      },
    ],
    [],
  );
  return (
    <>
      <Toolbar label="Open a shell">
        <h1>Open a shell</h1>
        <TextInput
          ref={input}
          aria-label="Find a pod or node"
          placeholder="Find a pod or node  ( / )"
          leftSection={<IconSearch size={14} />}
          value={find}
          onChange={(event) => setFind(event.currentTarget.value)}
          w={300}
        />
        <Select
          aria-label="Kind"
          w={120}
          value={kind}
          onChange={(value) => setKind(value ?? 'all')}
          data={[
            { value: 'all', label: 'Pods & nodes' },
            { value: 'pod', label: 'Pods' },
            { value: 'node', label: 'Nodes' },
          ]}
        />
        {onCancel ? (
          <ReasonedButton variant="default" onClick={onCancel}>
            Cancel
          </ReasonedButton>
        ) : null}
      </Toolbar>
      {inventory.value ? (
        <DataGrid
          label="Pods and nodes"
          rows={rows}
          columns={columns}
          rowKey={(choice) => choice.key}
          rowHeight={30}
          onSelect={(choice) => {
            if (!choice.blocked && !openBlockedNow(cluster, choice)) onPick(choice.target);
          }}
          initialSort={{ column: 'kind', descending: false }}
          empty={<p style={{ padding: 16 }}>Nothing fits “{find}”.</p>}
        />
      ) : (
        <SkeletonRows rows={12} label="Reading the cluster" />
      )}
    </>
  );
}

/** Why no shell can be opened there for want of a right, as far as that is known. A node's own sshd decides about SSH. */
function openBlockedNow(cluster: Cluster, choice: Choice): string | undefined {
  return choice.target.kind === 'node'
    ? writeBlocked(cluster)
    : blockedNow(cluster, 'terminals.open', choice.namespace);
}

/** The buttons of one row, each with the reason when it cannot be used. */
function Openers({ choice }: { readonly choice: Choice }) {
  const { current } = useClusters();
  const exec = useBlocked('terminals.open', choice.namespace);
  const other = useBlocked(choice.other.action, choice.namespace);
  return (
    <span style={{ display: 'inline-flex', gap: 6 }}>
      <ReasonedButton
        size="compact-xs"
        variant="subtle"
        blocked={choice.other.blocked ?? other}
        onClick={(event) => {
          event.stopPropagation();
          choice.other.ask();
        }}
      >
        {choice.other.label}
      </ReasonedButton>
      <ReasonedButton
        size="compact-xs"
        variant="default"
        blocked={choice.blocked ?? (choice.target.kind === 'node' ? writeBlocked(current) : exec)}
      >
        Open
      </ReasonedButton>
    </span>
  );
}
