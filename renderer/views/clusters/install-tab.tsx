import { useState } from 'react';
import type { Cluster } from '../../../contract/clusters.ts';
import type { InstallProgress, Plan } from '../../../contract/install.ts';
import type { Values } from '../../../contract/values.ts';
import { useClusters } from '../../app/clusters.tsx';
import { useBlocked } from '../../app/rights.ts';
import { useAction, useLatest, useProcedure } from '../../app/streams.ts';
import { Confirm } from '../../ui/confirm.tsx';
import { Banner, Facts, FailureCard, ReasonedButton, SkeletonRows } from '../../ui/pieces.tsx';
import styles from './clusters.module.css';
import { InstallLast } from './install-last.tsx';
import { InstallPlan, type RolloutWish } from './install-plan.tsx';
import { InstallProgressList } from './install-progress.tsx';
import { InstallValues } from './install-values.tsx';

type Step =
  | { readonly at: 'overview' }
  | { readonly at: 'values'; readonly action: 'install' | 'upgrade' }
  | { readonly at: 'plan'; readonly plan: Plan }
  | { readonly at: 'progress' };

const verbs: Readonly<Record<Plan['action'], string>> = {
  install: 'Install',
  upgrade: 'Upgrade',
  rollback: 'Roll back',
  uninstall: 'Uninstall',
};

/** Installs, upgrades and uninstalls the agent: values, then a plan that writes nothing, then the apply node by node. */
export function InstallTab({ cluster }: { readonly cluster: Cluster }) {
  const id = cluster.id;
  const { inventory } = useClusters();
  const [step, setStep] = useState<Step>({ at: 'overview' });
  const [edited, setEdited] = useState<Values | undefined>(undefined);
  const [asking, setAsking] = useState(false);
  const status = useProcedure(`install ${id}`, (client, signal) => client.install.status({ cluster: id }, { signal }));
  const [rollout, setRollout] = useState<RolloutWish>({});
  const plan = useAction((client, action: Plan['action'], values: Values, wish: RolloutWish) =>
    client.install.plan({ cluster: id, action, values, rollout: wish }),
  );
  const apply = useAction((client, digest: string) => client.install.apply({ cluster: id, digest }));
  const stop = useAction((client) => client.install.stop({ cluster: id }));
  const [round, setRound] = useState(0);
  const progress = useLatest<InstallProgress>(`progress ${id} ${round}`, (client, handlers) =>
    client.install.watch({ cluster: id }, handlers),
  );
  const running = progress.value?.state === 'running';
  const blocked = {
    install: useBlocked('install.install'),
    upgrade: useBlocked('install.upgrade'),
    // Going back changes the same objects as going on.
    rollback: useBlocked('install.upgrade'),
    uninstall: useBlocked('install.uninstall'),
  };

  if (!status.value) {
    return (
      <div className={styles.scroll}>
        {status.failure ? (
          <div style={{ padding: 16 }}>
            <FailureCard failure={status.failure} onRetry={status.retry} />
          </div>
        ) : (
          <SkeletonRows rows={10} label="Reading what is installed" />
        )}
      </div>
    );
  }
  const known = status.value;
  const values = edited ?? known.values ?? known.suggested;
  const makePlan = async (action: Plan['action'], chosen: Values = values, wish: RolloutWish = rollout) => {
    setRollout(wish);
    setEdited(chosen);
    const made = await plan.run(action, chosen, wish);
    if (made) setStep({ at: 'plan', plan: made });
  };
  const start = async (chosen: Plan) => {
    const started = await apply.run(chosen.digest);
    setAsking(false);
    if (!started) return;
    setRound((value) => value + 1);
    setStep({ at: 'progress' });
  };
  const home = () => {
    setStep({ at: 'overview' });
    setEdited(undefined);
    setRollout({});
    status.retry();
  };
  const showProgress = step.at === 'progress' || (running && step.at === 'overview');
  return (
    <div className={styles.scroll} tabIndex={0} role="region" aria-label="Installation">
      <div className={styles.install}>
        {showProgress && progress.value ? (
          <InstallProgressList
            progress={progress.value}
            stopping={stop.pending}
            onStop={() => void stop.run()}
            onDone={home}
          />
        ) : showProgress ? (
          progress.failure ? (
            <FailureCard failure={progress.failure} onRetry={progress.retry} />
          ) : (
            <SkeletonRows rows={8} label="Starting" />
          )
        ) : step.at === 'plan' ? (
          <InstallPlan
            plan={step.plan}
            blocked={blocked[step.plan.action]}
            pending={apply.pending}
            failure={apply.failure}
            rollout={rollout}
            planning={plan.pending}
            onRollout={(wish) => void makePlan(step.plan.action, values, wish)}
            onBack={() => {
              const { action } = step.plan;
              setStep(action === 'install' || action === 'upgrade' ? { at: 'values', action } : { at: 'overview' });
            }}
            onApply={() => (step.plan.action === 'install' ? void start(step.plan) : setAsking(true))}
          />
        ) : step.at === 'values' ? (
          <InstallValues
            cluster={id}
            values={values}
            installed={known.values}
            profiles={known.profiles}
            suggested={known.suggested}
            reasons={known.reasons}
            onChange={setEdited}
            onCancel={home}
            planning={plan.pending}
            failure={plan.failure}
            onPlan={() => void makePlan(step.action)}
          />
        ) : (
          <div className={styles.box}>
            <div className={styles.boxHead}>
              <h2>
                {known.installed
                  ? `Fairlead’s agent ${known.version} is installed`
                  : 'Fairlead’s agent is not installed'}
              </h2>
            </div>
            <div className={styles.boxBody} style={{ display: 'grid', gap: 14 }}>
              <p className="muted" style={{ maxWidth: '75ch' }}>
                {known.installed
                  ? 'An upgrade keeps the values and changes only what you change. The network goes on while agents are replaced. An uninstall removes everything that the agent has put on any node.'
                  : 'The agent is one small program per node that carries the pod network in eBPF, enforces policies and reports flows. First you see a plan; nothing is written before you apply it.'}
              </p>
              <Facts
                items={[
                  ['Image carried', known.image || 'none was built: run the build first'],
                  ['Nodes', inventory.value?.nodes.length],
                  known.values
                    ? [
                        'Routing',
                        known.values.routingMode === 'tunnel' ? `tunnel (${known.values.tunnelProtocol})` : 'native',
                      ]
                    : undefined,
                  known.values ? ['Policy enforcement', known.values.policyEnforcementMode] : undefined,
                ]}
              />
              {plan.failure ? <FailureCard failure={plan.failure} /> : null}
              {known.last && !running ? (
                <InstallLast
                  last={known.last}
                  installed={known.installed}
                  blocked={known.installed ? blocked.upgrade : blocked.install}
                  pending={plan.pending}
                  onResume={(before) => void makePlan(known.installed ? 'upgrade' : 'install', before)}
                  onRollBack={() => void makePlan('rollback')}
                />
              ) : null}
              {known.kubeProxy.kind === 'removed' && known.installed ? (
                <Banner
                  tone="info"
                  actions={
                    <ReasonedButton
                      variant="default"
                      size="compact-sm"
                      blocked={blocked.upgrade}
                      loading={plan.pending}
                      onClick={() => void makePlan('upgrade', known.values ?? values, { kubeProxy: 'restore' })}
                    >
                      Bring kube-proxy back…
                    </ReasonedButton>
                  }
                >
                  {known.kubeProxy.text}
                </Banner>
              ) : null}
              <div className={styles.footer} style={{ justifyContent: 'flex-start' }}>
                {known.installed ? (
                  <>
                    <ReasonedButton
                      blocked={blocked.upgrade}
                      onClick={() => setStep({ at: 'values', action: 'upgrade' })}
                    >
                      Change values or upgrade…
                    </ReasonedButton>
                    <ReasonedButton
                      variant="default"
                      blocked={blocked.uninstall}
                      loading={plan.pending}
                      onClick={() => void makePlan('uninstall')}
                    >
                      Uninstall…
                    </ReasonedButton>
                  </>
                ) : (
                  <ReasonedButton
                    blocked={blocked.install ?? (known.image ? undefined : 'No image was built on this machine.')}
                    onClick={() => setStep({ at: 'values', action: 'install' })}
                  >
                    Install…
                  </ReasonedButton>
                )}
                {progress.value && !running ? (
                  <ReasonedButton variant="subtle" onClick={() => setStep({ at: 'progress' })}>
                    Show the last run
                  </ReasonedButton>
                ) : null}
              </div>
            </div>
          </div>
        )}
      </div>
      {step.at === 'plan' ? (
        <Confirm
          opened={asking}
          title={`${verbs[step.plan.action]} ${step.plan.action === 'uninstall' ? 'from ' : ''}${cluster.name}?`}
          danger={step.plan.action === 'uninstall'}
          typed={step.plan.action === 'uninstall' ? cluster.name : undefined}
          confirm={verbs[step.plan.action]}
          pending={apply.pending}
          failure={apply.failure}
          onClose={() => setAsking(false)}
          onConfirm={() => void start(step.plan)}
        >
          {step.plan.action === 'uninstall'
            ? `Pods of ${step.plan.nodes.length} nodes lose their network, and no policy is enforced any more, until another CNI is installed.`
            : `${step.plan.kubeProxy.leavesOut.length > 0 ? `Left out, because no answer comes: ${step.plan.kubeProxy.leavesOut.join(', ')}. ` : ''}The agents of ${step.plan.batches.flat().length} nodes are replaced, ${step.plan.batches[0]?.[0] ?? 'one'} first and alone. Connections that exist go on; what they notice is measured.`}
        </Confirm>
      ) : null}
    </div>
  );
}
