import { ActionIcon, Button, Tooltip } from '@mantine/core';
import { useDebouncedValue } from '@mantine/hooks';
import {
  IconAlertTriangle,
  IconArrowLeft,
  IconArrowsLeftRight,
  IconCircleX,
  IconInfoCircle,
  IconTrash,
} from '@tabler/icons-react';
import { Link, useNavigate } from '@tanstack/react-router';
import { lazy, Suspense, useEffect, useMemo, useRef, useState } from 'react';
import type { Cluster } from '../../../contract/clusters.ts';
import { type PolicyId, type PolicyProblem, type PolicySummary, policyKindSchema } from '../../../contract/policies.ts';
import { useClusters, writeBlocked } from '../../app/clusters.tsx';
import { useAction, useProcedure } from '../../app/streams.ts';
import type { EditorHandle } from '../../ui/code/yaml-editor.tsx';
import type { Schema } from '../../ui/code/yaml-path.ts';
import { Confirm } from '../../ui/confirm.tsx';
import { formatAge, plural } from '../../ui/format.ts';
import {
  Banner,
  ChipButton,
  Facts,
  FailureCard,
  ReasonedButton,
  Section,
  SkeletonRows,
  Spacer,
  Toolbar,
} from '../../ui/pieces.tsx';
import { Status } from '../../ui/status.tsx';
import { ApplyDialog } from './apply-dialog.tsx';
import { type Draft, draftKey, dropDraft, keepDraft, readDraft } from './drafts.ts';
import styles from './policies.module.css';
import { PolicyStatus, policyTitle } from './policies-view.tsx';
import type { Template } from './templates.ts';

const YamlEditor = lazy(async () => ({ default: (await import('../../ui/code/yaml-editor.tsx')).YamlEditor }));

interface PolicyEditorProps {
  readonly cluster: Cluster;
  /** The policy that is edited; undefined for a new one. */
  readonly id: PolicyId | undefined;
  readonly summary: PolicySummary | undefined;
  readonly template: Template | undefined;
}

function parseSchema(text: string | undefined): Schema | undefined {
  try {
    return text ? (JSON.parse(text) as Schema) : undefined;
  } catch {
    return undefined;
  }
}

/** One policy as text: validated while typing, compared with the cluster before it is applied, never lost. */
export function PolicyEditor({ cluster, id, summary, template }: PolicyEditorProps) {
  const { inventory } = useClusters();
  const namespace = inventory.value?.namespaces.some((one) => one.name === 'default')
    ? 'default'
    : (inventory.value?.namespaces[0]?.name ?? 'default');
  const key = draftKey(cluster.id, id ? `${id.kind} ${policyTitle(id)}` : `new ${template?.id}`);
  const [draft, setDraft] = useState<Draft | undefined>(
    () => readDraft(key) ?? (template ? { text: template.yaml(namespace), base: '', resourceVersion: '' } : undefined),
  );
  const wanted = id !== undefined;
  const read = useProcedure(
    `policy ${cluster.id} ${key}`,
    wanted ? (client, signal) => client.policies.read({ cluster: cluster.id, id }, { signal }) : undefined,
  );
  // The cluster's text is taken over once; a draft that is older than it is kept and said to be.
  useEffect(() => {
    const value = read.value;
    if (value) setDraft((old) => old ?? { text: value.text, base: value.text, resourceVersion: value.resourceVersion });
  }, [read.value]);
  if (!draft) {
    return (
      <>
        <EditorBar cluster={cluster} id={id} summary={summary} />
        <div style={{ padding: 16 }}>
          {read.failure ? (
            <FailureCard failure={read.failure} onRetry={read.retry} />
          ) : (
            <SkeletonRows rows={16} label="Reading the policy" />
          )}
        </div>
      </>
    );
  }
  const latest = read.value && { text: read.value.text, resourceVersion: read.value.resourceVersion };
  return (
    <LoadedEditor
      cluster={cluster}
      id={id}
      summary={summary}
      draft={draft}
      draftKey={key}
      latest={latest}
      onDraft={setDraft}
      onReread={read.retry}
    />
  );
}

function EditorBar({
  cluster,
  id,
  summary,
  children,
}: {
  cluster: Cluster;
  id: PolicyId | undefined;
  summary: PolicySummary | undefined;
  children?: React.ReactNode;
}) {
  return (
    <Toolbar label={`Policy in ${cluster.name}`}>
      <Tooltip label="Back to the list">
        <ActionIcon component={Link} to="/policies" aria-label="Back to the list">
          <IconArrowLeft size={16} />
        </ActionIcon>
      </Tooltip>
      <div className={styles.title}>
        <h1 className="clip" title={id ? policyTitle(id) : 'New policy'} style={{ maxWidth: 520 }}>
          {id ? policyTitle(id) : 'New policy'}
        </h1>
        {id ? <span className="muted">{id.kind}</span> : null}
        {summary ? <PolicyStatus policy={summary} plain={false} /> : null}
      </div>
      <Spacer />
      {children}
    </Toolbar>
  );
}

interface LoadedEditorProps {
  readonly cluster: Cluster;
  readonly id: PolicyId | undefined;
  readonly summary: PolicySummary | undefined;
  readonly draft: Draft;
  readonly draftKey: string;
  readonly latest: { readonly text: string; readonly resourceVersion: string } | undefined;
  readonly onDraft: (draft: Draft) => void;
  readonly onReread: () => void;
}

function LoadedEditor({ cluster, id, summary, draft, draftKey: key, latest, onDraft, onReread }: LoadedEditorProps) {
  const navigate = useNavigate();
  const editor = useRef<EditorHandle | undefined>(undefined);
  const [applying, setApplying] = useState(false);
  const [deleting, setDeleting] = useState(false);
  const [kept, setKept] = useState(true);
  const [settled] = useDebouncedValue(draft.text, 250);
  const dirty = draft.text !== draft.base;
  const validation = useProcedure(`validate ${cluster.id} ${settled}`, (client, signal) =>
    client.policies.validate({ cluster: cluster.id, text: settled }, { signal }),
  );
  const kind = policyKindSchema.safeParse(/^kind:\s*(\w+)/m.exec(draft.text)?.[1]).data ?? 'CiliumNetworkPolicy';
  const schemaText = useProcedure(`schema ${kind}`, (client, signal) => client.policies.schema({ kind }, { signal }));
  const schema = useMemo(() => parseSchema(schemaText.value?.schema), [schemaText.value]);
  const remove = useAction((client, of: PolicyId) => client.policies.remove({ cluster: cluster.id, id: of }));
  const lastGood = useRef(validation.value);
  if (validation.value) lastGood.current = validation.value;
  const checked = validation.value ?? lastGood.current;
  const problems = useMemo(() => checked?.problems ?? [], [checked]);

  useEffect(() => {
    if (dirty) setKept(keepDraft(key, draft));
    else dropDraft(key);
  }, [dirty, draft, key]);
  useEffect(() => {
    if (!dirty) return;
    const warn = (event: BeforeUnloadEvent) => event.preventDefault();
    window.addEventListener('beforeunload', warn);
    return () => window.removeEventListener('beforeunload', warn);
  }, [dirty]);

  const blocked = writeBlocked(cluster);
  const errors = problems.filter((problem) => problem.severity === 'error').length;
  const submit = () => setApplying(true);
  const changedMeanwhile =
    latest !== undefined && draft.resourceVersion !== '' && latest.resourceVersion !== draft.resourceVersion;
  return (
    <>
      <EditorBar cluster={cluster} id={id} summary={summary}>
        {dirty && id ? (
          <Button variant="subtle" onClick={() => onDraft({ ...draft, text: draft.base })}>
            Discard changes
          </Button>
        ) : null}
        {id ? (
          <>
            <Button
              variant="default"
              component={Link}
              to="/flows"
              search={{ filter: flowsFilter(summary) } as never}
              leftSection={<IconArrowsLeftRight size={14} />}
            >
              Show flows
            </Button>
            <ReasonedButton
              variant="default"
              leftSection={<IconTrash size={14} />}
              blocked={blocked}
              onClick={() => setDeleting(true)}
            >
              Delete…
            </ReasonedButton>
          </>
        ) : (
          <Button
            variant="default"
            onClick={() => {
              dropDraft(key);
              void navigate({ to: '/policies' });
            }}
          >
            Discard
          </Button>
        )}
        <ReasonedButton
          blocked={
            !dirty && id
              ? 'Nothing has been changed.'
              : errors > 0
                ? 'The text has errors: they are listed at the right.'
                : undefined
          }
          hint="Asks the server what it would store, and shows the difference (Ctrl Enter)"
          onClick={submit}
        >
          Dry run and apply…
        </ReasonedButton>
      </EditorBar>
      {summary?.managedBy ? (
        <Banner tone="warn">
          This policy is managed by {summary.managedBy}: changes made here will be reverted by it.
        </Banner>
      ) : null}
      {changedMeanwhile ? (
        <Banner
          tone="warn"
          actions={
            <Button
              size="compact-xs"
              variant="default"
              onClick={() =>
                latest && onDraft({ text: latest.text, base: latest.text, resourceVersion: latest.resourceVersion })
              }
            >
              Take the cluster’s version
            </Button>
          }
        >
          Your draft is of an older version: the policy has been changed in the cluster since.
        </Banner>
      ) : null}
      {kept ? null : (
        <Banner tone="bad">The browser has no room to keep this draft. Apply it or copy it before leaving.</Banner>
      )}
      <div className={styles.body}>
        <div className={styles.editorPane}>
          <div className={styles.editor}>
            <Suspense fallback={<SkeletonRows rows={16} label="Loading the editor" />}>
              <YamlEditor
                label={id ? `Policy ${policyTitle(id)}` : 'New policy'}
                text={draft.text}
                onChange={(text) => onDraft({ ...draft, text })}
                problems={problems}
                schema={schema}
                onSubmit={submit}
                onReady={(handle) => {
                  editor.current = handle;
                }}
              />
            </Suspense>
          </div>
        </div>
        {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, so the keyboard must reach it */}
        <aside className={styles.side} aria-label="What the policy means" tabIndex={0}>
          {validation.failure ? (
            <div style={{ padding: 12 }}>
              <FailureCard failure={validation.failure} onRetry={validation.retry} />
            </div>
          ) : null}
          {checked ? (
            <Findings
              problems={problems}
              selects={checked.selects}
              meaning={checked.meaning}
              onGoTo={(line, column) => editor.current?.goTo(line, column)}
            />
          ) : validation.failure ? null : (
            <SkeletonRows rows={8} label="Checking" />
          )}
          {summary ? <About summary={summary} /> : null}
        </aside>
      </div>
      {applying ? (
        <ApplyDialog
          cluster={cluster}
          text={draft.text}
          resourceVersion={draft.resourceVersion}
          onClose={() => setApplying(false)}
          onReread={onReread}
          onApplied={(applied) => {
            dropDraft(key);
            setApplying(false);
            void navigate({
              to: '/policies/$kind/$namespace/$name',
              params: { kind: applied.kind, namespace: applied.namespace || '-', name: applied.name },
            });
            onDraft({ text: draft.text, base: draft.text, resourceVersion: '' });
            onReread();
          }}
        />
      ) : null}
      {id ? (
        <Confirm
          opened={deleting}
          title={`Delete ${policyTitle(id)}?`}
          danger
          confirm="Delete"
          pending={remove.pending}
          failure={remove.failure}
          onClose={() => setDeleting(false)}
          onConfirm={() =>
            void remove.run(id).then((done) => {
              if (!done) return;
              dropDraft(key);
              void navigate({ to: '/policies' });
            })
          }
        >
          <p>
            {id.kind} in {cluster.name}. {summary ? deletionText(summary) : ''}
          </p>
        </Confirm>
      ) : null}
    </>
  );
}

/** What changes when a policy goes. */
function deletionText(summary: PolicySummary): string {
  if (summary.selects.length === 0) return 'It selects no pod now, so nothing that runs changes.';
  const where = summary.directions.join(' and ') || 'no direction';
  return `It selects ${plural(summary.selects.length, 'pod')} (${summary.selects.slice(0, 4).join(', ')}${summary.selects.length > 4 ? ', …' : ''}) and puts default deny on for ${where}. Pods that no other policy selects will admit everything there, at once.`;
}

function flowsFilter(summary: PolicySummary | undefined): string | undefined {
  if (!summary || summary.selects.length === 0) return undefined;
  return `pod:${summary.selects.slice(0, 8).join(',')}`;
}

const severities = {
  error: { icon: IconCircleX, colour: 'var(--bad)' },
  warning: { icon: IconAlertTriangle, colour: 'var(--warn)' },
  info: { icon: IconInfoCircle, colour: 'var(--info)' },
} as const;

interface FindingsProps {
  readonly problems: readonly PolicyProblem[];
  readonly selects: readonly string[];
  readonly meaning: readonly string[];
  readonly onGoTo: (line: number, column: number) => void;
}

function Findings({ problems, selects, meaning, onGoTo }: FindingsProps) {
  const navigate = useNavigate();
  return (
    <>
      <Section title={problems.length === 0 ? 'Problems: none' : `Problems: ${problems.length}`}>
        {problems.length === 0 ? (
          <p className="muted">The text is complete, and every field is known.</p>
        ) : (
          problems.map((problem) => {
            const { icon: Icon, colour } = severities[problem.severity];
            return (
              <button
                key={`${problem.code} ${problem.path} ${problem.line}`}
                type="button"
                className={styles.problem}
                onClick={() => onGoTo(problem.line || 1, problem.column || 1)}
              >
                <Icon size={15} color={colour} aria-label={problem.severity} />
                <b>{problem.what}</b>
                <span>{problem.why}</span>
                <span style={{ color: 'var(--accent)' }}>{problem.fix}</span>
                <span className="muted mono">
                  {problem.line > 0 ? `line ${problem.line}` : ''} {problem.path}
                </span>
              </button>
            );
          })
        )}
      </Section>
      {meaning.length > 0 ? (
        <Section title="What it means">
          <ul className={styles.meaning}>
            {meaning.map((sentence) => (
              <li key={sentence}>{sentence}</li>
            ))}
          </ul>
        </Section>
      ) : null}
      <Section title={`Selects ${plural(selects.length, 'pod')} now`}>
        {selects.length === 0 ? (
          <p className="muted">No running pod has these labels.</p>
        ) : (
          <div style={{ display: 'flex', flexWrap: 'wrap', gap: 4 }}>
            {selects.slice(0, 60).map((pod) => (
              <ChipButton
                key={pod}
                title="Show in topology"
                onClick={() =>
                  void navigate({ to: '/topology', search: { scope: 'pod', select: `pod:${pod}` } as never })
                }
              >
                {pod}
              </ChipButton>
            ))}
            {selects.length > 60 ? (
              <Status tone="idle" icon={IconInfoCircle} plain>{`and ${selects.length - 60} more`}</Status>
            ) : null}
          </div>
        )}
      </Section>
    </>
  );
}

function About({ summary }: { readonly summary: PolicySummary }) {
  return (
    <Section title="In the cluster">
      <Facts
        items={[
          [
            'Selector',
            <span key="s" className="mono">
              {summary.selector}
            </span>,
          ],
          ['Default deny', summary.directions.join(' and ') || 'none'],
          ['Enforced on', `${summary.enforcedOn} of ${plural(summary.expectedOn, 'node')}`],
          ['Description', summary.description],
          ['Managed by', summary.managedBy],
          ['Created', `${formatAge(summary.createdAt, Date.now())} ago`],
        ]}
      />
    </Section>
  );
}
