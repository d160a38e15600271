import { Menu, Tooltip } from '@mantine/core';
import {
  IconChevronDown,
  IconLock,
  IconPlayerRecordFilled,
  IconPlus,
  IconRoute,
  IconSearch,
  IconShieldX,
} from '@tabler/icons-react';
import { useNavigate } from '@tanstack/react-router';
import { useEffect, useState } from 'react';
import type { Cluster } from '../../contract/clusters.ts';
import { formatAge, formatCount, formatLatency, plural } from '../ui/format.ts';
import { Keys, Spacer } from '../ui/pieces.tsx';
import { ConnectionBadge, Status } from '../ui/status.tsx';
import { isConnected, useClusters } from './clusters.tsx';
import styles from './frame.module.css';
import { useOverlays } from './overlays.ts';

const hues = [190, 28, 265, 95, 330, 222, 52, 150];

/** A cluster's own colour, chosen or the same each time: operators tell clusters apart by it at a glance. */
export function clusterColour(cluster: Pick<Cluster, 'id' | 'colour'>): string {
  if (cluster.colour !== undefined) return cluster.colour;
  let hash = 0;
  for (const letter of cluster.id) hash = (hash * 31 + letter.charCodeAt(0)) >>> 0;
  return `hsl(${hues[hash % hues.length]} 62% 46%)`;
}

/** A clock that ticks for ages; once a second is enough. */
export function useNow(everyMilliseconds = 1000): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), everyMilliseconds);
    return () => clearInterval(timer);
  }, [everyMilliseconds]);
  return now;
}

/** The bar at the top: which cluster, how it is reached, how fresh and how complete the data is. */
export function TopBar() {
  const { current } = useClusters();
  const show = useOverlays((state) => state.show);
  return (
    <header className={styles.bar}>
      <ClusterSwitcher />
      {current ? <ClusterFacts cluster={current} /> : null}
      <Spacer />
      <button type="button" className={styles.search} onClick={() => show('palette')}>
        <IconSearch size={14} aria-hidden />
        Go to or do
        <Keys keys="Ctrl K" />
      </button>
    </header>
  );
}

function ClusterSwitcher() {
  const { list, current, choose } = useClusters();
  const navigate = useNavigate();
  const clusters = list.value?.clusters ?? [];
  return (
    <Menu width={360} position="bottom-start">
      <Menu.Target>
        <button type="button" className={styles.switcher} aria-label={`Cluster: ${current?.name ?? 'No cluster'}`}>
          <span
            className={styles.dot}
            style={{ background: current ? clusterColour(current) : 'var(--line-strong)' }}
          />
          <span className="clip">{current?.name ?? 'No cluster'}</span>
          <IconChevronDown size={14} aria-hidden style={{ flex: 'none' }} />
        </button>
      </Menu.Target>
      <Menu.Dropdown mah={420} style={{ overflow: 'auto' }}>
        <Menu.Label>Clusters</Menu.Label>
        {clusters.map((cluster) => (
          <Menu.Item
            key={cluster.id}
            onClick={() => choose(cluster.id)}
            leftSection={
              <span className={styles.dot} style={{ background: clusterColour(cluster), display: 'block' }} />
            }
            rightSection={<ConnectionBadge state={cluster.state} plain />}
            {...(cluster.id === current?.id ? { 'aria-current': true, fw: 600 } : {})}
          >
            <span className="clip" style={{ display: 'block', maxWidth: 190 }}>
              {cluster.name}
            </span>
          </Menu.Item>
        ))}
        <Menu.Divider />
        <Menu.Item leftSection={<IconPlus size={14} />} onClick={() => void navigate({ to: '/clusters' })}>
          Manage clusters…
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}

function ClusterFacts({ cluster }: { readonly cluster: Cluster }) {
  const { inventory } = useClusters();
  const now = useNow();
  const nodes = inventory.value?.nodes ?? [];
  const lost = nodes.reduce((sum, node) => sum + (node.agent.flowsLost ?? 0), 0);
  const hasAgent = nodes.some((node) => node.agent.flowsPerSecond !== undefined);
  const age = cluster.dataAt === undefined ? undefined : now - cluster.dataAt;
  const why = cluster.failure ? `${cluster.failure.what} ${cluster.failure.why}` : cluster.server;
  return (
    <div className={styles.facts}>
      {cluster.source === 'recording' ? (
        <Tooltip label="This is a recorded case being replayed. Nothing here is live and nothing can be changed.">
          <span className={styles.recording}>
            <IconPlayerRecordFilled size={11} aria-hidden />
            RECORDING
          </span>
        </Tooltip>
      ) : null}
      <Tooltip label={why}>
        <span>
          <ConnectionBadge state={cluster.state} />
        </span>
      </Tooltip>
      {cluster.protected ? (
        <Tooltip label="Protected: read-only until unlocked in Clusters.">
          <span>
            <Status tone="info" icon={IconLock}>
              Protected
            </Status>
          </span>
        </Tooltip>
      ) : null}
      {cluster.insecure ? (
        <Tooltip label="The kubeconfig switches TLS verification off: anybody on the way can read and change what is sent.">
          <span>
            <Status tone="bad" icon={IconShieldX}>
              TLS not verified
            </Status>
          </span>
        </Tooltip>
      ) : null}
      {isConnected(cluster) ? (
        <>
          <Tooltip label={`How requests travel to ${cluster.server}`}>
            <span className={`${styles.fact} ${styles.optional}`}>
              <IconRoute size={14} aria-hidden />
              {cluster.route.join(' → ') || 'direct'}
            </span>
          </Tooltip>
          {cluster.latencyMilliseconds === undefined ? null : (
            <Tooltip label="Round trip of the last API request">
              <span className={styles.fact}>
                API <b>{formatLatency(cluster.latencyMilliseconds)}</b>
              </span>
            </Tooltip>
          )}
          {age === undefined || cluster.source === 'recording' ? null : (
            <Tooltip label="Age of the newest data held">
              <span className={styles.fact} style={age > 30_000 ? { color: 'var(--warn)' } : {}}>
                data <b>{age < 3000 ? 'now' : formatAge(cluster.dataAt ?? now, now)}</b>
              </span>
            </Tooltip>
          )}
          {hasAgent ? (
            <Tooltip
              label={`Flow events lost on ${plural(nodes.length, 'node')} since their agents started: ${formatCount(lost)}.`}
            >
              <span className={styles.fact} style={lost > 0 ? { color: 'var(--warn)' } : {}}>
                lost <b>{formatCount(lost)}</b>
              </span>
            </Tooltip>
          ) : null}
        </>
      ) : null}
    </div>
  );
}
