import { Button } from '@mantine/core';
import { IconFilterPlus, IconTerminal2 } from '@tabler/icons-react';
import { Link, useNavigate } from '@tanstack/react-router';
import type { Flow, FlowSide, PolicyReference } from '../../../contract/flows.ts';
import { formatMoment } from '../../ui/format.ts';
import { ChipButton, Chips, Copy, Facts, Section, SidePane } from '../../ui/pieces.tsx';
import { VerdictBadge } from '../../ui/status.tsx';
import { policyName, portText, SideLabel } from './flow-columns.tsx';

interface FlowDetailsProps {
  readonly flow: Flow;
  readonly onClose: () => void;
  readonly onFilter: (token: string) => void;
}

/** A link to a policy's page. */
export function PolicyLink({ policy }: { readonly policy: PolicyReference }) {
  return (
    <Link
      to="/policies/$kind/$namespace/$name"
      params={{ kind: policy.kind, namespace: policy.namespace || '-', name: policy.name }}
    >
      {policyName(policy)}
      {policy.section ? ` (${policy.section})` : ''}
    </Link>
  );
}

function Side({
  title,
  side,
  prefix,
  onFilter,
}: {
  title: string;
  side: FlowSide;
  prefix: 'from' | 'to';
  onFilter: (token: string) => void;
}) {
  const pod = side.pod ? `${side.namespace}/${side.pod}` : '';
  const token = pod
    ? `${prefix}-pod:${pod}`
    : side.service
      ? `service:${side.service}`
      : `${prefix}-ip:${side.address}`;
  return (
    <Section
      title={title}
      aside={
        <span style={{ display: 'flex', gap: 4 }}>
          <Button
            size="compact-xs"
            variant="subtle"
            leftSection={<IconFilterPlus size={13} />}
            onClick={() => onFilter(token)}
          >
            Filter
          </Button>
          {pod ? (
            <Button
              size="compact-xs"
              variant="subtle"
              component={Link}
              to="/terminal"
              search={{ pod } as never}
              leftSection={<IconTerminal2 size={13} />}
            >
              Shell
            </Button>
          ) : null}
        </span>
      }
    >
      <div style={{ marginBottom: 6, fontWeight: 550 }}>
        <SideLabel side={side} />
      </div>
      <Facts
        items={[
          [
            'Address',
            <span className="mono" key="a">
              {side.port > 0 ? `${side.address}:${side.port}` : side.address}
            </span>,
          ],
          ['Workload', side.workload],
          ['Service', side.service],
          ['Names', side.names.join(', ')],
          [
            'Identity',
            <ChipButton key="i" title="Filter by this identity" onClick={() => onFilter(`identity:${side.identity}`)}>
              {side.identity}
            </ChipButton>,
          ],
          [
            'MAC',
            side.mac ? (
              <span className="mono" key="m">
                {side.mac}
              </span>
            ) : undefined,
          ],
          ['Labels', <Chips key="l" items={side.labels} />],
        ]}
      />
    </Section>
  );
}

/** Everything that is known of one flow, with the policy that decided or the reason of its drop first. */
export function FlowDetails({ flow, onClose, onFilter }: FlowDetailsProps) {
  const navigate = useNavigate();
  const dropped = flow.verdict === 'DROPPED';
  const json = JSON.stringify(flow, null, 2);
  return (
    <SidePane
      label="Flow details"
      onClose={onClose}
      width={430}
      title={
        <div style={{ display: 'flex', alignItems: 'center', gap: 8 }}>
          <VerdictBadge verdict={flow.verdict} />
          <span className="mono">{portText(flow)}</span>
          <span className="muted">{flow.summary}</span>
        </div>
      }
    >
      {dropped ? (
        <Section title="Why it was dropped">
          <p style={{ color: 'var(--bad)', fontWeight: 600 }}>{flow.dropText || flow.dropReason}</p>
          <p style={{ margin: '4px 0 8px' }}>{flow.dropHelp}</p>
          <Facts
            items={[
              [
                'Reason',
                <span className="mono" key="r">
                  {flow.dropReason}
                </span>,
              ],
              [
                'Decided by',
                flow.deniedBy.length > 0
                  ? flow.deniedBy.map((policy) => <PolicyLink key={policyName(policy)} policy={policy} />)
                  : 'no policy is named by the agent',
              ],
            ]}
          />
        </Section>
      ) : flow.allowedBy.length > 0 ? (
        <Section title="Admitted by">
          <Facts
            items={[
              ['Policy', flow.allowedBy.map((policy) => <PolicyLink key={policyName(policy)} policy={policy} />)],
              ['Matched on', flow.policyMatch],
            ]}
          />
        </Section>
      ) : null}
      <Side title="Source" side={flow.source} prefix="from" onFilter={onFilter} />
      <Side title="Destination" side={flow.destination} prefix="to" onFilter={onFilter} />
      <Section title="Event">
        <Facts
          items={[
            [
              'Time',
              <span className="mono" key="t">
                {formatMoment(flow.time)}
              </span>,
            ],
            ['Node', flow.node],
            ['Direction', flow.direction.toLowerCase()],
            ['Reply', flow.reply === null ? 'unknown' : flow.reply ? 'yes' : 'no'],
            ['Type', flow.event],
            ['Seen at', flow.observationPoint],
            ['TCP flags', flow.tcpFlags.join(', ')],
            ['ICMP', flow.icmp ? `type ${flow.icmp.type}, code ${flow.icmp.code}` : undefined],
            [
              'Interface',
              flow.interface ? (
                <span className="mono" key="f">
                  {flow.interface}
                </span>
              ) : undefined,
            ],
            ['Socket', flow.socketCookie],
            [
              'UUID',
              <span className="mono" key="u">
                {flow.uuid}
              </span>,
            ],
          ]}
        />
        <Button
          mt={10}
          variant="default"
          onClick={() =>
            void navigate({
              to: '/topology',
              search: {
                scope: 'pod',
                ...(flow.destination.pod
                  ? { select: `pod:${flow.destination.namespace}/${flow.destination.pod}` }
                  : {}),
              },
            })
          }
        >
          Show in topology
        </Button>
      </Section>
      <Section title="JSON" aside={<Copy text={json} label="Copy as JSON" />}>
        <pre className="mono" style={{ margin: 0, whiteSpace: 'pre-wrap', overflowWrap: 'anywhere' }}>
          {json}
        </pre>
      </Section>
    </SidePane>
  );
}
