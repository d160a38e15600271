import { Button, NumberInput, Select, Switch } from '@mantine/core';
import { IconCircleMinus, IconCirclePlus, IconEqual, IconPencil, type TablerIcon } from '@tabler/icons-react';
import { lazy, Suspense, useState } from 'react';
import type { Failure } from '../../../contract/failure.ts';
import type { Plan } from '../../../contract/install.ts';
import { Confirm } from '../../ui/confirm.tsx';
import { download } from '../../ui/download.ts';
import { plural } from '../../ui/format.ts';
import { Banner, FailureCard, ReasonedButton, SkeletonRows, Spacer } from '../../ui/pieces.tsx';
import { Status, type Tone } from '../../ui/status.tsx';
import styles from './clusters.module.css';

const DiffView = lazy(async () => ({ default: (await import('../../ui/code/diff-view.tsx')).DiffView }));

type Action = Plan['objects'][number]['action'];

const looks: Readonly<Record<Action, { readonly tone: Tone; readonly icon: TablerIcon }>> = {
  create: { tone: 'ok', icon: IconCirclePlus },
  update: { tone: 'warn', icon: IconPencil },
  unchanged: { tone: 'idle', icon: IconEqual },
  delete: { tone: 'bad', icon: IconCircleMinus },
};

const imageTexts: Readonly<Record<Plan['nodes'][number]['image'], string>> = {
  present: 'image is there',
  'side-load': 'image is brought over SSH',
  pull: 'image is pulled',
  unknown: 'image: not known',
};

/** How the operator wants the nodes to be gone through. */
export interface RolloutWish {
  readonly canary?: string;
  readonly batch?: number;
  readonly restart?: boolean;
  readonly kubeProxy?: 'keep' | 'remove' | 'restore';
  /** Nodes that do not answer and that kube-proxy's removal goes on without. */
  readonly leaveOut?: readonly string[];
}

interface InstallPlanProps {
  readonly plan: Plan;
  readonly rollout: RolloutWish;
  /** A new plan is being made. */
  readonly planning: boolean;
  readonly onRollout: (wish: RolloutWish) => void;
  readonly blocked: string | undefined;
  readonly pending: boolean;
  readonly failure: Failure | undefined;
  readonly onBack: () => void;
  readonly onApply: () => void;
}

/** What would be done: what stands in the way, what happens on each node, each object with its difference. */
export function InstallPlan(props: InstallPlanProps) {
  const { plan, blocked, pending, failure, onBack, onApply } = props;
  const [open, setOpen] = useState<string | undefined>(undefined);
  const counts = (['create', 'update', 'delete', 'unchanged'] as const)
    .map((action) => ({ action, count: plan.objects.filter((object) => object.action === action).length }))
    .filter((one) => one.count > 0);
  const verb = { install: 'Install', upgrade: 'Upgrade', rollback: 'Roll back', uninstall: 'Uninstall' }[plan.action];
  return (
    <div className={styles.box}>
      <div className={styles.boxHead}>
        <h2>Plan: {verb.toLowerCase()}</h2>
        {counts.map(({ action, count }) => (
          <Status key={action} tone={looks[action].tone} icon={looks[action].icon}>
            {count} {action}
          </Status>
        ))}
        <span className="muted">Nothing has been written yet.</span>
        <Spacer />
        {plan.action === 'uninstall' ? null : (
          <Button
            variant="default"
            size="compact-sm"
            onClick={() => download('fairlead.yaml', manifestsOf(plan), 'text/yaml')}
          >
            Export manifests
          </Button>
        )}
      </div>
      {plan.warnings.map((warning) => (
        <Banner key={warning} tone="warn">
          {warning}
        </Banner>
      ))}
      {plan.obstacles.length > 0 ? (
        <div className={styles.boxBody} style={{ display: 'grid', gap: 8 }}>
          <h3>To be put right first</h3>
          {plan.obstacles.map((obstacle) => (
            <FailureCard key={`${obstacle.code} ${obstacle.what}`} failure={obstacle} />
          ))}
        </div>
      ) : null}
      <div className={styles.boxBody}>
        <h3 style={{ marginBottom: 6 }}>On {plural(plan.nodes.length, 'node')}</h3>
        {plan.action === 'uninstall' ? null : <Order {...props} />}
        <KubeProxy {...props} />
        {plan.nodes.map((node) => (
          <div
            key={node.name}
            style={{ display: 'grid', gridTemplateColumns: '86px 220px 1fr', gap: 10, padding: '3px 0' }}
          >
            <b className="clip" title={node.name}>
              {node.name}
            </b>
            <span className="muted">{imageTexts[node.image]}</span>
            <span>{node.changes.join(' · ')}</span>
          </div>
        ))}
      </div>
      <div className={styles.boxBody} style={{ borderTop: '1px solid var(--line)' }}>
        <h3 style={{ marginBottom: 6 }}>In the cluster</h3>
        {plan.objects.map((object) => {
          const key = `${object.kind} ${object.namespace} ${object.name}`;
          const look = looks[object.action];
          return (
            <div key={key}>
              <button
                type="button"
                className={styles.object}
                aria-expanded={open === key}
                onClick={() => setOpen(open === key ? undefined : key)}
              >
                <Status plain tone={look.tone} icon={look.icon}>
                  {object.action}
                </Status>
                <span className="clip">{object.kind}</span>
                <span className="clip mono">
                  {object.namespace ? `${object.namespace}/${object.name}` : object.name}
                </span>
              </button>
              {open === key ? (
                <Suspense fallback={<SkeletonRows rows={4} />}>
                  <DiffView before={object.before} after={object.after} height={260} />
                </Suspense>
              ) : null}
            </div>
          );
        })}
      </div>
      <div className={styles.boxBody} style={{ borderTop: '1px solid var(--line)' }}>
        {failure ? (
          <div style={{ marginBottom: 10 }}>
            <FailureCard failure={failure} />
          </div>
        ) : null}
        <div className={styles.footer}>
          <span className="muted mono">{plan.digest}</span>
          <Button variant="default" onClick={onBack} autoFocus={plan.action === 'uninstall'}>
            {plan.action === 'uninstall' ? 'Cancel' : 'Back'}
          </Button>
          <ReasonedButton
            blocked={
              blocked ?? (plan.obstacles.length > 0 ? 'The obstacles above must be put right first.' : undefined)
            }
            loading={pending}
            {...(plan.action === 'uninstall' ? { color: 'var(--bad)' } : {})}
            onClick={onApply}
          >
            {plan.action === 'install' ? 'Apply' : `${verb}…`}
          </ReasonedButton>
        </div>
      </div>
    </div>
  );
}

/** Who else translates services, and the operator's word about it: kube-proxy stays unless it is told to go. */
function KubeProxy({ plan, rollout, planning, onRollout }: InstallPlanProps) {
  const { kind, text, change, unfinished, silent, leavesOut } = plan.kubeProxy;
  const [asking, setAsking] = useState(false);
  if (kind === 'none') return null;
  const removable = kind === 'daemonset' || (kind === 'removed' && unfinished);
  // Another wish begins anew: who is left out is said for this one.
  const { leaveOut: _leaveOut, ...others } = rollout;
  const wish = (kubeProxy: RolloutWish['kubeProxy']) => onRollout({ ...others, ...(kubeProxy ? { kubeProxy } : {}) });
  const one = silent.length === 1;
  return (
    <section aria-label="kube-proxy" style={{ display: 'grid', gap: 8, margin: '4px 0 12px' }}>
      <h3>kube-proxy</h3>
      <p className="muted" style={{ maxWidth: '75ch' }}>
        {text}
      </p>
      {plan.action === 'uninstall' || plan.action === 'rollback' ? (
        change === 'restore' ? (
          <p>It is brought back before anything else is changed.</p>
        ) : null
      ) : (
        <div style={{ display: 'flex', flexWrap: 'wrap', gap: 14 }}>
          {removable ? (
            <Switch
              label={
                kind === 'removed'
                  ? 'Go on removing kube-proxy'
                  : 'Remove kube-proxy once the agents translate services'
              }
              description="Its DaemonSet is kept in the cluster and can be brought back at any time."
              checked={rollout.kubeProxy === 'remove'}
              disabled={planning}
              onChange={(event) => wish(event.currentTarget.checked ? 'remove' : 'keep')}
            />
          ) : null}
          {kind === 'removed' ? (
            <Switch
              label="Bring kube-proxy back"
              description="Before anything else is changed."
              checked={change === 'restore'}
              disabled={planning}
              onChange={(event) => wish(event.currentTarget.checked ? 'restore' : 'keep')}
            />
          ) : null}
        </div>
      )}
      {silent.length > 0 ? (
        <div>
          <Button variant="default" size="compact-sm" disabled={planning} onClick={() => setAsking(true)}>
            Go on without {one ? silent[0] : plural(silent.length, 'node')}…
          </Button>
        </div>
      ) : null}
      {leavesOut.length > 0 ? (
        <p>
          Left out: <b>{leavesOut.join(', ')}</b>
        </p>
      ) : null}
      <Confirm
        opened={asking}
        title={`Remove kube-proxy without ${one ? silent[0] : plural(silent.length, 'node')}?`}
        danger
        typed={silent.length > 3 ? plural(silent.length, 'node') : silent.join(' ')}
        confirm="Leave out"
        onClose={() => setAsking(false)}
        onConfirm={() => {
          setAsking(false);
          onRollout({ ...rollout, leaveOut: [...(rollout.leaveOut ?? []), ...silent] });
        }}
      >
        <p>
          <b>{silent.join(', ')}</b> {one ? 'does' : 'do'} not answer. Nobody can tell whether the agent there
          translates services, and nothing is done there now. When {one ? 'it is' : 'they are'} back, kube-proxy does
          not come up there any more: services work by the agent alone. Rules that kube-proxy has left stay until{' '}
          {one ? 'the node is' : 'the nodes are'} booted anew, or until you go on removing it.
        </p>
        <p>The plan is made again and says so; nothing is written before you apply it.</p>
      </Confirm>
    </section>
  );
}

/** The objects of a plan as one file for a repository; secrets are made in the cluster and belong in none. */
export function manifestsOf(plan: Plan): string {
  return plan.objects
    .filter((object) => object.kind !== 'Secret' && object.after !== '')
    .map((object) => `---\n${object.after.trimEnd()}\n`)
    .join('');
}

/** Who goes first, how many follow at a time, and whether pods of another plugin are restarted. */
function Order({ plan, rollout, planning, onRollout }: InstallPlanProps) {
  const [canary] = plan.batches[0] ?? [];
  const batch = plan.batches[1]?.length ?? 0;
  return (
    <div style={{ display: 'flex', flexWrap: 'wrap', gap: 14, alignItems: 'end', marginBottom: 10 }}>
      <Select
        label="First, alone (canary)"
        value={canary ?? null}
        data={plan.nodes.map((node) => node.name)}
        disabled={planning}
        allowDeselect={false}
        onChange={(name) => name && onRollout({ ...rollout, canary: name })}
      />
      <NumberInput
        label="Then at a time"
        value={batch}
        min={1}
        max={Math.max(1, plan.nodes.length - 1)}
        disabled={planning || plan.nodes.length < 3}
        onChange={(size) =>
          Number(size) > 0 && Number(size) !== batch && onRollout({ ...rollout, batch: Number(size) })
        }
      />
      <Switch
        label="Restart pods that another plugin connected"
        description={
          rollout.restart
            ? `${plural(plan.restarts.length, 'pod')}: ${plan.restarts.map((pod) => `${pod.namespace}/${pod.name}`).join(', ') || 'none'}`
            : 'For moving over from another plugin: such pods have no network until then.'
        }
        checked={rollout.restart ?? false}
        disabled={planning}
        onChange={(event) => onRollout({ ...rollout, restart: event.currentTarget.checked })}
      />
    </div>
  );
}
