import { Autocomplete, Checkbox, NumberInput, SegmentedControl, Select } from '@mantine/core';
import { IconCircleCheck, IconCircleX, IconHelpCircle, IconLogout, IconRoute } from '@tabler/icons-react';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { useMemo, useState } from 'react';
import type { Cluster } from '../../../contract/clusters.ts';
import type { PacketAnswer, PacketQuestion } from '../../../contract/explain.ts';
import { useClusters } from '../../app/clusters.tsx';
import { NeedsCluster } from '../../app/needs-cluster.tsx';
import { useDenied } from '../../app/rights.ts';
import { useAction } from '../../app/streams.ts';
import { Banner, Empty, FailureCard, ReasonedButton, Toolbar } from '../../ui/pieces.tsx';
import { Status } from '../../ui/status.tsx';
import styles from './explain.module.css';
import { familyOf, groupSteps, hasBothFamilies, verdictText } from './explain-steps.ts';

const protocols = ['tcp', 'udp', 'sctp', 'icmp'] as const;

function isProtocol(value: string | null | undefined): value is PacketQuestion['protocol'] {
  return protocols.some((known) => known === value);
}

const families = [
  { value: 'either', label: 'Either' },
  { value: 'ipv4', label: 'IPv4' },
  { value: 'ipv6', label: 'IPv6' },
] as const;

/** Would this packet arrive, and by which way? The nodes' own programs answer. */
export function ExplainView() {
  return <NeedsCluster>{(cluster) => <Explain key={cluster.id} cluster={cluster} />}</NeedsCluster>;
}

function Explain({ cluster }: { readonly cluster: Cluster }) {
  const { inventory } = useClusters();
  const search = useSearch({ from: '/explain' });
  const navigate = useNavigate();
  const [from, setFrom] = useState(search.from ?? '');
  const [to, setTo] = useState(search.to ?? '');
  const [port, setPort] = useState<number | string>(Number(search.port ?? 80));
  const [protocol, setProtocol] = useState<PacketQuestion['protocol']>(
    isProtocol(search.protocol) ? search.protocol : 'tcp',
  );
  const [family, setFamily] = useState(familyOf(search.family));
  const [perPacket, setPerPacket] = useState(false);
  const [answer, setAnswer] = useState<PacketAnswer | undefined>(undefined);
  const ask = useAction((client, question: PacketQuestion) => client.explain.packet(question));
  const offersFamilies = family !== 'either' || hasBothFamilies(inventory.value);
  const { senders, receivers } = useMemo(() => {
    const pods = (inventory.value?.pods ?? [])
      .filter((pod) => !pod.hostNetwork)
      .map((pod) => `${pod.namespace}/${pod.name}`);
    const services = (inventory.value?.services ?? []).map((service) => `service:${service.namespace}/${service.name}`);
    return { senders: pods, receivers: [...services, ...pods] };
  }, [inventory.value]);
  const number = protocol === 'icmp' ? 0 : Number(port);
  const denied = useDenied('agents.reach');
  const blocked =
    denied ??
    (from.trim() === '' || to.trim() === ''
      ? 'Say who sends and who should get it.'
      : protocol !== 'icmp' && !(Number.isInteger(number) && number >= 1 && number <= 65_535)
        ? 'A port is a number from 1 to 65535.'
        : undefined);
  const run = async () => {
    if (blocked) return;
    void navigate({
      to: '/explain',
      search: { from, to, protocol, family: family === 'either' ? undefined : family, port: String(number) },
      replace: true,
    });
    setAnswer(await ask.run({ cluster: cluster.id, from, to, protocol, family, port: number, perPacket }));
  };
  return (
    <div className={styles.view}>
      <Toolbar label="Explain">
        <h1>Explain</h1>
        <form
          className={styles.form}
          onSubmit={(event) => {
            event.preventDefault();
            void run();
          }}
        >
          <Autocomplete
            aria-label="From"
            placeholder="from: namespace/pod"
            data={senders}
            value={from}
            onChange={setFrom}
            limit={20}
            w={240}
          />
          <Autocomplete
            aria-label="To"
            placeholder="to: pod, service or address"
            data={receivers}
            value={to}
            onChange={setTo}
            limit={20}
            w={260}
          />
          <Select
            aria-label="Protocol"
            data={[...protocols]}
            value={protocol}
            onChange={(value) => setProtocol(isProtocol(value) ? value : 'tcp')}
            allowDeselect={false}
            w={84}
          />
          <NumberInput
            aria-label="Port"
            value={port}
            onChange={setPort}
            min={1}
            max={65_535}
            allowDecimal={false}
            disabled={protocol === 'icmp'}
            w={96}
          />
          {offersFamilies ? (
            <SegmentedControl
              aria-label="Addresses"
              title="Either: that of the sender’s address, or IPv4 where both ends have it"
              value={family}
              onChange={(value) => setFamily(familyOf(value))}
              data={[...families]}
            />
          ) : null}
          <Checkbox
            label="past the socket programs"
            checked={perPacket}
            onChange={(event) => setPerPacket(event.currentTarget.checked)}
          />
          <ReasonedButton type="submit" blocked={blocked} loading={ask.pending}>
            Explain
          </ReasonedButton>
        </form>
      </Toolbar>
      <div className={styles.answer}>
        {ask.failure ? (
          <FailureCard failure={ask.failure} onRetry={() => void run()} />
        ) : answer ? (
          <Answer answer={answer} />
        ) : (
          <Empty icon={IconRoute} title="Where does a packet go, and why?">
            The programs on the nodes are run on a packet that is made for the purpose. Nothing is sent, and nothing is
            counted or remembered.
          </Empty>
        )}
      </div>
    </div>
  );
}

const looks = {
  delivered: { tone: 'ok', icon: IconCircleCheck },
  host: { tone: 'ok', icon: IconCircleCheck },
  leaves: { tone: 'ok', icon: IconLogout },
  proxy: { tone: 'info', icon: IconRoute },
  dropped: { tone: 'bad', icon: IconCircleX },
  refused: { tone: 'bad', icon: IconCircleX },
  unknown: { tone: 'warn', icon: IconHelpCircle },
} as const;

function Answer({ answer }: { readonly answer: PacketAnswer }) {
  const look = looks[answer.verdict];
  return (
    <>
      <p className={styles.summary} role="status">
        <Status tone={look.tone} icon={look.icon}>
          {verdictText(answer.verdict)}
        </Status>
        <span>{answer.summary}</span>
      </p>
      {answer.notes.map((note) => (
        <Banner key={note} tone="warn">
          {note}
        </Banner>
      ))}
      <ol className={styles.hooks} aria-label="Steps">
        {groupSteps(answer.steps).map((group) => (
          <li key={group.key}>
            <h2>
              {group.hook} <span className="muted">on {group.node}</span>
            </h2>
            <ol>
              {group.steps.map((step, index) => (
                // The order is the identity: the same step may come twice.
                // biome-ignore lint/suspicious/noArrayIndexKey: see above
                <li key={index} data-verdict={step.verdict}>
                  <span className={styles.kind}>{step.kind}</span>
                  <span>
                    {step.text}
                    {step.map ? (
                      <code className={styles.map}>
                        {step.map}[{step.key}]{step.value ? ` = ${step.value}` : ''}
                      </code>
                    ) : null}
                    {step.dropReason && step.source ? <code className={styles.map}>{step.source}</code> : null}
                  </span>
                </li>
              ))}
            </ol>
          </li>
        ))}
      </ol>
    </>
  );
}
