import { Button, TextInput } from '@mantine/core';
import { IconCircleX, IconDownload, IconHistory, IconRefresh, IconSearch } from '@tabler/icons-react';
import { lazy, Suspense, useDeferredValue, useMemo, useState } from 'react';
import type { AuditEntry } from '../../../contract/application.ts';
import { useProcedure } from '../../app/streams.ts';
import { type Column, DataGrid } from '../../ui/data-grid.tsx';
import { download } from '../../ui/download.ts';
import { formatMoment, plural } from '../../ui/format.ts';
import {
  Empty,
  Facts,
  FailureCard,
  IconButton,
  Section,
  SidePane,
  SkeletonRows,
  Spacer,
  Toolbar,
} from '../../ui/pieces.tsx';
import { Status } from '../../ui/status.tsx';
import { matches, toCsv } from './audit-rows.ts';

// The diff brings the editor along, which the list does not need.
const DiffView = lazy(async () => ({ default: (await import('../../ui/code/diff-view.tsx')).DiffView }));

type Row = AuditEntry & { readonly key: string };

const harmless = new Set(['done', 'unchanged', 'begun']);

const columns: readonly Column<Row>[] = [
  {
    id: 'time',
    title: 'Time',
    width: '200px',
    render: (row) => <span className="mono">{formatMoment(row.time)}</span>,
    sort: (row) => row.time,
  },
  {
    id: 'cluster',
    title: 'Cluster',
    width: 'minmax(110px, 1fr)',
    render: (row) => row.cluster,
    sort: (row) => row.cluster,
  },
  {
    id: 'action',
    title: 'Action',
    width: 'minmax(130px, 1fr)',
    render: (row) => row.action,
    sort: (row) => row.action,
  },
  {
    id: 'subject',
    title: 'Subject',
    width: 'minmax(180px, 2fr)',
    render: (row) => <span title={row.subject}>{row.subject}</span>,
    sort: (row) => row.subject,
  },
  { id: 'who', title: 'Who', width: 'minmax(110px, 1fr)', render: (row) => row.who || '–', sort: (row) => row.who },
  {
    id: 'result',
    title: 'Result',
    width: 'minmax(120px, 1fr)',
    render: (row) =>
      harmless.has(row.result) ? (
        row.result
      ) : (
        <Status tone="bad" icon={IconCircleX}>
          {row.result}
        </Status>
      ),
    sort: (row) => row.result,
  },
];

/** Every write that this console made: who, where, what, and how the object was before and after. */
export function AuditView() {
  const [find, setFind] = useState('');
  const wanted = useDeferredValue(find);
  const [chosen, setChosen] = useState<string | undefined>(undefined);
  const log = useProcedure('audit', (client, signal) => client.application.audit({}, { signal }));
  const rows = useMemo<readonly Row[]>(
    () =>
      (log.value?.entries ?? [])
        .map((entry, index) => ({ ...entry, key: `${entry.time} ${index}` }))
        .filter((entry) => matches(entry, wanted)),
    [log.value, wanted],
  );
  const selected = rows.find((row) => row.key === chosen);
  if (log.pending) return <SkeletonRows rows={14} label="Reading the audit log" />;
  if (!log.value)
    return (
      <div style={{ padding: 16 }}>
        {log.failure ? <FailureCard failure={log.failure} onRetry={log.retry} /> : null}
      </div>
    );
  const total = log.value.entries.length;
  return (
    <div style={{ display: 'flex', flexDirection: 'column', height: '100%', minHeight: 0 }}>
      <Toolbar label="Audit log">
        <h1 style={{ fontSize: 15, margin: 0 }}>Audit log</h1>
        <TextInput
          aria-label="Find in the audit log"
          placeholder="cluster, action, subject, who"
          leftSection={<IconSearch size={14} />}
          value={find}
          onChange={(event) => setFind(event.currentTarget.value)}
          style={{ width: 280 }}
        />
        <span className="muted">
          {rows.length === total ? plural(total, 'write') : `${rows.length} of ${plural(total, 'write')}`}
        </span>
        <Spacer />
        <IconButton icon={IconRefresh} label="Read again" onClick={log.retry} />
        <Button
          variant="default"
          leftSection={<IconDownload size={14} />}
          disabled={rows.length === 0}
          onClick={() => download('fairlead-audit.csv', toCsv(rows), 'text/csv')}
        >
          CSV
        </Button>
        <Button
          variant="default"
          leftSection={<IconDownload size={14} />}
          disabled={rows.length === 0}
          onClick={() =>
            download(
              'fairlead-audit.jsonl',
              rows.map((row) => `${JSON.stringify({ ...row, key: undefined })}\n`).join(''),
              'application/x-ndjson',
            )
          }
        >
          JSON
        </Button>
      </Toolbar>
      <div style={{ display: 'flex', flex: 1, minHeight: 0 }}>
        <div style={{ display: 'flex', flex: 1, flexDirection: 'column', minWidth: 0 }}>
          <DataGrid
            label="Writes"
            rows={rows}
            columns={columns}
            rowKey={(row) => row.key}
            selected={chosen}
            onSelect={(row) => setChosen(row.key)}
            tone={(row) => (harmless.has(row.result) ? undefined : 'bad')}
            initialSort={{ column: 'time', descending: true }}
            empty={
              <Empty icon={IconHistory} title={total === 0 ? 'Nothing was changed yet' : 'No write matches'}>
                {total === 0
                  ? 'Every change that this console makes in a cluster is written down here, on this machine, and sent nowhere.'
                  : 'Change what is looked for.'}
              </Empty>
            }
          />
        </div>
        {selected ? (
          <SidePane title={selected.action} label="One write" width={560} onClose={() => setChosen(undefined)}>
            <Section title="Write">
              <Facts
                items={[
                  [
                    'Time',
                    <span key="t" className="mono">
                      {new Date(selected.time).toISOString()}
                    </span>,
                  ],
                  ['Cluster', selected.cluster],
                  ['Subject', selected.subject],
                  ['Who', selected.who || 'not recorded'],
                  ['Result', selected.result],
                ]}
              />
            </Section>
            {selected.before || selected.after ? (
              <Suspense fallback={<SkeletonRows rows={6} />}>
                <DiffView before={selected.before} after={selected.after} height={480} labels={['Before', 'After']} />
              </Suspense>
            ) : (
              <p className="muted">This write has no single object to compare.</p>
            )}
          </SidePane>
        ) : null}
      </div>
    </div>
  );
}
