import {
  IconAlertTriangleFilled,
  IconArrowsExchange,
  IconBan,
  IconCircleCheckFilled,
  IconCircleDashed,
  IconCircleX,
  IconCloudOff,
  IconCornerUpRight,
  IconEye,
  IconHelpCircle,
  IconKey,
  IconLoader2,
  IconMinus,
  IconPlugConnectedX,
  IconPointFilled,
  IconShieldQuestion,
  type TablerIcon,
} from '@tabler/icons-react';
import type { ReactNode } from 'react';
import type { AgentState, ConnectionState } from '../../contract/clusters.ts';
import type { Verdict } from '../../contract/flows.ts';
import type { InstallStep } from '../../contract/install.ts';
import styles from './status.module.css';

/** What a status means to an operator; each has its own colour and is always drawn with an icon and a word. */
export type Tone = 'ok' | 'bad' | 'warn' | 'info' | 'idle';

interface StatusProps {
  readonly tone: Tone;
  readonly icon: TablerIcon;
  readonly children: ReactNode;
  readonly plain?: boolean;
  readonly spin?: boolean;
}

/** A small label with icon and colour. `plain` leaves out the background. */
export function Status({ tone, icon: Icon, children, plain, spin }: StatusProps) {
  return (
    <span className={`${styles.badge} ${styles[tone]} ${plain ? styles.plain : ''} ${spin ? styles.spin : ''}`}>
      <Icon size={13} aria-hidden />
      <span className="clip">{children}</span>
    </span>
  );
}

interface Look {
  readonly tone: Tone;
  readonly icon: TablerIcon;
  readonly text: string;
  readonly spin?: boolean;
}

export const connectionLooks: Readonly<Record<ConnectionState, Look>> = {
  idle: { tone: 'idle', icon: IconCircleDashed, text: 'Not connected' },
  connecting: { tone: 'info', icon: IconLoader2, text: 'Connecting', spin: true },
  online: { tone: 'ok', icon: IconCircleCheckFilled, text: 'Online' },
  degraded: { tone: 'warn', icon: IconAlertTriangleFilled, text: 'Degraded' },
  'needs-login': { tone: 'warn', icon: IconKey, text: 'Needs login' },
  offline: { tone: 'bad', icon: IconCloudOff, text: 'Offline' },
};

const agentLooks: Readonly<Record<AgentState, Look>> = {
  absent: { tone: 'idle', icon: IconMinus, text: 'No agent' },
  starting: { tone: 'info', icon: IconLoader2, text: 'Starting', spin: true },
  ready: { tone: 'ok', icon: IconCircleCheckFilled, text: 'Ready' },
  degraded: { tone: 'warn', icon: IconAlertTriangleFilled, text: 'Degraded' },
  failing: { tone: 'bad', icon: IconCircleX, text: 'Failing' },
  unreachable: { tone: 'bad', icon: IconPlugConnectedX, text: 'Unreachable' },
  foreign: { tone: 'idle', icon: IconShieldQuestion, text: 'Other CNI' },
};

const verdictLooks: Readonly<Record<Verdict, Look>> = {
  FORWARDED: { tone: 'ok', icon: IconCornerUpRight, text: 'Forwarded' },
  DROPPED: { tone: 'bad', icon: IconBan, text: 'Dropped' },
  ERROR: { tone: 'bad', icon: IconCircleX, text: 'Error' },
  AUDIT: { tone: 'warn', icon: IconEye, text: 'Audit' },
  REDIRECTED: { tone: 'info', icon: IconArrowsExchange, text: 'Redirected' },
  TRACED: { tone: 'idle', icon: IconPointFilled, text: 'Traced' },
  TRANSLATED: { tone: 'info', icon: IconArrowsExchange, text: 'Translated' },
  UNKNOWN: { tone: 'idle', icon: IconHelpCircle, text: 'Unknown' },
};

const stepLooks: Readonly<Record<InstallStep['state'], Look>> = {
  waiting: { tone: 'idle', icon: IconCircleDashed, text: 'Waiting' },
  running: { tone: 'info', icon: IconLoader2, text: 'Running', spin: true },
  done: { tone: 'ok', icon: IconCircleCheckFilled, text: 'Done' },
  failed: { tone: 'bad', icon: IconCircleX, text: 'Failed' },
  skipped: { tone: 'idle', icon: IconMinus, text: 'Skipped' },
};

function FromLook({ look, plain }: { readonly look: Look; readonly plain?: boolean | undefined }) {
  return (
    <Status tone={look.tone} icon={look.icon} spin={look.spin ?? false} plain={plain ?? false}>
      {look.text}
    </Status>
  );
}

/** State of a cluster's connection. */
export function ConnectionBadge({ state, plain }: { readonly state: ConnectionState; readonly plain?: boolean }) {
  return <FromLook look={connectionLooks[state]} plain={plain} />;
}

/** State of Fairlead's agent on a node. */
export function AgentBadge({ state, plain }: { readonly state: AgentState; readonly plain?: boolean }) {
  return <FromLook look={agentLooks[state]} plain={plain} />;
}

/** Verdict of a flow. */
export function VerdictBadge({ verdict, plain }: { readonly verdict: Verdict; readonly plain?: boolean }) {
  return <FromLook look={verdictLooks[verdict]} plain={plain} />;
}

/** State of one step of an installation. */
export function StepBadge({ state }: { readonly state: InstallStep['state'] }) {
  return <FromLook look={stepLooks[state]} plain />;
}

/** Ready or not, with the words for both. */
export function ReadyBadge({ ready, yes = 'Ready', no = 'Not ready' }: { ready: boolean; yes?: string; no?: string }) {
  return (
    <Status plain tone={ready ? 'ok' : 'bad'} icon={ready ? IconCircleCheckFilled : IconCircleX}>
      {ready ? yes : no}
    </Status>
  );
}
