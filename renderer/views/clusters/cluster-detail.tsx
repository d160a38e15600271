import { ActionIcon, ColorSwatch, Menu, Tooltip } from '@mantine/core';
import { IconDots, IconLifebuoy, IconLock, IconLockOpen, IconPlug, IconPlugX, IconTrash } from '@tabler/icons-react';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { lazy, Suspense, useState } from 'react';
import type { Cluster } from '../../../contract/clusters.ts';
import { isConnected, useClusters } from '../../app/clusters.tsx';
import { useAction } from '../../app/streams.ts';
import { useNow } from '../../app/top-bar.tsx';
import { Confirm } from '../../ui/confirm.tsx';
import { Banner, Empty, FailureCard, ReasonedButton, SkeletonRows } from '../../ui/pieces.tsx';
import { ConnectionBadge } from '../../ui/status.tsx';
import styles from './clusters.module.css';
import { ExecTrust } from './exec-trust.tsx';
import { NodesTab } from './nodes-tab.tsx';

// The wizard brings a YAML library along that the list of nodes does not need.
const InstallTab = lazy(async () => ({ default: (await import('./install-tab.tsx')).InstallTab }));

const ConnectivityTab = lazy(async () => ({
  default: (await import('../connectivity/connectivity-tab.tsx')).ConnectivityTab,
}));
const ChecksTab = lazy(async () => ({ default: (await import('../checks/checks-tab.tsx')).ChecksTab }));

const tabs = [
  { id: 'nodes', text: 'Nodes' },
  { id: 'preflight', text: 'Preflight' },
  { id: 'install', text: 'Agent: install and upgrade' },
  { id: 'verify', text: 'Verify' },
  { id: 'connectivity', text: 'Connectivity' },
] as const;
type TabId = (typeof tabs)[number]['id'];

/** Colours to tell clusters apart by; "" is the one that follows from the cluster itself. */
const clusterColours = [
  ['automatic', ''],
  ['red: production', '#c92a2a'],
  ['orange', '#d9680f'],
  ['yellow', '#b58900'],
  ['green', '#2b8a3e'],
  ['teal', '#0b7285'],
  ['blue', '#1c6dd0'],
  ['violet', '#6741d9'],
] as const;

/** One cluster: how it is reached, its nodes, and the agent's installation. */
export function ClusterDetail({ cluster }: { readonly cluster: Cluster }) {
  const search = useSearch({ strict: false }) as { tab?: string };
  const navigate = useNavigate();
  const tab = tabs.find((one) => one.id === search.tab)?.id ?? 'nodes';
  const setTab = (next: TabId) =>
    void navigate({
      to: '.',
      replace: true,
      search: ((old: object) => ({ ...old, tab: next === 'nodes' ? undefined : next })) as never,
    });
  return (
    <section className={styles.detail} aria-label={`Cluster ${cluster.name}`}>
      <Head cluster={cluster} />
      <Notices cluster={cluster} />
      <div className={styles.tabs} role="tablist" aria-label="Cluster">
        {tabs.map((one) => (
          <button
            key={one.id}
            id={`tab-${one.id}`}
            type="button"
            role="tab"
            className={styles.tab}
            aria-selected={tab === one.id}
            aria-controls="cluster-panel"
            tabIndex={tab === one.id ? 0 : -1}
            onClick={() => setTab(one.id)}
            onKeyDown={(event) => {
              if (event.key !== 'ArrowRight' && event.key !== 'ArrowLeft') return;
              const step = event.key === 'ArrowRight' ? 1 : tabs.length - 1;
              const next = tabs[(tabs.indexOf(one) + step) % tabs.length]?.id ?? 'nodes';
              setTab(next);
              document.getElementById(`tab-${next}`)?.focus();
            }}
          >
            {one.text}
          </button>
        ))}
      </div>
      <div className={styles.body} id="cluster-panel" role="tabpanel" aria-labelledby={`tab-${tab}`}>
        <TabBody cluster={cluster} tab={tab} />
      </div>
    </section>
  );
}

function TabBody({ cluster, tab }: { readonly cluster: Cluster; readonly tab: TabId }) {
  const { current, inventory } = useClusters();
  if (cluster.state === 'connecting')
    return (
      <div style={{ flex: 1 }}>
        <SkeletonRows rows={10} label={`Connecting to ${cluster.name}`} />
      </div>
    );
  if (!isConnected(cluster)) {
    return (
      <div style={{ flex: 1 }}>
        <Empty icon={IconPlug} title="Not connected">
          {cluster.state === 'idle'
            ? 'Fairlead connects only when asked. Connect to see nodes and agents, and to install.'
            : 'What stands in the way is said above. Nodes and agents are shown once the cluster answers.'}
        </Empty>
      </div>
    );
  }
  if (current?.id !== cluster.id || inventory.pending)
    return (
      <div style={{ flex: 1 }}>
        <SkeletonRows rows={10} label="Reading the cluster" />
      </div>
    );
  if (!inventory.value) {
    return (
      <div style={{ flex: 1, padding: 16 }}>
        {inventory.failure ? (
          <FailureCard failure={inventory.failure} onRetry={inventory.retry} />
        ) : (
          <SkeletonRows rows={10} />
        )}
      </div>
    );
  }
  if (tab === 'nodes') return <NodesTab cluster={cluster} inventory={inventory.value} />;
  return (
    <Suspense fallback={<SkeletonRows rows={10} label="Loading" />}>
      {tab === 'install' ? <InstallTab cluster={cluster} /> : null}
      {tab === 'connectivity' ? <ConnectivityTab cluster={cluster} /> : null}
      {tab === 'preflight' ? (
        <ChecksTab
          key="preflight"
          cluster={cluster}
          kind="preflight"
          title="Preflight"
          text="Asks every node, through its agent, over SSH or by a short-lived pod, whether it can carry the agent: kernel, file systems, ports, other networks, cards and XDP, MTU, rights. Nothing on a node is changed."
        />
      ) : null}
      {tab === 'verify' ? (
        <ChecksTab
          key="verify"
          cluster={cluster}
          kind="run"
          title="Verify"
          text="Looks at every node and at the cluster as a whole: interfaces, address translation, drivers, definitions, the configuration as running and the state of every agent, each with the output it rests on. Nothing is changed."
        />
      ) : null}
    </Suspense>
  );
}

function Head({ cluster }: { readonly cluster: Cluster }) {
  const [dialog, setDialog] = useState<'none' | 'unlock' | 'forget' | 'trust'>('none');
  const navigate = useNavigate();
  const connect = useAction((client) => client.clusters.connect({ cluster: cluster.id }));
  const disconnect = useAction((client) => client.clusters.disconnect({ cluster: cluster.id }));
  const forget = useAction((client) => client.clusters.forget({ cluster: cluster.id }));
  const protect = useAction((client, on: boolean) =>
    client.clusters.setProtected({ cluster: cluster.id, protected: on, ...(on ? {} : { typedName: cluster.name }) }),
  );
  const paint = useAction((client, colour: string) => client.clusters.setColour({ cluster: cluster.id, colour }));
  const connected = isConnected(cluster);
  const untrusted = cluster.execPlugin !== undefined && !cluster.execPlugin.allowed;
  const locked = cluster.execPlugin?.locked === true;
  const failure =
    connect.failure ??
    disconnect.failure ??
    paint.failure ??
    (dialog === 'none' ? (protect.failure ?? forget.failure) : undefined);
  return (
    <>
      <div className={styles.head}>
        <div className={styles.headText}>
          <div style={{ display: 'flex', gap: 10, alignItems: 'center' }}>
            <h1 className="clip" title={cluster.name}>
              {cluster.name}
            </h1>
            <ConnectionBadge state={cluster.state} />
          </div>
          <div className={styles.headMeta}>
            <span>
              server <b className="mono">{cluster.server}</b>
            </span>
            {cluster.user ? (
              <span>
                as <b>{cluster.user}</b>
              </span>
            ) : null}
            <span>
              from <b>{cluster.origin}</b>
            </span>
            <span>
              by <b>{cluster.route.join(' → ') || 'direct'}</b>
            </span>
            {cluster.serverVersion ? (
              <span>
                Kubernetes <b>{cluster.serverVersion}</b>
              </span>
            ) : null}
          </div>
        </div>
        <div className={styles.actions}>
          {untrusted ? (
            <ReasonedButton onClick={() => setDialog('trust')}>Review login program…</ReasonedButton>
          ) : connected || cluster.state === 'connecting' ? (
            <ReasonedButton
              variant="default"
              leftSection={<IconPlugX size={14} />}
              loading={disconnect.pending}
              onClick={() => void disconnect.run()}
            >
              Disconnect
            </ReasonedButton>
          ) : (
            <ReasonedButton
              leftSection={<IconPlug size={14} />}
              loading={connect.pending}
              onClick={() => void connect.run()}
            >
              Connect
            </ReasonedButton>
          )}
          {cluster.protected ? (
            <ReasonedButton
              variant="default"
              leftSection={<IconLockOpen size={14} />}
              onClick={() => setDialog('unlock')}
            >
              Unlock…
            </ReasonedButton>
          ) : (
            <ReasonedButton
              variant="default"
              leftSection={<IconLock size={14} />}
              hint="Make it read-only in this console until its name is typed."
              blocked={cluster.source === 'recording' ? 'A recording is read-only anyway.' : undefined}
              onClick={() => void protect.run(true)}
            >
              Protect
            </ReasonedButton>
          )}
          <Menu position="bottom-end">
            <Menu.Target>
              <Tooltip label="More">
                <ActionIcon size={30} variant="default" aria-label="More">
                  <IconDots size={16} />
                </ActionIcon>
              </Tooltip>
            </Menu.Target>
            <Menu.Dropdown>
              <Menu.Item leftSection={<IconLifebuoy size={14} />} onClick={() => void navigate({ to: '/support' })}>
                Support bundle…
              </Menu.Item>
              <Menu.Divider />
              <Menu.Label>Colour</Menu.Label>
              <div style={{ display: 'flex', gap: 6, padding: '2px 10px 8px' }}>
                {clusterColours.map(([name, colour]) => (
                  <Tooltip key={name} label={name}>
                    <ColorSwatch
                      component="button"
                      type="button"
                      color={colour || 'transparent'}
                      size={20}
                      aria-label={`Colour: ${name}`}
                      aria-pressed={(cluster.colour ?? '') === colour}
                      onClick={() => void paint.run(colour)}
                    />
                  </Tooltip>
                ))}
              </div>
              <Menu.Divider />
              <Menu.Item leftSection={<IconTrash size={14} />} onClick={() => setDialog('forget')}>
                Forget this cluster…
              </Menu.Item>
            </Menu.Dropdown>
          </Menu>
        </div>
      </div>
      {failure ? (
        <div className={styles.notices}>
          <FailureCard failure={failure} />
        </div>
      ) : null}
      {untrusted && !failure && cluster.state === 'idle' ? (
        <Banner tone={locked ? 'warn' : 'info'}>
          {locked
            ? `It logs in with a program (${cluster.execPlugin?.command}), and no login program may run here: this console is locked to that.`
            : `It logs in with a program (${cluster.execPlugin?.command}) that has not been allowed. Nothing has been run, and nothing was sent.`}
        </Banner>
      ) : null}
      <Confirm
        opened={dialog === 'unlock'}
        title={`Unlock ${cluster.name}?`}
        typed={cluster.name}
        confirm="Unlock"
        pending={protect.pending}
        failure={protect.failure}
        onClose={() => setDialog('none')}
        onConfirm={() => void protect.run(false).then((done) => done && setDialog('none'))}
      >
        The console will be able to change it: apply and delete policies, install and uninstall the agent.
      </Confirm>
      <Confirm
        opened={dialog === 'forget'}
        title={`Forget ${cluster.name}?`}
        confirm="Forget"
        danger
        pending={forget.pending}
        failure={forget.failure}
        onClose={() => setDialog('none')}
        onConfirm={() =>
          void forget.run().then((done) => {
            if (!done) return;
            setDialog('none');
            void navigate({ to: '/clusters' });
          })
        }
      >
        It disappears from this list. The kubeconfig file and the cluster are left alone; add the file again to get it
        back.
      </Confirm>
      {dialog === 'trust' ? <ExecTrust cluster={cluster} onClose={() => setDialog('none')} /> : null}
    </>
  );
}

function Notices({ cluster }: { readonly cluster: Cluster }) {
  const now = useNow();
  const connect = useAction((client) => client.clusters.connect({ cluster: cluster.id }));
  const wait = cluster.retryAt === undefined ? undefined : Math.max(0, Math.round((cluster.retryAt - now) / 1000));
  return (
    <>
      {cluster.insecure ? (
        <Banner tone="bad">
          TLS verification is switched off in the kubeconfig: anybody on the way can read and change what is sent.
        </Banner>
      ) : null}
      {cluster.failure ? (
        <div className={styles.notices}>
          <FailureCard
            failure={cluster.failure}
            warning={cluster.state !== 'offline'}
            onRetry={cluster.state === 'offline' ? () => void connect.run() : undefined}
            retryLabel={wait ? `Try now (again in ${wait} s)` : 'Try now'}
          />
        </div>
      ) : null}
    </>
  );
}
