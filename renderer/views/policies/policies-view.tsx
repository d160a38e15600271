import { Button, Menu, TextInput } from '@mantine/core';
import { IconChevronDown, IconPlus, IconSearch, IconShieldLock } from '@tabler/icons-react';
import { useNavigate, useParams, useRouterState, useSearch } from '@tanstack/react-router';
import { useMemo, useRef } from 'react';
import type { Cluster } from '../../../contract/clusters.ts';
import { type PolicyId, type PolicySummary, policyKindSchema } from '../../../contract/policies.ts';
import { useClusters, writeBlocked } from '../../app/clusters.tsx';
import { NeedsCluster } from '../../app/needs-cluster.tsx';
import { useShortcuts } from '../../app/shortcuts.ts';
import { useLatest } from '../../app/streams.ts';
import { useNow } from '../../app/top-bar.tsx';
import { type Column, DataGrid } from '../../ui/data-grid.tsx';
import { formatAge, plural } from '../../ui/format.ts';
import { Empty, FailureCard, ReasonedButton, SkeletonRows, Spacer, Toolbar } from '../../ui/pieces.tsx';
import styles from './policies.module.css';
import { PolicyEditor } from './policy-editor.tsx';
import { PolicyStatus, policyTitle } from './policy-pieces.tsx';
import { templates } from './templates.ts';

/** Policies of a cluster: the list, or one of them in the editor. */
export function PoliciesView() {
  return <NeedsCluster>{(cluster) => <Policies key={cluster.id} cluster={cluster} />}</NeedsCluster>;
}

function Policies({ cluster }: { readonly cluster: Cluster }) {
  const params = useParams({ strict: false }) as { kind?: string; namespace?: string; name?: string };
  const search = useSearch({ strict: false }) as { find?: string; new?: string; template?: string };
  const creating = useRouterState({ select: (state) => state.location.pathname === '/policies/new' });
  const navigate = useNavigate();
  const list = useLatest<{ readonly policies: readonly PolicySummary[] }>(
    `policies ${cluster.id}`,
    (client, handlers) => client.policies.watch({ cluster: cluster.id }, handlers),
  );
  const kind = policyKindSchema.safeParse(params.kind);
  if (kind.success && params.name) {
    const id: PolicyId = {
      kind: kind.data,
      namespace: params.namespace === '-' ? '' : (params.namespace ?? ''),
      name: params.name,
    };
    const summary = list.value?.policies.find(
      (one) => one.id.kind === id.kind && one.id.namespace === id.namespace && one.id.name === id.name,
    );
    return (
      <PolicyEditor
        key={`${id.kind} ${id.namespace} ${id.name}`}
        cluster={cluster}
        id={id}
        summary={summary}
        listed={list.value !== undefined}
        template={undefined}
      />
    );
  }
  const template = templates.find((one) => one.id === (search.template ?? search.new));
  if (template)
    return (
      <PolicyEditor
        key={`new ${template.id}`}
        cluster={cluster}
        id={undefined}
        summary={undefined}
        listed={false}
        template={template}
      />
    );
  if (creating || search.new) return <ChooseTemplate />;
  return (
    <PolicyList
      cluster={cluster}
      list={list}
      find={search.find ?? ''}
      onFind={(find) => void navigate({ to: '/policies', replace: true, search: { find: find || undefined } as never })}
    />
  );
}

function ChooseTemplate() {
  const navigate = useNavigate();
  return (
    <>
      <Toolbar label="New policy">
        <h1>New policy</h1>
        <Spacer />
        <Button variant="default" onClick={() => void navigate({ to: '/policies' })}>
          Cancel
        </Button>
      </Toolbar>
      <div style={{ overflow: 'auto' }}>
        <p className="muted" style={{ padding: '14px 16px 0' }}>
          Begin with a text that is close to what you want. Nothing is applied until you have seen its difference.
        </p>
        <div className={styles.templates}>
          {templates.map((template) => (
            <button
              key={template.id}
              type="button"
              className={styles.template}
              onClick={() => void navigate({ to: '/policies/new', search: { template: template.id } as never })}
            >
              <b>{template.title}</b>
              <span>{template.text}</span>
            </button>
          ))}
        </div>
      </div>
    </>
  );
}

/** Begins a policy from one of the templates. On a protected cluster it may still be written and dry-run. */
function NewPolicy({ blocked }: { readonly blocked: string | undefined }) {
  const navigate = useNavigate();
  const button = (
    <ReasonedButton leftSection={<IconPlus size={14} />} rightSection={<IconChevronDown size={13} />} blocked={blocked}>
      New policy
    </ReasonedButton>
  );
  if (blocked) return button;
  return (
    <Menu position="bottom-start" width={370} shadow="md" withInitialFocusPlaceholder={false}>
      <Menu.Target>
        <Button leftSection={<IconPlus size={14} />} rightSection={<IconChevronDown size={13} />}>
          New policy
        </Button>
      </Menu.Target>
      <Menu.Dropdown>
        {templates.map((template) => (
          <Menu.Item
            key={template.id}
            onClick={() => void navigate({ to: '/policies/new', search: { template: template.id } as never })}
          >
            <div>{template.title}</div>
            <div className="muted" style={{ whiteSpace: 'normal', fontSize: 12 }}>
              {template.text}
            </div>
          </Menu.Item>
        ))}
      </Menu.Dropdown>
    </Menu>
  );
}

interface PolicyListProps {
  readonly cluster: Cluster;
  readonly list: ReturnType<typeof useLatest<{ readonly policies: readonly PolicySummary[] }>>;
  readonly find: string;
  readonly onFind: (find: string) => void;
}

const shortKinds: Readonly<Record<PolicyId['kind'], string>> = {
  CiliumNetworkPolicy: 'CNP',
  CiliumClusterwideNetworkPolicy: 'CCNP',
  NetworkPolicy: 'NetworkPolicy',
};

function PolicyList({ cluster, list, find, onFind }: PolicyListProps) {
  const navigate = useNavigate();
  const now = useNow(30_000);
  const input = useRef<HTMLInputElement>(null);
  const { inventory } = useClusters();
  useShortcuts({
    '/': () => input.current?.focus(),
    n: () => void navigate({ to: '/policies/new' }),
  });
  const all = list.value?.policies;
  const rows = useMemo(() => {
    const words = find.toLowerCase().split(/\s+/).filter(Boolean);
    return (all ?? []).filter((policy) => {
      const text =
        `${policy.id.kind} ${policyTitle(policy.id)} ${policy.selector} ${policy.status} ${policy.managedBy} ${policy.selects.join(' ')}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }, [all, find]);
  const columns = useMemo<readonly Column<PolicySummary>[]>(
    () => [
      {
        id: 'kind',
        title: 'Kind',
        width: '116px',
        sort: (policy) => policy.id.kind,
        render: (policy) => <span title={policy.id.kind}>{shortKinds[policy.id.kind]}</span>,
      },
      {
        id: 'name',
        title: 'Name',
        width: 'minmax(190px, 1.8fr)',
        sort: (policy) => policyTitle(policy.id),
        render: (policy) => (
          <span title={policyTitle(policy.id)}>
            {policy.id.namespace ? <span className="muted">{policy.id.namespace}/</span> : null}
            <b>{policy.id.name}</b>
          </span>
        ),
      },
      {
        id: 'selector',
        title: 'Selector',
        width: 'minmax(150px, 1.5fr)',
        sort: (policy) => policy.selector,
        render: (policy) => (
          <span className="mono" title={policy.selector}>
            {policy.selector}
          </span>
        ),
      },
      {
        id: 'selects',
        title: 'Selects',
        width: '82px',
        end: true,
        sort: (policy) => policy.selects.length,
        render: (policy) => (
          <span style={policy.selects.length === 0 ? { color: 'var(--warn)' } : {}}>
            {policy.selects.length === 0 ? 'no pod' : plural(policy.selects.length, 'pod')}
          </span>
        ),
      },
      {
        id: 'directions',
        title: 'Default deny',
        width: '118px',
        sort: (policy) => policy.directions.join(),
        render: (policy) => policy.directions.join(', ') || '–',
      },
      {
        id: 'status',
        title: 'Status',
        width: '96px',
        sort: (policy) => policy.status,
        render: (policy) => (
          <span title={policy.problems.map((problem) => problem.what).join(' ') || undefined}>
            <PolicyStatus policy={policy} />
          </span>
        ),
      },
      {
        id: 'enforced',
        title: 'Enforced',
        width: '96px',
        sort: (policy) => policy.enforcedOn - policy.expectedOn,
        render: (policy) => (
          <span
            style={policy.enforcedOn < policy.expectedOn ? { color: 'var(--warn)', fontWeight: 600 } : {}}
          >{`${policy.enforcedOn}/${policy.expectedOn} nodes`}</span>
        ),
      },
      {
        id: 'managed',
        title: 'Managed by',
        width: 'minmax(84px, 0.7fr)',
        sort: (policy) => policy.managedBy,
        render: (policy) => <span title={policy.managedBy}>{policy.managedBy || '–'}</span>,
      },
      {
        id: 'age',
        title: 'Age',
        width: '64px',
        end: true,
        sort: (policy) => -policy.createdAt,
        render: (policy) => formatAge(policy.createdAt, now),
      },
    ],
    [now],
  );
  return (
    <>
      <Toolbar label="Policies">
        <NewPolicy blocked={cluster.source === 'recording' ? writeBlocked(cluster) : undefined} />
        <TextInput
          ref={input}
          aria-label="Filter policies"
          placeholder="Filter by name, namespace, label, pod, status  ( / )"
          leftSection={<IconSearch size={14} />}
          value={find}
          onChange={(event) => onFind(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === 'Escape') event.currentTarget.blur();
          }}
          w={380}
        />
        <Spacer />
        {all ? (
          <span className="muted">
            {rows.length === all.length ? plural(all.length, 'policy', 'policies') : `${rows.length} of ${all.length}`}
          </span>
        ) : null}
      </Toolbar>
      {list.failure ? (
        <div style={{ padding: 16, maxWidth: 800 }}>
          <FailureCard failure={list.failure} onRetry={list.retry} />
        </div>
      ) : null}
      {!all ? (
        list.failure ? null : (
          <SkeletonRows rows={12} label="Loading policies" />
        )
      ) : (
        <DataGrid
          label="Policies"
          rows={rows}
          columns={columns}
          rowKey={({ id }) => `${id.kind} ${id.namespace} ${id.name}`}
          rowHeight={30}
          initialSort={{ column: 'name', descending: false }}
          tone={(policy) =>
            policy.status === 'invalid'
              ? 'bad'
              : policy.selects.length === 0 || policy.enforcedOn < policy.expectedOn
                ? 'warn'
                : undefined
          }
          onSelect={({ id }) =>
            void navigate({
              to: '/policies/$kind/$namespace/$name',
              params: { kind: id.kind, namespace: id.namespace || '-', name: id.name },
            })
          }
          empty={
            all.length > 0 ? (
              <Empty
                icon={IconSearch}
                title="No policy fits"
                actions={<Button onClick={() => onFind('')}>Clear the filter</Button>}
              >
                Nothing among {plural(all.length, 'policy', 'policies')} has “{find}”.
              </Empty>
            ) : (
              <Empty
                icon={IconShieldLock}
                title="No policy yet: everything may talk to everything"
                actions={<Button onClick={() => void navigate({ to: '/policies/new' })}>Write the first policy</Button>}
              >
                {plural(inventory.value?.pods.length ?? 0, 'pod')} in {cluster.name} admit all traffic. A policy that
                selects a pod puts default deny on for it, in the directions that it names.
              </Empty>
            )
          }
        />
      )}
    </>
  );
}
