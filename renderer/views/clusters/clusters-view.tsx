import { Button } from '@mantine/core';
import { IconLock, IconPlayerRecordFilled, IconPlus } from '@tabler/icons-react';
import { Link, useNavigate, useParams, useSearch } from '@tanstack/react-router';
import { useEffect } from 'react';
import type { Cluster } from '../../../contract/clusters.ts';
import { useClusters } from '../../app/clusters.tsx';
import { clusterColour } from '../../app/top-bar.tsx';
import { FailureCard, SkeletonRows } from '../../ui/pieces.tsx';
import { ConnectionBadge } from '../../ui/status.tsx';
import { AddCluster } from './add-cluster.tsx';
import { ClusterDetail } from './cluster-detail.tsx';
import styles from './clusters.module.css';
import { Welcome } from './welcome.tsx';

/** The clusters that are known, and one of them in detail. */
export function ClustersView() {
  const { id } = useParams({ strict: false }) as { id?: string };
  const search = useSearch({ strict: false }) as { tab?: string };
  const { list, current, choose } = useClusters();
  const navigate = useNavigate();
  const clusters = list.value?.clusters ?? [];
  const shown = id === undefined ? current : clusters.find((cluster) => cluster.id === id);
  const adding = search.tab === 'add';
  // Looking at a cluster here makes it the one that the other views show.
  useEffect(() => {
    if (id !== undefined && shown && shown.id !== current?.id) choose(shown.id);
  }, [id, shown, current?.id, choose]);

  const openAdd = () => void navigate({ to: '.', search: { tab: 'add' } as never });
  const closeAdd = () => void navigate({ to: '.', search: { tab: undefined } as never });
  const dialog = adding ? <AddCluster onClose={closeAdd} /> : null;
  if (!list.value) {
    return list.failure ? (
      <div style={{ padding: 16 }}>
        <FailureCard failure={list.failure} onRetry={list.retry} />
      </div>
    ) : (
      <SkeletonRows rows={12} label="Loading clusters" />
    );
  }
  if (clusters.length === 0) {
    return (
      <>
        <Welcome onAdd={openAdd} problems={list.value.problems} />
        {dialog}
      </>
    );
  }
  return (
    <div className={styles.view}>
      <section className={styles.list} aria-label="Known clusters">
        <div className={styles.listHead}>
          <h1>Clusters</h1>
          <Button variant="default" leftSection={<IconPlus size={14} />} onClick={openAdd}>
            Add
          </Button>
        </div>
        <nav className={styles.items} aria-label="Clusters">
          {clusters.map((cluster) => (
            <ClusterItem key={cluster.id} cluster={cluster} chosen={cluster.id === shown?.id} />
          ))}
          {list.value.problems.map((problem) => (
            <div key={`${problem.code} ${problem.what}`} style={{ marginTop: 8 }}>
              <FailureCard failure={problem} warning />
            </div>
          ))}
        </nav>
      </section>
      {shown ? (
        <ClusterDetail key={shown.id} cluster={shown} />
      ) : (
        <div style={{ flex: 1, padding: 16 }}>
          <FailureCard
            failure={{
              code: 'console.no-such-cluster',
              what: 'This cluster is not known here.',
              why: 'The address names a cluster that has been forgotten, or that belongs to another machine.',
              fix: 'Choose one from the list, or add its kubeconfig.',
            }}
          />
        </div>
      )}
      {dialog}
    </div>
  );
}

function ClusterItem({ cluster, chosen }: { readonly cluster: Cluster; readonly chosen: boolean }) {
  return (
    <Link
      to="/clusters/$id"
      params={{ id: cluster.id }}
      className={styles.item}
      data-chosen={chosen}
      {...(chosen ? { 'aria-current': 'true' as const } : {})}
    >
      <span className={styles.dot} style={{ background: clusterColour(cluster) }} />
      <span className={styles.itemName} title={cluster.name}>
        <span className="clip">{cluster.name}</span>
        {cluster.protected ? <IconLock size={13} aria-label="protected" /> : null}
        {cluster.source === 'recording' ? (
          <IconPlayerRecordFilled size={12} color="var(--bad)" aria-label="recording" />
        ) : null}
      </span>
      <span className={styles.itemMeta}>
        <ConnectionBadge state={cluster.state} plain />
        <span className="clip">{cluster.source === 'recording' ? 'recording' : cluster.origin}</span>
      </span>
    </Link>
  );
}
