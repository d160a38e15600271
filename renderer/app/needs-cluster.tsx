import { Button } from '@mantine/core';
import { IconPlugConnected, IconServer2 } from '@tabler/icons-react';
import { Link } from '@tanstack/react-router';
import type { ReactNode } from 'react';
import type { Cluster } from '../../contract/clusters.ts';
import { Empty, FailureCard, SkeletonRows } from '../ui/pieces.tsx';
import { isConnected, useClusters } from './clusters.tsx';
import { useAction } from './streams.ts';

/** Shows its content for a connected cluster; otherwise says what is missing and how to go on. */
export function NeedsCluster({ children }: { readonly children: (cluster: Cluster) => ReactNode }) {
  const { list, current } = useClusters();
  const connect = useAction((client, cluster: string) => client.clusters.connect({ cluster }));
  if (!current) {
    if (list.failure) {
      return (
        <div style={{ padding: 16 }}>
          <FailureCard failure={list.failure} onRetry={list.retry} />
        </div>
      );
    }
    if (list.pending) return <SkeletonRows rows={12} label="Loading clusters" />;
    return (
      <Empty
        icon={IconServer2}
        title="No cluster yet"
        actions={
          <Button component={Link} to="/clusters">
            Go to Clusters
          </Button>
        }
      >
        Add a cluster, start the lab or open the recording in Clusters; this view then shows what happens there.
      </Empty>
    );
  }
  if (isConnected(current)) return children(current);
  const failure = connect.failure ?? current.failure;
  if (current.state === 'connecting') return <SkeletonRows rows={12} label={`Connecting to ${current.name}`} />;
  return (
    <Empty
      icon={IconPlugConnected}
      title={current.state === 'idle' ? `${current.name} is not connected` : `${current.name} is not reachable`}
      actions={
        <Button loading={connect.pending} onClick={() => void connect.run(current.id)}>
          Connect
        </Button>
      }
    >
      {failure ? (
        <div style={{ width: 520, maxWidth: '80vw', textAlign: 'left' }}>
          <FailureCard failure={failure} />
        </div>
      ) : (
        'Fairlead connects only when asked. Nothing is read from the cluster before.'
      )}
    </Empty>
  );
}
