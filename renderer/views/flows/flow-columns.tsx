import { IconAffiliate, IconBox, IconBuildingCommunity, IconServer, IconWorld } from '@tabler/icons-react';
import type { Flow, FlowSide, PolicyReference } from '../../../contract/flows.ts';
import type { Column } from '../../ui/data-grid.tsx';
import { formatClock } from '../../ui/format.ts';
import { VerdictBadge } from '../../ui/status.tsx';
import styles from './flows.module.css';

/** "default/rule1", with the kind left to the details. */
export function policyName(policy: PolicyReference): string {
  return policy.namespace ? `${policy.namespace}/${policy.name}` : policy.name;
}

/** What one end of a flow is. An address that only a service has is the service, wherever it would be routed. */
function kindOf(side: FlowSide): readonly [kind: string, icon: typeof IconBox, name: string] {
  if (side.pod) return ['pod', IconBox, `${side.namespace}/${side.pod}`];
  if (side.service) return ['service', IconAffiliate, side.service];
  const nodes = side.entity === 'host' || side.entity === 'remote-node';
  const icon = side.entity === 'world' ? IconWorld : nodes ? IconServer : IconBuildingCommunity;
  return [side.entity || 'address', icon, ''];
}

/** One end of a flow: what it is (icon), its namespace in grey, its name. */
export function SideLabel({ side }: { readonly side: FlowSide }) {
  const [kind, Icon, name] = kindOf(side);
  const slash = name.indexOf('/') + 1;
  return (
    <span className={styles.side} title={`${kind === 'service' ? `service ${name}` : side.label} ${side.address}`}>
      <Icon size={13} aria-label={kind} role="img" />
      {name ? (
        <span className="clip">
          <span className={styles.namespace}>{name.slice(0, slash)}</span>
          {name.slice(slash)}
        </span>
      ) : (
        <span className="clip">
          {side.label}
          {side.entity && side.address ? <span className={`mono ${styles.namespace}`}> {side.address}</span> : null}
        </span>
      )}
    </span>
  );
}

/** Port and protocol of what was asked for: the server's side of the flow. */
export function portText(flow: Flow): string {
  if (flow.icmp) return `${flow.protocol} ${flow.icmp.type}/${flow.icmp.code}`;
  const port = flow.reply ? flow.source.port : flow.destination.port;
  return port > 0 ? `${port}/${flow.protocol}` : flow.protocol;
}

/** Why it was decided so: the drop's reason with the policy, or the policy that admitted it. */
export function reasonText(flow: Flow): string {
  const policies = flow.deniedBy.length > 0 ? flow.deniedBy : flow.allowedBy;
  const names = policies.map(policyName).join(', ');
  // Of what a proxy saw, the request says most.
  const said = flow.event === 'l7' ? flow.summary : '';
  if (flow.verdict === 'DROPPED') return [said, flow.dropText || flow.dropReason, names].filter(Boolean).join(' · ');
  return [said, names].filter(Boolean).join(' · ');
}

const directions: Readonly<Record<Flow['direction'], string>> = { INGRESS: 'ingress', EGRESS: 'egress', UNKNOWN: '–' };

/** All columns that the table can show, in their order. */
export const flowColumns: readonly Column<Flow>[] = [
  {
    id: 'time',
    title: 'Time',
    width: '114px',
    render: (flow) => <span className="mono">{formatClock(flow.time)}</span>,
  },
  { id: 'node', title: 'Node', width: 'minmax(64px, 0.4fr)', render: (flow) => flow.node },
  { id: 'source', title: 'Source', width: 'minmax(190px, 1.7fr)', render: (flow) => <SideLabel side={flow.source} /> },
  {
    id: 'destination',
    title: 'Destination',
    width: 'minmax(190px, 1.7fr)',
    render: (flow) => (
      <span className={styles.side}>
        <span className={styles.arrow} role="img" aria-label={flow.reply ? 'reply to' : 'to'}>
          {flow.reply ? '⇠' : '→'}
        </span>
        <SideLabel side={flow.destination} />
      </span>
    ),
  },
  { id: 'protocol', title: 'Port', width: '88px', render: (flow) => <span className="mono">{portText(flow)}</span> },
  {
    id: 'verdict',
    title: 'Verdict',
    width: '100px',
    render: (flow) => (
      <VerdictBadge verdict={flow.verdict} plain={flow.verdict !== 'DROPPED' && flow.verdict !== 'ERROR'} />
    ),
  },
  {
    id: 'reason',
    title: 'Reason or policy',
    width: 'minmax(130px, 1.2fr)',
    render: (flow) => <span title={reasonText(flow)}>{reasonText(flow)}</span>,
  },
  { id: 'direction', title: 'Direction', width: '70px', render: (flow) => directions[flow.direction] },
  { id: 'event', title: 'Event', width: '102px', render: (flow) => flow.event },
  {
    id: 'flags',
    title: 'Flags',
    width: '86px',
    render: (flow) => <span className="mono">{flow.tcpFlags.join(' ')}</span>,
  },
  {
    id: 'service',
    title: 'Service',
    width: 'minmax(110px, 0.8fr)',
    render: (flow) => flow.destination.service || flow.source.service,
  },
  {
    id: 'sourceAddress',
    title: 'Source address',
    width: '150px',
    render: (flow) => <span className="mono">{`${flow.source.address}:${flow.source.port}`}</span>,
  },
  {
    id: 'destinationAddress',
    title: 'Dest. address',
    width: '150px',
    render: (flow) => <span className="mono">{`${flow.destination.address}:${flow.destination.port}`}</span>,
  },
  {
    id: 'identities',
    title: 'Identities',
    width: '110px',
    render: (flow) => <span className="mono">{`${flow.source.identity} → ${flow.destination.identity}`}</span>,
  },
  { id: 'observation', title: 'Seen at', width: '118px', render: (flow) => flow.observationPoint },
  {
    id: 'interface',
    title: 'Interface',
    width: '110px',
    render: (flow) => <span className="mono">{flow.interface}</span>,
  },
];
