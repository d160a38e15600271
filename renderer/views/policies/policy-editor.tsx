import { ActionIcon, Button, Select, Tooltip } from '@mantine/core';
import { useDebouncedValue } from '@mantine/hooks';
import { IconArrowLeft, IconArrowsLeftRight, IconTrash } from '@tabler/icons-react';
import { Link, useNavigate } from '@tanstack/react-router';
import { lazy, Suspense, useEffect, useMemo, useRef, useState } from 'react';
import type { Cluster } from '../../../contract/clusters.ts';
import { type PolicyId, type PolicySummary, policyKindSchema } from '../../../contract/policies.ts';
import { useClusters, writeBlocked } from '../../app/clusters.tsx';
import { useBlocked, useDenied } from '../../app/rights.ts';
import { useAction, useProcedure } from '../../app/streams.ts';
import type { EditorHandle } from '../../ui/code/yaml-editor.tsx';
import type { Schema } from '../../ui/code/yaml-path.ts';
import { Confirm } from '../../ui/confirm.tsx';
import { Banner, FailureCard, ReasonedButton, SkeletonRows, Spacer, Toolbar } from '../../ui/pieces.tsx';
import { ApplyDialog } from './apply-dialog.tsx';
import { type Draft, draftKey, dropDraft, keepDraft, readDraft } from './drafts.ts';
import styles from './policies.module.css';
import { About, Findings } from './policy-findings.tsx';
import { PolicyStatus, policyTitle } from './policy-pieces.tsx';
import type { Template } from './templates.ts';

const YamlEditor = lazy(async () => ({ default: (await import('../../ui/code/yaml-editor.tsx')).YamlEditor }));

interface PolicyEditorProps {
  readonly cluster: Cluster;
  /** The policy that is edited; undefined for a new one. */
  readonly id: PolicyId | undefined;
  readonly summary: PolicySummary | undefined;
  /** True once the cluster's policies are known, so that a missing summary means a missing policy. */
  readonly listed: boolean;
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
export function PolicyEditor({ cluster, id, summary, listed, template }: PolicyEditorProps) {
  const { inventory } = useClusters();
  const namespaces = useMemo(() => inventory.value?.namespaces.map((one) => one.name) ?? [], [inventory.value]);
  const [namespace, setNamespace] = useState(() =>
    namespaces.includes('default') ? 'default' : (namespaces[0] ?? 'default'),
  );
  const key = draftKey(cluster.id, id ? `${id.kind} ${policyTitle(id)}` : `new ${template?.id}`);
  const [restored, setRestored] = useState(() => readDraft(key) !== undefined);
  const [draft, setDraft] = useState<Draft | undefined>(
    () => readDraft(key) ?? (template ? { text: template.yaml(namespace), base: '', resourceVersion: '' } : undefined),
  );
  const wanted = id !== undefined;
  const read = useProcedure(
    `policy ${cluster.id} ${key}`,
    wanted ? (client, signal) => client.policies.read({ cluster: cluster.id, id }, { signal }) : undefined,
  );
  // The cluster's text is taken over while nothing has been written here; a draft is kept, and said to be older.
  useEffect(() => {
    const value = read.value;
    if (!value) return;
    setDraft((old) =>
      old === undefined || old.text === old.base || old.text === value.text
        ? { text: value.text, base: value.text, resourceVersion: value.resourceVersion }
        : old,
    );
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
  const start = template?.yaml(namespace);
  return (
    <LoadedEditor
      cluster={cluster}
      id={id}
      summary={summary}
      listed={listed}
      draft={draft}
      pristine={start ?? draft.base}
      draftKey={key}
      latest={read.value}
      restored={restored}
      onRestoredSeen={() => setRestored(false)}
      namespaces={
        start !== undefined && draft.text === start && template?.namespaced
          ? { all: namespaces, chosen: namespace }
          : undefined
      }
      onNamespace={(next) => {
        setNamespace(next);
        if (template) setDraft({ text: template.yaml(next), base: '', resourceVersion: '' });
      }}
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
  readonly listed: boolean;
  readonly draft: Draft;
  /** The text before anything was written here. */
  readonly pristine: string;
  readonly draftKey: string;
  /** What the cluster had when it was last read. */
  readonly latest: { readonly text: string; readonly resourceVersion: string } | undefined;
  /** True while the text is one that was kept from earlier. */
  readonly restored: boolean;
  readonly onRestoredSeen: () => void;
  /** Namespaces that an untouched template can be written for. */
  readonly namespaces: { readonly all: readonly string[]; readonly chosen: string } | undefined;
  readonly onNamespace: (namespace: string) => void;
  readonly onDraft: (draft: Draft) => void;
  readonly onReread: () => void;
}

function LoadedEditor(props: LoadedEditorProps) {
  const { cluster, id, summary, draft, pristine, draftKey: key, namespaces, onDraft, onReread } = props;
  const navigate = useNavigate();
  const editor = useRef<EditorHandle | undefined>(undefined);
  const [applying, setApplying] = useState(false);
  const [deleting, setDeleting] = useState(false);
  const [settled] = useDebouncedValue(draft.text, 250);
  const dirty = draft.text !== pristine;
  const { kept, leave } = useKeptDraft(key, draft, dirty);
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
  const listedBefore = useRef(false);
  if (summary) listedBefore.current = true;
  const gone = id !== undefined && props.listed && !summary && listedBefore.current && !remove.pending;
  const written = checked?.id ?? id;
  const removeBlocked = useBlocked(`policies.remove.${id?.kind ?? kind}`, id?.namespace);
  // The API server asks for the right to write also where it is only asked what it would store.
  const storeDenied = useDenied(
    `policies.${id && !gone ? 'update' : 'create'}.${written?.kind ?? kind}`,
    written?.namespace,
  );
  const recorded = cluster.source === 'recording';
  const errors = problems.filter((problem) => problem.severity === 'error').length;
  const dryRunBlocked =
    (recorded ? writeBlocked(cluster) : storeDenied) ??
    (id && !dirty && !gone ? 'Nothing has been changed.' : undefined) ??
    (errors > 0 ? 'The text has errors: they are listed at the right.' : undefined);
  const submit = () => {
    if (!dryRunBlocked) setApplying(true);
  };
  const showList = () => leave(() => void navigate({ to: '/policies' }));
  return (
    <>
      <EditorBar cluster={cluster} id={id} summary={summary}>
        {dirty && id ? (
          <Button variant="subtle" onClick={() => onDraft({ ...draft, text: pristine })}>
            Discard changes
          </Button>
        ) : null}
        {namespaces ? (
          <Select
            aria-label="Namespace of the new policy"
            searchable
            w={190}
            data={[...namespaces.all]}
            value={namespaces.chosen}
            onChange={(value) => value && props.onNamespace(value)}
          />
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
              blocked={gone ? 'It has been deleted already.' : removeBlocked}
              onClick={() => setDeleting(true)}
            >
              Delete
            </ReasonedButton>
          </>
        ) : (
          <Button variant="default" onClick={showList}>
            Discard
          </Button>
        )}
        <ReasonedButton
          blocked={dryRunBlocked}
          hint="Asks the server what it would store, and shows the difference (Ctrl Enter)"
          onClick={submit}
        >
          Dry run
        </ReasonedButton>
      </EditorBar>
      <Notices {...props} dirty={dirty} gone={gone} kept={kept} />
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
                readOnly={recorded}
                onSubmit={submit}
                onReady={(handle) => {
                  editor.current = handle;
                }}
              />
            </Suspense>
          </div>
        </div>
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
          id={checked?.id}
          expectsNew={id === undefined}
          text={draft.text}
          resourceVersion={gone ? '' : draft.resourceVersion}
          onClose={() => setApplying(false)}
          onReread={onReread}
          onCreateAgain={() => onDraft({ ...draft, resourceVersion: '' })}
          onApplied={(applied) => {
            setApplying(false);
            if (id && policyTitle(applied) === policyTitle(id) && applied.kind === id.kind) {
              onDraft({ text: draft.text, base: draft.text, resourceVersion: '' });
              onReread();
            } else {
              const { kind: of, namespace, name } = applied;
              const params = { kind: of, namespace: namespace || '-', name };
              leave(() => void navigate({ to: '/policies/$kind/$namespace/$name', params }));
            }
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
          onConfirm={() => void remove.run(id).then((done) => done && showList())}
        >
          <p>
            {id.kind} in {cluster.name}. {summary ? deletionText(summary) : ''}
          </p>
          {summary && summary.selects.length > 0 ? (
            <ul className={styles.losing} aria-label="Pods that lose it">
              {summary.selects.slice(0, 12).map((pod) => (
                <li key={pod} className="mono">
                  {pod}
                </li>
              ))}
              {summary.selects.length > 12 ? <li>and {summary.selects.length - 12} more</li> : null}
            </ul>
          ) : null}
          {dirty ? <p>What you have written here and not applied is discarded with it.</p> : null}
        </Confirm>
      ) : null}
    </>
  );
}

/** Keeps what is written while it differs from where it began, and warns before the page is left with it. */
function useKeptDraft(key: string, draft: Draft, dirty: boolean) {
  const [kept, setKept] = useState(true);
  const leaving = useRef(false);
  useEffect(() => {
    if (leaving.current) return;
    if (dirty) setKept(keepDraft(key, draft));
    else dropDraft(key);
  }, [dirty, draft, key]);
  useEffect(() => {
    if (!dirty) return;
    const warn = (event: BeforeUnloadEvent) => event.preventDefault();
    window.addEventListener('beforeunload', warn);
    return () => window.removeEventListener('beforeunload', warn);
  }, [dirty]);
  /** Leaves without keeping the text: it was applied, deleted or discarded on purpose. */
  const leave = (go: () => void) => {
    leaving.current = true;
    dropDraft(key);
    go();
  };
  return { kept, leave };
}

interface NoticesProps extends LoadedEditorProps {
  readonly dirty: boolean;
  readonly gone: boolean;
  readonly kept: boolean;
}

/** What must not be missed about this text: restored, changed or deleted meanwhile, managed by something else. */
function Notices({
  summary,
  draft,
  pristine,
  latest,
  restored,
  dirty,
  gone,
  kept,
  onDraft,
  onRestoredSeen,
}: NoticesProps) {
  const changedMeanwhile =
    latest !== undefined && draft.resourceVersion !== '' && latest.resourceVersion !== draft.resourceVersion;
  const takeTheirs = () => {
    onRestoredSeen();
    onDraft(
      latest
        ? { text: latest.text, base: latest.text, resourceVersion: latest.resourceVersion }
        : { ...draft, text: pristine },
    );
  };
  return (
    <>
      {summary?.managedBy ? (
        <Banner tone="warn">
          This policy is managed by {summary.managedBy}: changes made here will be reverted by it.
        </Banner>
      ) : null}
      {restored && dirty ? (
        <Banner
          tone="info"
          actions={
            <>
              <Button size="compact-xs" variant="default" onClick={takeTheirs}>
                Discard it
              </Button>
              <Button size="compact-xs" variant="default" onClick={onRestoredSeen}>
                Keep it
              </Button>
            </>
          }
        >
          What you wrote here earlier has been restored. It has not been applied.
        </Banner>
      ) : null}
      {gone ? (
        <Banner tone="bad">
          This policy is no longer in the cluster: it was deleted. Applying this text creates it again.
        </Banner>
      ) : null}
      {changedMeanwhile && !gone ? (
        <Banner
          tone="warn"
          actions={
            <>
              <Button size="compact-xs" variant="default" onClick={takeTheirs}>
                Take the cluster’s version
              </Button>
              <Button
                size="compact-xs"
                variant="default"
                onClick={() =>
                  onDraft({ text: draft.text, base: latest.text, resourceVersion: latest.resourceVersion })
                }
              >
                Keep my text
              </Button>
            </>
          }
        >
          The policy was changed in the cluster since you began. Your text is kept; the next dry run compares it with
          what is there now.
        </Banner>
      ) : null}
      {kept ? null : (
        <Banner tone="bad">The browser has no room to keep this draft. Apply it or copy it before leaving.</Banner>
      )}
    </>
  );
}

/** What changes when a policy goes; the pods are listed below it. */
function deletionText(summary: PolicySummary): string {
  if (summary.selects.length === 0) return 'It selects no pod now, so nothing that runs changes.';
  const where = summary.directions.join(' and ') || 'no direction';
  const pods = summary.selects.length === 1 ? 'One pod loses it' : `${summary.selects.length} pods lose it`;
  return `${pods}, and with it the default deny for ${where}. What no other policy selects will admit everything there, at once:`;
}

function flowsFilter(summary: PolicySummary | undefined): string | undefined {
  if (!summary || summary.selects.length === 0) return undefined;
  return `pod:${summary.selects.slice(0, 8).join(',')}`;
}
