import { Button, TextInput } from '@mantine/core';
import {
  IconCircleCheckFilled,
  IconCircleDashed,
  IconCircleX,
  IconLoader2,
  IconPlayerPlay,
  IconPlayerStop,
  IconPlugConnected,
  type TablerIcon,
} from '@tabler/icons-react';
import { useMemo, useState } from 'react';
import type { Cluster } from '../../../contract/clusters.ts';
import type { ConnectivityCase, ConnectivityProgress, ConnectivityResult } from '../../../contract/connectivity.ts';
import { useBlocked } from '../../app/rights.ts';
import { useAction, useLatest, useProcedure } from '../../app/streams.ts';
import { download } from '../../ui/download.ts';
import { Banner, Empty, Facts, FailureCard, ReasonedButton, SkeletonRows, Spacer } from '../../ui/pieces.tsx';
import { Status, type Tone } from '../../ui/status.tsx';
import styles from '../checks/checks.module.css';

type State = ConnectivityResult['state'];

const looks: Readonly<Record<State, { readonly tone: Tone; readonly icon: TablerIcon; readonly text: string }>> = {
  waiting: { tone: 'idle', icon: IconCircleDashed, text: 'Waiting' },
  running: { tone: 'info', icon: IconLoader2, text: 'Running' },
  passed: { tone: 'ok', icon: IconCircleCheckFilled, text: 'Passed' },
  failed: { tone: 'bad', icon: IconCircleX, text: 'Failed' },
  skipped: { tone: 'idle', icon: IconCircleDashed, text: 'Skipped' },
};

/** Is something of the test still going on in the cluster? */
export function isBusy(progress: ConnectivityProgress | undefined): boolean {
  return progress !== undefined && ['preparing', 'running', 'cleaning'].includes(progress.state);
}

/** The connectivity test: pods on two nodes, every way between them tried, and all of it removed again. */
export function ConnectivityTab({ cluster }: { readonly cluster: Cluster }) {
  const id = cluster.id;
  const [outside, setOutside] = useState('');
  const [round, setRound] = useState(0);
  const blocked = useBlocked('connectivity.start');
  const known = useProcedure('connectivity cases', (client, signal) => client.connectivity.cases({}, { signal }));
  const start = useAction((client, cases: readonly string[] | undefined) =>
    client.connectivity.start({
      cluster: id,
      ...(cases ? { cases: [...cases] } : {}),
      ...(outside.trim() ? { outside: outside.trim() } : {}),
    }),
  );
  const stop = useAction((client) => client.connectivity.stop({ cluster: id }));
  const progress = useLatest<ConnectivityProgress>(`connectivity ${id} ${round}`, (client, handlers) =>
    client.connectivity.watch({ cluster: id }, handlers),
  );
  const results = useMemo(
    () => new Map((progress.value?.results ?? []).map((result) => [result.id, result])),
    [progress.value],
  );
  const run = async (cases?: readonly string[]) => {
    if (await start.run(cases)) setRound((value) => value + 1);
  };
  const busy = isBusy(progress.value);
  const cases = known.value?.cases ?? [];
  const groups = [...new Set(cases.map((one) => one.group))];
  const count = (state: State) => [...results.values()].filter((result) => result.state === state).length;
  const failed = [...results.values()].filter((result) => result.state === 'failed').map((result) => result.id);
  return (
    <div className={styles.scroll} tabIndex={0} role="region" aria-label="Connectivity test">
      <div className={styles.bar} role="toolbar" aria-label="Connectivity test">
        {busy ? (
          <ReasonedButton
            variant="default"
            leftSection={<IconPlayerStop size={14} />}
            loading={stop.pending}
            onClick={() => void stop.run()}
          >
            Stop
          </ReasonedButton>
        ) : (
          <ReasonedButton
            leftSection={<IconPlayerPlay size={14} />}
            blocked={blocked}
            loading={start.pending}
            onClick={() => void run()}
          >
            Run {cases.length > 0 ? `${cases.length} cases` : ''}
          </ReasonedButton>
        )}
        {!busy && failed.length > 0 ? (
          <ReasonedButton variant="default" blocked={blocked} onClick={() => void run(failed)}>
            Run the failed ones again
          </ReasonedButton>
        ) : null}
        <span role="status" className={styles.counts}>
          {(['failed', 'passed', 'running', 'skipped', 'waiting'] as const)
            .filter((state) => count(state) > 0)
            .map((state) => (
              <Status key={state} tone={looks[state].tone} icon={looks[state].icon} spin={state === 'running'}>
                {count(state)} {looks[state].text.toLowerCase()}
              </Status>
            ))}
        </span>
        <Spacer />
        <TextInput
          aria-label="A server outside of the cluster"
          placeholder="Server outside: http://…"
          value={outside}
          disabled={busy}
          onChange={(event) => setOutside(event.currentTarget.value)}
        />
        {progress.value && !busy ? (
          <Button
            variant="default"
            onClick={() =>
              download(
                `fairlead-connectivity-${cluster.name.replace(/\W+/g, '-')}.json`,
                JSON.stringify(progress.value, undefined, 2),
                'application/json',
              )
            }
          >
            Report
          </Button>
        ) : null}
      </div>
      {start.failure ? (
        <div style={{ padding: 16 }}>
          <FailureCard failure={start.failure} />
        </div>
      ) : null}
      {progress.failure ? (
        <div style={{ padding: 16 }}>
          <FailureCard failure={progress.failure} onRetry={progress.retry} />
        </div>
      ) : null}
      {progress.value ? (
        <Banner tone={progress.value.state === 'failed' ? 'bad' : 'info'}>
          {progress.value.state === 'done' ? 'Done' : progress.value.state}
          {progress.value.message ? `: ${progress.value.message}` : ''}
          {progress.value.nodes.length > 0 ? ` · on ${progress.value.nodes.join(' and ')}` : ''}
          {progress.value.namespace ? ` · namespace ${progress.value.namespace}` : ''}
        </Banner>
      ) : null}
      {known.pending ? <SkeletonRows rows={10} label="Reading the cases" /> : null}
      {known.failure ? <FailureCard failure={known.failure} onRetry={known.retry} /> : null}
      {!progress.value && cases.length > 0 ? (
        <Empty icon={IconPlugConnected} title="Connectivity test">
          Makes a namespace with pods on two nodes out of the agent’s own image, tries every way between pods, nodes,
          services, names and the outside, with and without policies, and removes all of it again. If this console is
          killed meanwhile, the cluster itself removes the pods after a quarter of an hour.
        </Empty>
      ) : null}
      {groups.map((group) => (
        <section key={group} className={styles.node} aria-label={group}>
          <h2>{group}</h2>
          {cases
            .filter((one) => one.group === group)
            .map((one) => (
              <CaseRow
                key={one.id}
                one={one}
                result={results.get(one.id)}
                blocked={blocked ?? (busy ? 'The test is running.' : undefined)}
                onAgain={() => void run([one.id])}
              />
            ))}
        </section>
      ))}
    </div>
  );
}

interface CaseRowProps {
  readonly one: ConnectivityCase;
  readonly result: ConnectivityResult | undefined;
  readonly blocked: string | undefined;
  readonly onAgain: () => void;
}

function CaseRow({ one, result, blocked, onAgain }: CaseRowProps) {
  const look = looks[result?.state ?? 'waiting'];
  return (
    <details className={styles.check}>
      <summary>
        <Status plain tone={look.tone} icon={look.icon} spin={result?.state === 'running'}>
          {result ? look.text : '—'}
        </Status>
        <b className="clip" title={one.title}>
          {one.title}
        </b>
        <span className="clip" title={result?.message}>
          {result?.message || (one.needs.length > 0 ? `needs ${one.needs.join(', ')}` : '')}
        </span>
      </summary>
      <div className={styles.detail}>
        <Facts
          items={[
            ['Case', one.id],
            ['Expected', result?.expected],
            result?.message ? ['Found', result.message] : undefined,
            result && result.milliseconds > 0 ? ['Took', `${result.milliseconds} ms`] : undefined,
            one.needs.length > 0 ? ['Needs', one.needs.join(', ')] : undefined,
          ]}
        />
        <div className={styles.again}>
          <ReasonedButton variant="default" size="compact-xs" blocked={blocked} onClick={onAgain}>
            Run this one alone
          </ReasonedButton>
        </div>
        {result && result.attempts.length > 0 ? <pre tabIndex={0}>{result.attempts.join('\n')}</pre> : null}
        {result && result.flows.length > 0 ? (
          <>
            <h3 style={{ marginTop: 10 }}>Flows that the agents saw</h3>
            <pre tabIndex={0}>{result.flows.join('\n')}</pre>
          </>
        ) : null}
      </div>
    </details>
  );
}
