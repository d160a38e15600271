import { Button } from '@mantine/core';
import {
  IconCopy,
  IconDownload,
  IconPlus,
  IconRefresh,
  IconSearch,
  IconShieldExclamation,
  IconTrash,
  IconX,
} from '@tabler/icons-react';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { useEffect, useRef, useState } from 'react';
import type { Cluster } from '../../../contract/clusters.ts';
import type { TerminalTarget } from '../../../contract/terminals.ts';
import { isConnected, useClusters } from '../../app/clusters.tsx';
import { NeedsCluster } from '../../app/needs-cluster.tsx';
import { useBlocked } from '../../app/rights.ts';
import { useClient } from '../../app/streams.ts';
import { clusterColour, useNow } from '../../app/top-bar.tsx';
import { download } from '../../ui/download.ts';
import { Facts, FailureCard, IconButton, ReasonedButton, Spacer } from '../../ui/pieces.tsx';
import { DebugDialogs, useAsking } from './debug-dialogs.tsx';
import { Picker, shells } from './picker.tsx';
import { SearchField } from './search-field.tsx';
import {
  answerHostKey,
  closeSession,
  openSession,
  reconnect,
  type Session,
  stopRetrying,
  targetName,
  targetWay,
  useSessions,
} from './sessions.ts';
import styles from './terminal.module.css';

/** Shells in pods and on nodes, as tabs that go on while other views are looked at. */
export function TerminalView() {
  const { list } = useSessions();
  const { current } = useClusters();
  const client = useClient();
  const connected = isConnected(current) ? current : undefined;
  useAsked(connected);
  // Open tabs stay usable whatever the chosen cluster is.
  return (
    <>
      {list.length > 0 ? <Tabs /> : <NeedsCluster>{(cluster) => <Start cluster={cluster} />}</NeedsCluster>}
      {connected ? (
        <DebugDialogs
          key={connected.id}
          cluster={connected}
          onOpen={(target) => openSession(client, connected.name, target)}
        />
      ) : null}
    </>
  );
}

/** Opens what the address asks for, once. */
function useAsked(cluster: Cluster | undefined) {
  const search = useSearch({ from: '/terminal' });
  const navigate = useNavigate();
  const client = useClient();
  const { inventory } = useClusters();
  const pods = inventory.value?.pods;
  const done = useRef('');
  useEffect(() => {
    if (cluster && search.debug !== undefined) {
      const [kind, ...rest] = search.debug.split('/');
      const [namespace = '', pod = ''] = rest;
      if (kind === 'node' && rest[0]) useAsking.getState().ask({ kind: 'node-pod', node: rest[0] });
      else if (kind === 'pod' && pod)
        useAsking.getState().ask({ kind: 'debug', namespace, pod, container: search.container ?? '' });
      void navigate({ to: '/terminal', replace: true, search: {} as never });
      return;
    }
    const asked = `${search.pod ?? ''} ${search.node ?? ''} ${search.container ?? ''}`;
    // The same place may be asked for again later.
    if (asked.trim() === '') done.current = '';
    if (!cluster || asked.trim() === '' || done.current === asked) return;
    let target: TerminalTarget | undefined;
    if (search.node) target = { kind: 'node', cluster: cluster.id, node: search.node };
    else if (pods) {
      const pod = pods.find((one) => `${one.namespace}/${one.name}` === search.pod);
      const [namespace = '', name = ''] = (search.pod ?? '').split('/');
      target = {
        kind: 'pod',
        cluster: cluster.id,
        namespace: pod?.namespace ?? namespace,
        pod: pod?.name ?? name,
        container: search.container ?? pod?.containers[0] ?? '',
        command: shells,
      };
    }
    if (!target) return;
    done.current = asked;
    openSession(client, cluster.name, target);
    void navigate({ to: '/terminal', replace: true, search: {} as never });
  }, [client, cluster, navigate, pods, search.container, search.debug, search.node, search.pod]);
}

function Start({ cluster }: { readonly cluster: Cluster }) {
  const client = useClient();
  return (
    <Picker cluster={cluster} onCancel={undefined} onPick={(target) => openSession(client, cluster.name, target)} />
  );
}

function Tabs() {
  const client = useClient();
  const { current } = useClusters();
  const { list, active, choose } = useSessions();
  const [picking, setPicking] = useState(false);
  const [searching, setSearching] = useState(false);
  useEffect(() => {
    const listen = (event: KeyboardEvent) => {
      if (!event.ctrlKey || !event.shiftKey || event.code !== 'KeyF') return;
      event.preventDefault();
      setSearching(true);
    };
    window.addEventListener('keydown', listen);
    return () => window.removeEventListener('keydown', listen);
  }, []);
  // Whatever has opened another tab: it is to be seen.
  // biome-ignore lint/correctness/useExhaustiveDependencies: `active` is what it follows
  useEffect(() => setPicking(false), [active]);
  const session = list.find((one) => one.id === active) ?? list[0];
  if (!session) return null;
  return (
    <>
      <div className={styles.tabs}>
        <ul className={styles.tabList} aria-label="Terminals" data-terminal-tabs>
          {list.map((one, index) => (
            <li key={one.id} className={styles.tab} data-chosen={!picking && one.id === session.id}>
              <span
                className={`${styles.dot} ${one.state.kind === 'closed' || one.state.kind === 'waiting' ? styles.closed : ''}`}
                aria-hidden
              />
              <button
                id={`terminal-${one.id}`}
                type="button"
                className={styles.tabName}
                aria-current={!picking && one.id === session.id}
                onClick={() => {
                  setPicking(false);
                  choose(one.id);
                  // The chosen screen is put in the page first; then the keys go to it.
                  setTimeout(() => one.screen.focus());
                }}
                onKeyDown={(event) => {
                  const step = event.key === 'ArrowRight' ? 1 : event.key === 'ArrowLeft' ? -1 : 0;
                  const next = list[(index + step + list.length) % list.length];
                  if (event.key === 'Delete') closeSession(one.id);
                  if (!step || !next) return;
                  choose(next.id);
                  document.getElementById(`terminal-${next.id}`)?.focus();
                }}
              >
                <span className="clip">{targetName(one.target)}</span>
                <small className="clip">
                  {one.clusterName} · {targetWay(one.target)}
                  {one.state.kind === 'closed' ? ' · closed' : one.state.kind === 'waiting' ? ' · connection lost' : ''}
                </small>
              </button>
              <IconButton
                icon={IconX}
                size="sm"
                label={`Close ${targetName(one.target)}`}
                onClick={() => closeSession(one.id)}
              />
            </li>
          ))}
          <li className={styles.tools}>
            <IconButton
              icon={IconPlus}
              label="Open another shell"
              active={picking}
              onClick={() => setPicking(!picking)}
            />
          </li>
        </ul>
        <div className={styles.tools}>
          {searching ? <SearchField session={session} onClose={() => setSearching(false)} /> : null}
          <IconButton
            icon={IconSearch}
            label="Search in the output (Ctrl Shift F)"
            active={searching}
            onClick={() => setSearching(!searching)}
          />
          <IconButton
            icon={IconCopy}
            label="Copy the selection (Ctrl Shift C), or everything"
            onClick={() => void navigator.clipboard.writeText(session.screen.selection() || session.screen.text())}
          />
          <IconButton
            icon={IconDownload}
            label="Save the output as text"
            onClick={() =>
              download(`${targetName(session.target).replaceAll('/', '-')}.txt`, session.screen.text(), 'text/plain')
            }
          />
          <IconButton icon={IconTrash} label="Clear the screen" onClick={() => session.screen.clear()} />
          <IconButton icon={IconRefresh} label="Reconnect" onClick={() => reconnect(client, session)} />
        </div>
      </div>
      {picking && current ? (
        <Picker
          cluster={current}
          onCancel={() => setPicking(false)}
          onPick={(target) => {
            setPicking(false);
            openSession(client, current.name, target);
          }}
        />
      ) : (
        <Stage key={session.id} session={session} />
      )}
    </>
  );
}

function Stage({ session }: { readonly session: Session }) {
  const client = useClient();
  const parent = useRef<HTMLDivElement>(null);
  const { screen, state } = session;
  useEffect(() => (parent.current ? screen.show(parent.current) : undefined), [screen]);
  return (
    <div
      role="region"
      aria-labelledby={`terminal-${session.id}`}
      style={{ display: 'flex', flex: 1, flexDirection: 'column', minHeight: 0 }}
    >
      <Where session={session} />
      <div className={styles.stage}>
        <div ref={parent} className={styles.screen} />
        {state.kind === 'host-key' ? (
          <div className={styles.cover}>
            <HostKeyCard
              session={session}
              host={state.host}
              algorithm={state.algorithm}
              fingerprint={state.fingerprint}
            />
          </div>
        ) : null}
        {state.kind === 'closed' && state.failure?.code.includes('host-key-changed') ? (
          <div className={styles.cover}>
            <div className={styles.card} role="alertdialog" aria-label="The host key has changed">
              <div style={{ display: 'flex', gap: 10, alignItems: 'center', color: 'var(--bad)' }}>
                <IconShieldExclamation size={24} aria-hidden />
                <h2>Stopped: this is not the machine that was known</h2>
              </div>
              <FailureCard failure={state.failure} />
              <p className="muted">
                Nothing was sent, and there is no way past this here: the key must be sorted out first.
              </p>
              <div style={{ display: 'flex', justifyContent: 'flex-end', gap: 8 }}>
                <Button variant="default" onClick={() => closeSession(session.id)} autoFocus>
                  Close the tab
                </Button>
              </div>
            </div>
          </div>
        ) : null}
      </div>
      {state.kind === 'closed' && !state.failure?.code.includes('host-key-changed') ? (
        state.failure ? (
          <div style={{ padding: 8 }}>
            <FailureCard failure={state.failure} onRetry={() => reconnect(client, session)} retryLabel="Reconnect" />
            <OtherWay target={session.target} code={state.failure.code} />
          </div>
        ) : (
          <div className={styles.ended} role="status">
            <b>{state.lost ? 'Connection lost.' : 'Session closed.'}</b> {state.reason}
            {state.code === null ? '' : ` Exit code ${state.code}.`}
            <Button
              size="compact-xs"
              leftSection={<IconRefresh size={13} />}
              onClick={() => reconnect(client, session)}
            >
              Reconnect
            </Button>
          </div>
        )
      ) : null}
      {state.kind === 'opening' ? (
        <div className={styles.ended} role="status">
          {state.text || `Connecting to ${targetName(session.target)}…`}
        </div>
      ) : null}
      {state.kind === 'waiting' ? (
        <Waiting session={session} at={state.at} attempt={state.attempt} reason={state.reason} />
      ) : null}
    </div>
  );
}

/** Where what is typed goes: cluster, user, server and way, so that no shell is taken for another. */
function Where({ session }: { readonly session: Session }) {
  const { list } = useClusters();
  const { target, clusterName, title, state } = session;
  const cluster = list.value?.clusters.find((one) => one.id === target.cluster);
  return (
    <div className={styles.where} role="note" aria-label="Where this shell is">
      <span
        className={styles.dot}
        style={{ background: cluster ? clusterColour(cluster) : 'var(--line-strong)' }}
        aria-hidden
      />
      <b className="clip">{clusterName}</b>
      {cluster ? (
        <span className="muted clip">
          {cluster.user ? `${cluster.user} at ` : ''}
          {cluster.server} · {cluster.route.join(' → ')}
        </span>
      ) : (
        <span className="muted clip">not in the list of clusters any more</span>
      )}
      <Spacer />
      <span className="mono clip">{state.kind === 'open' ? title : targetName(target)}</span>
      <span className="muted">{targetWay(target)}</span>
    </div>
  );
}

interface WaitingProps {
  readonly session: Session;
  readonly at: number;
  readonly attempt: number;
  readonly reason: string;
}

/** The connection is tried again by itself: when, and how to hurry or stop that. */
function Waiting({ session, at, attempt, reason }: WaitingProps) {
  const client = useClient();
  const now = useNow();
  return (
    <div className={styles.ended} role="status">
      <b>Connection lost.</b> {reason} Attempt {attempt} in {Math.max(0, Math.ceil((at - now) / 1000))} s.
      <Button size="compact-xs" leftSection={<IconRefresh size={13} />} onClick={() => reconnect(client, session)}>
        Reconnect now
      </Button>
      <Button size="compact-xs" variant="default" onClick={() => stopRetrying(session)}>
        Stop trying
      </Button>
    </div>
  );
}

/** Where one way does not lead to a shell, another may. */
function OtherWay({ target, code }: { readonly target: TerminalTarget; readonly code: string }) {
  const ask = useAsking((state) => state.ask);
  const debug = useBlocked('terminals.debug', target.kind === 'pod' ? target.namespace : '');
  const nodePod = useBlocked('terminals.nodePod');
  if (code === 'terminal.no-shell' && target.kind === 'pod')
    return (
      <div style={{ paddingTop: 8 }}>
        <ReasonedButton
          size="compact-sm"
          blocked={debug}
          onClick={() =>
            ask({ kind: 'debug', namespace: target.namespace, pod: target.pod, container: target.container })
          }
        >
          Debug container…
        </ReasonedButton>
      </div>
    );
  if (code.startsWith('ssh.') || code === 'terminal.no-ssh')
    return target.kind === 'node' ? (
      <div style={{ paddingTop: 8 }}>
        <ReasonedButton
          size="compact-sm"
          blocked={nodePod}
          onClick={() => ask({ kind: 'node-pod', node: target.node })}
        >
          Open by a debug pod…
        </ReasonedButton>
      </div>
    ) : null;
  return null;
}

interface HostKeyCardProps {
  readonly session: Session;
  readonly host: string;
  readonly algorithm: string;
  readonly fingerprint: string;
}

/** Nobody has vouched for this host's key: shows it and asks. Cancel has the focus. */
function HostKeyCard({ session, host, algorithm, fingerprint }: HostKeyCardProps) {
  const client = useClient();
  const cancel = useRef<HTMLButtonElement>(null);
  useEffect(() => cancel.current?.focus(), []);
  return (
    <div className={styles.card} role="alertdialog" aria-label="Unknown host key">
      <h2>Is this the right machine?</h2>
      <p>Nobody has vouched for the key of this host yet. Compare the fingerprint with one that you got another way.</p>
      <Facts
        items={[
          [
            'Host',
            <span key="h" className="mono">
              {host}
            </span>,
          ],
          [
            'Key',
            <span key="k" className="mono">
              {algorithm}
            </span>,
          ],
        ]}
      />
      <div className={styles.fingerprint}>{fingerprint}</div>
      <p className="muted">If you trust it, it is kept in Fairlead’s own list; your known_hosts file is not changed.</p>
      <div style={{ display: 'flex', justifyContent: 'flex-end', gap: 8 }}>
        <Button ref={cancel} variant="default" onClick={() => answerHostKey(client, session, false)}>
          Cancel
        </Button>
        <ReasonedButton onClick={() => answerHostKey(client, session, true)}>Trust this key</ReasonedButton>
      </div>
    </div>
  );
}
