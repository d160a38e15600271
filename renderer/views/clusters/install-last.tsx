import type { Values } from '../../../contract/values.ts';
import { formatAge } from '../../ui/format.ts';
import { Banner, ReasonedButton } from '../../ui/pieces.tsx';

/** The last application of a plan, as the cluster remembers it. */
export interface LastRun {
  readonly action: 'install' | 'upgrade' | 'rollback' | 'uninstall';
  readonly state: 'running' | 'interrupted' | 'done' | 'failed' | 'stopped';
  readonly startedAt: number;
  readonly nodes: Readonly<Record<string, 'waiting' | 'running' | 'done' | 'failed'>>;
  readonly values: Values;
  readonly previous?: Values | undefined;
}

interface InstallLastProps {
  readonly last: LastRun;
  readonly installed: boolean;
  readonly blocked: string | undefined;
  readonly pending: boolean;
  readonly onResume: (values: Values) => void;
  readonly onRollBack: () => void;
}

const nouns = { install: 'installation', upgrade: 'upgrade', rollback: 'rollback', uninstall: 'uninstall' } as const;
const ended = {
  interrupted: 'was broken off',
  failed: 'failed',
  stopped: 'was stopped',
  running: 'is running',
} as const;

/** What an application that did not reach its end has left, and the two ways on: to its end, or back. */
export function InstallLast({ last, installed, blocked, pending, onResume, onRollBack }: InstallLastProps) {
  const nodes = Object.entries(last.nodes);
  const done = nodes.filter(([, state]) => state === 'done').map(([name]) => name);
  const open = nodes.filter(([, state]) => state !== 'done').map(([name]) => name);
  const back = last.previous ? (
    <ReasonedButton variant="default" size="compact-sm" blocked={blocked} loading={pending} onClick={onRollBack}>
      Roll back…
    </ReasonedButton>
  ) : null;
  if (last.state === 'done')
    return installed && last.previous ? (
      <Banner tone="info" actions={back}>
        The last {nouns[last.action]}, {formatAge(last.startedAt, Date.now())} ago, can be taken back: the values and
        the image from before are remembered.
      </Banner>
    ) : null;
  return (
    <Banner
      tone={last.state === 'running' ? 'info' : 'warn'}
      actions={
        last.state === 'running' ? undefined : (
          <>
            <ReasonedButton size="compact-sm" blocked={blocked} loading={pending} onClick={() => onResume(last.values)}>
              Resume…
            </ReasonedButton>
            {back}
          </>
        )
      }
    >
      The last {nouns[last.action]} {ended[last.state]}
      {last.state === 'running' ? ' in another console' : ''}: {done.length} of {nodes.length} nodes are done
      {open.length > 0 && open.length <= 5 ? ` (open: ${open.join(', ')})` : ''}.
    </Banner>
  );
}
