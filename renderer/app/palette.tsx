import { useComputedColorScheme, useMantineColorScheme } from '@mantine/core';
import { useFocusTrap } from '@mantine/hooks';
import {
  IconAffiliate,
  IconArrowsLeftRight,
  IconBan,
  IconBox,
  IconFileText,
  IconHelp,
  IconHistory,
  IconKey,
  IconLifebuoy,
  IconMoon,
  IconPlug,
  IconPlus,
  IconRoute,
  IconServer,
  IconServer2,
  IconShieldLock,
  IconTerminal2,
  type TablerIcon,
} from '@tabler/icons-react';
import { useNavigate } from '@tanstack/react-router';
import { Command } from 'cmdk';
import { useState } from 'react';
import type { PolicySummary } from '../../contract/policies.ts';
import { Keys } from '../ui/pieces.tsx';
import { isConnected, useClusters } from './clusters.tsx';
import { useOverlays } from './overlays.ts';
import styles from './palette.module.css';
import { lookAgain } from './rights-store.ts';
import { useClient, useLatest } from './streams.ts';

interface Entry {
  readonly id: string;
  readonly text: string;
  readonly icon: TablerIcon;
  readonly keys?: string;
  readonly hint?: string;
  readonly run: () => void;
}

/** How many pods are listed before something is typed: more would only slow the list down. */
const podsUntyped = 30;

/** Everything that can be reached or done, by typing. */
export function Palette() {
  const show = useOverlays((state) => state.show);
  const navigate = useNavigate();
  const client = useClient();
  const { list, current, inventory, choose } = useClusters();
  const { setColorScheme } = useMantineColorScheme();
  const colorScheme = useComputedColorScheme('light');
  const trap = useFocusTrap();
  const [typed, setTyped] = useState('');
  const id = current?.id;
  const policies = useLatest<{ readonly policies: readonly PolicySummary[] }>(
    `palette policies ${id}`,
    id && isConnected(current) ? (from, handlers) => from.policies.watch({ cluster: id }, handlers) : undefined,
  );

  const goTo: readonly Entry[] = [
    { id: 'clusters', text: 'Clusters', icon: IconServer2, keys: 'g c', run: () => void navigate({ to: '/clusters' }) },
    {
      id: 'topology',
      text: 'Topology',
      icon: IconAffiliate,
      keys: 'g t',
      run: () => void navigate({ to: '/topology' }),
    },
    { id: 'flows', text: 'Flows', icon: IconArrowsLeftRight, keys: 'g f', run: () => void navigate({ to: '/flows' }) },
    {
      id: 'policies',
      text: 'Policies',
      icon: IconShieldLock,
      keys: 'g p',
      run: () => void navigate({ to: '/policies' }),
    },
    {
      id: 'terminal',
      text: 'Terminal',
      icon: IconTerminal2,
      keys: 'g s',
      run: () => void navigate({ to: '/terminal' }),
    },
    { id: 'explain', text: 'Explain', icon: IconRoute, keys: 'g e', run: () => void navigate({ to: '/explain' }) },
    { id: 'logs', text: 'Logs', icon: IconFileText, keys: 'g l', run: () => void navigate({ to: '/logs' }) },
    { id: 'support', text: 'Support bundle', icon: IconLifebuoy, run: () => void navigate({ to: '/support' }) },
    { id: 'audit', text: 'Audit log', icon: IconHistory, keys: 'g a', run: () => void navigate({ to: '/audit' }) },
  ];
  const actions: readonly Entry[] = [
    {
      id: 'dropped',
      text: 'Show dropped flows',
      icon: IconBan,
      run: () => void navigate({ to: '/flows', search: { filter: 'verdict:DROPPED' } }),
    },
    {
      id: 'new-policy',
      text: 'New policy',
      icon: IconPlus,
      run: () => void navigate({ to: '/policies', search: { new: 'choose' } }),
    },
    {
      id: 'add',
      text: 'Add a cluster',
      icon: IconPlus,
      run: () => void navigate({ to: '/clusters', search: { tab: 'add' } }),
    },
    {
      id: 'colours',
      text: colorScheme === 'dark' ? 'Use light colours' : 'Use dark colours',
      icon: IconMoon,
      run: () => setColorScheme(colorScheme === 'dark' ? 'light' : 'dark'),
    },
    { id: 'help', text: 'Keyboard shortcuts', icon: IconHelp, keys: '?', run: () => show('help') },
    ...(current && isConnected(current) && current.source !== 'recording'
      ? [
          {
            id: 'rights',
            text: `Look again what I may do in ${current.name}`,
            icon: IconKey,
            run: () => void lookAgain(client, current.id),
          },
        ]
      : []),
    ...(current && !isConnected(current)
      ? [
          {
            id: 'connect',
            text: `Connect ${current.name}`,
            icon: IconPlug,
            run: () => void client.clusters.connect({ cluster: current.id }),
          },
        ]
      : []),
  ];
  const clusterEntries: readonly Entry[] = (list.value?.clusters ?? []).map((cluster) => ({
    id: `cluster ${cluster.id}`,
    text: cluster.name,
    icon: IconServer2,
    hint: 'switch to',
    run: () => choose(cluster.id),
  }));
  const policyEntries: readonly Entry[] = (policies.value?.policies ?? []).map(({ id: policy }) => ({
    id: `policy ${policy.kind} ${policy.namespace} ${policy.name}`,
    text: policy.namespace ? `${policy.namespace}/${policy.name}` : policy.name,
    icon: IconShieldLock,
    hint: policy.kind,
    run: () =>
      void navigate({
        to: '/policies/$kind/$namespace/$name',
        params: { kind: policy.kind, namespace: policy.namespace || '-', name: policy.name },
      }),
  }));
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  const pods = (inventory.value?.pods ?? [])
    .filter((pod) => words.some((word) => `${pod.namespace}/${pod.name}`.includes(word)) || words.length === 0)
    .slice(0, words.length === 0 ? podsUntyped : 200);
  const podEntries: readonly Entry[] = pods.flatMap((pod) => [
    {
      id: `flows ${pod.namespace}/${pod.name}`,
      text: `${pod.namespace}/${pod.name}`,
      icon: IconBox,
      hint: 'flows of pod',
      run: () => void navigate({ to: '/flows', search: { filter: `pod:${pod.namespace}/${pod.name}` } }),
    },
    ...(words.length > 0
      ? [
          {
            id: `shell ${pod.namespace}/${pod.name}`,
            text: `${pod.namespace}/${pod.name}`,
            icon: IconTerminal2,
            hint: 'shell in pod',
            run: () => void navigate({ to: '/terminal', search: { pod: `${pod.namespace}/${pod.name}` } }),
          },
        ]
      : []),
  ]);
  const nodeEntries: readonly Entry[] = (inventory.value?.nodes ?? []).slice(0, 50).map((node) => ({
    id: `node ${node.name}`,
    text: node.name,
    icon: IconServer,
    hint: 'flows of node',
    run: () => void navigate({ to: '/flows', search: { filter: `node:${node.name}` } }),
  }));

  const group = (heading: string, entries: readonly Entry[]) =>
    entries.length === 0 ? null : (
      <Command.Group heading={heading}>
        {entries.map((entry) => (
          <Command.Item
            key={entry.id}
            value={`${entry.id} ${entry.text}`}
            onSelect={() => {
              show('none');
              entry.run();
            }}
          >
            <entry.icon size={16} aria-hidden />
            <span className="clip">{entry.text}</span>
            {entry.hint ? <span className={styles.hint}>{entry.hint}</span> : null}
            {entry.keys ? (
              <span className={styles.hint}>
                <Keys keys={entry.keys} />
              </span>
            ) : null}
          </Command.Item>
        ))}
      </Command.Group>
    );
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: Escape does it by key
    // biome-ignore lint/a11y/noStaticElementInteractions: a click beside the box closes it
    <div className={styles.overlay} onClick={() => show('none')}>
      <div
        ref={trap}
        className={styles.box}
        role="dialog"
        aria-modal="true"
        aria-label="Command palette"
        onClick={(event) => event.stopPropagation()}
        onKeyDown={(event) => {
          if (event.key === 'Escape') show('none');
        }}
      >
        <Command label="Command palette" loop>
          <Command.Input
            value={typed}
            onValueChange={setTyped}
            placeholder="Go to a view, cluster, pod or policy, or do something"
            data-autofocus
          />
          <Command.List label="Commands">
            <Command.Empty>Nothing fits “{typed}”.</Command.Empty>
            {group('Go to', goTo)}
            {group('Do', actions)}
            {group('Clusters', clusterEntries)}
            {group('Policies', policyEntries)}
            {group('Pods', podEntries)}
            {group('Nodes', nodeEntries)}
          </Command.List>
        </Command>
      </div>
    </div>
  );
}
