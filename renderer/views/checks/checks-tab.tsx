import { Button, Menu, SegmentedControl, Select } from '@mantine/core';
import {
  IconAlertTriangleFilled,
  IconCircleCheckFilled,
  IconCircleDashed,
  IconCircleX,
  IconDownload,
  IconListCheck,
  IconLoader2,
  IconPlayerPlay,
  type TablerIcon,
} from '@tabler/icons-react';
import { useState } from 'react';
import { type CheckBatch, type CheckResult, checksMarkdown } from '../../../contract/checks.ts';
import type { Cluster } from '../../../contract/clusters.ts';
import { useStream } from '../../app/streams.ts';
import { download } from '../../ui/download.ts';
import { plural } from '../../ui/format.ts';
import { Copy, Empty, Facts, FailureCard, ReasonedButton, Spacer } from '../../ui/pieces.tsx';
import { Status, type Tone } from '../../ui/status.tsx';
import styles from './checks.module.css';

const looks: Readonly<
  Record<CheckResult['status'], { readonly tone: Tone; readonly icon: TablerIcon; readonly text: string }>
> = {
  passed: { tone: 'ok', icon: IconCircleCheckFilled, text: 'Passed' },
  warning: { tone: 'warn', icon: IconAlertTriangleFilled, text: 'Warning' },
  failed: { tone: 'bad', icon: IconCircleX, text: 'Failed' },
  skipped: { tone: 'idle', icon: IconCircleDashed, text: 'Skipped' },
  running: { tone: 'info', icon: IconLoader2, text: 'Running' },
};

const order = ['failed', 'warning', 'running', 'passed', 'skipped'] as const;

interface ChecksTabProps {
  readonly cluster: Cluster;
  readonly kind: 'preflight' | 'run';
  readonly title: string;
  readonly text: string;
}

/** What is asked for: all checks, or some of them alone. */
interface Asked {
  readonly round: number;
  readonly nodes?: readonly string[];
  readonly checks?: readonly string[];
}

const keyOf = (result: Pick<CheckResult, 'id' | 'node'>) => `${result.node} ${result.id}`;

/** Puts new results in the place of older ones of the same check. */
export function mergeResults(before: readonly CheckResult[], batch: readonly CheckResult[]): readonly CheckResult[] {
  const merged = new Map(before.map((result) => [keyOf(result), result]));
  for (const result of batch) merged.set(keyOf(result), result);
  return [...merged.values()];
}

/** A list of checks: started by hand, results as they come, each with its evidence, and to be run again alone. */
export function ChecksTab({ cluster, kind, title, text }: ChecksTabProps) {
  const [asked, setAsked] = useState<Asked | undefined>(undefined);
  const [results, setResults] = useState<readonly CheckResult[]>([]);
  const [at, setAt] = useState<number | undefined>(undefined);
  const [shown, setShown] = useState<'all' | 'problems'>('all');
  const [node, setNode] = useState<string | null>(null);
  const { failure, ended, retry } = useStream<CheckBatch>(
    `${kind} ${cluster.id} ${asked?.round}`,
    asked
      ? (client, handlers) =>
          client.verify[kind](
            {
              cluster: cluster.id,
              ...(asked.nodes ? { nodes: [...asked.nodes] } : {}),
              ...(asked.checks ? { checks: [...asked.checks] } : {}),
            },
            handlers,
          )
      : undefined,
    (items) => setResults((before) => items.reduce((all, item) => mergeResults(all, item.results), before)),
    undefined,
    true,
  );
  const running = asked !== undefined && !ended && !failure;
  const start = (only?: { readonly nodes: readonly string[]; readonly checks: readonly string[] }) => {
    if (!only) setResults([]);
    setAt(Date.now());
    setAsked((before) => ({ round: (before?.round ?? 0) + 1, ...only }));
  };
  const nodes = [...new Set(results.map((result) => result.node))];
  const visible = results
    .filter((result) => node === null || result.node === node)
    .filter((result) => shown === 'all' || result.status === 'failed' || result.status === 'warning');
  const counts = order
    .map((status) => ({ status, count: results.filter((result) => result.status === status).length }))
    .filter((one) => one.count > 0);
  const report = () => ({ title: `${title}: ${cluster.name}`, at: new Date(at ?? 0).toISOString() });
  const name = `fairlead-${kind === 'run' ? 'verify' : 'preflight'}-${cluster.name.replace(/\W+/g, '-')}`;
  return (
    <div className={styles.scroll} tabIndex={0} role="region" aria-label={title}>
      <div className={styles.bar} role="toolbar" aria-label={title}>
        <ReasonedButton
          leftSection={<IconPlayerPlay size={14} />}
          blocked={running ? 'It is running.' : undefined}
          loading={running}
          onClick={() => start()}
        >
          {results.length > 0 ? 'Run all again' : 'Run'}
        </ReasonedButton>
        <span role="status" className={styles.counts}>
          {counts.map(({ status, count }) => (
            <Status key={status} tone={looks[status].tone} icon={looks[status].icon}>
              {count} {looks[status].text.toLowerCase()}
            </Status>
          ))}
        </span>
        <Spacer />
        {results.length > 0 ? (
          <>
            <Select
              aria-label="Node"
              placeholder="All nodes"
              clearable
              value={node}
              data={nodes.map((one) => ({ value: one, label: one || 'Cluster' }))}
              onChange={setNode}
            />
            <SegmentedControl
              aria-label="Show"
              value={shown}
              onChange={(value) => setShown(value as typeof shown)}
              data={[
                { value: 'all', label: 'All' },
                { value: 'problems', label: 'Problems' },
              ]}
            />
            <Menu position="bottom-end">
              <Menu.Target>
                <Button variant="default" leftSection={<IconDownload size={14} />} disabled={running}>
                  Report
                </Button>
              </Menu.Target>
              <Menu.Dropdown>
                <Menu.Item
                  onClick={() => download(`${name}.md`, checksMarkdown(report().title, results), 'text/markdown')}
                >
                  Markdown
                </Menu.Item>
                <Menu.Item
                  onClick={() =>
                    download(`${name}.json`, JSON.stringify({ ...report(), results }, undefined, 2), 'application/json')
                  }
                >
                  JSON
                </Menu.Item>
              </Menu.Dropdown>
            </Menu>
          </>
        ) : null}
      </div>
      {failure ? (
        <div style={{ padding: '0 16px 12px' }}>
          <FailureCard failure={failure} onRetry={retry} />
        </div>
      ) : null}
      {results.length === 0 && !failure ? (
        <Empty icon={IconListCheck} title={running ? 'Asking the cluster' : title}>
          {text}
        </Empty>
      ) : null}
      {results.length > 0 && visible.length === 0 ? (
        <Empty icon={IconCircleCheckFilled} title="No problems">
          {plural(results.length, 'check')} were made; none failed.
        </Empty>
      ) : null}
      {nodes
        .filter((one) => visible.some((result) => result.node === one))
        .map((one) => (
          <section key={one} className={styles.node} aria-label={one || 'Cluster'}>
            <h2>{one || 'Cluster'}</h2>
            {visible
              .filter((result) => result.node === one)
              .map((result) => (
                <CheckRow
                  key={keyOf(result)}
                  result={result}
                  blocked={running ? 'Other checks are running.' : undefined}
                  onAgain={() => start({ nodes: [result.node], checks: [result.id] })}
                />
              ))}
          </section>
        ))}
    </div>
  );
}

interface CheckRowProps {
  readonly result: CheckResult;
  readonly blocked: string | undefined;
  readonly onAgain: () => void;
}

function CheckRow({ result, blocked, onAgain }: CheckRowProps) {
  const look = looks[result.status];
  return (
    <details className={styles.check}>
      <summary>
        <Status plain tone={look.tone} icon={look.icon} spin={result.status === 'running'}>
          {look.text}
        </Status>
        <b className="clip">{result.title}</b>
        <span className="clip" title={result.found}>
          {result.found}
        </span>
      </summary>
      <div className={styles.detail}>
        <Facts
          items={[
            ['Found', result.found || '—'],
            ['Expected', result.expected],
            result.fix ? ['Fix', result.fix] : undefined,
            result.docs ? ['See', result.docs] : undefined,
            result.group ? ['Part of', result.group] : undefined,
          ]}
        />
        <div className={styles.again}>
          <ReasonedButton variant="default" size="compact-xs" blocked={blocked} onClick={onAgain}>
            Run this one again
          </ReasonedButton>
          {result.evidence ? <Copy text={result.evidence} label="Copy the evidence" /> : null}
        </div>
        {result.evidence ? <pre tabIndex={0}>{result.evidence}</pre> : null}
      </div>
    </details>
  );
}
