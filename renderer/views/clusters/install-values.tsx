import { Button, NumberInput, SegmentedControl, Select, Switch, TagsInput, Textarea, TextInput } from '@mantine/core';
import { type ReactNode, useState } from 'react';
import { parse, stringify } from 'yaml';
import type { Failure } from '../../../contract/failure.ts';
import { type Values, valuesSchema } from '../../../contract/install.ts';
import { Copy, FailureCard, ReasonedButton, Spacer } from '../../ui/pieces.tsx';
import styles from './clusters.module.css';

interface InstallValuesProps {
  readonly values: Values;
  readonly suggested: Values;
  readonly reasons: Readonly<Record<string, string>>;
  readonly onChange: (values: Values) => void;
  readonly onCancel: () => void;
  readonly onPlan: () => void;
  readonly planning: boolean;
  readonly failure: Failure | undefined;
}

/** Why the values cannot be right together; undefined when they can. The engine checks again. */
export function valuesProblem(values: Values): string | undefined {
  if (values.routingMode === 'native' && !values.ipv4NativeRoutingCIDR) {
    return 'Native routing needs the CIDR in which packets keep their addresses.';
  }
  if (values.kubeProxyReplacement && (values.k8sServiceHost === '') !== (values.k8sServicePort === 0)) {
    return 'The API server needs both host and port, or neither.';
  }
  return undefined;
}

/** The values of an installation in groups, each explained, or as YAML with the names of Cilium's chart. */
export function InstallValues(props: InstallValuesProps) {
  const { values, suggested, reasons, onChange, onCancel, onPlan, planning, failure } = props;
  const [yaml, setYaml] = useState<string | undefined>(undefined);
  const [yamlProblem, setYamlProblem] = useState<string | undefined>(undefined);
  const set = (to: Partial<Values>) => onChange({ ...values, ...to });
  const native = values.routingMode === 'native';
  const note = (field: keyof Values & string) => {
    const differs = JSON.stringify(values[field]) !== JSON.stringify(suggested[field]);
    const reason = reasons[field];
    if (!reason && !differs) return null;
    return (
      <div className={styles.reason}>
        {reason ? `Suggested: ${String(suggested[field])}. ${reason} ` : ''}
        {differs ? (
          <Button variant="subtle" size="compact-xs" onClick={() => set({ [field]: suggested[field] })}>
            Use {String(suggested[field]) || 'none'}
          </Button>
        ) : null}
      </div>
    );
  };
  const changeYaml = (text: string) => {
    setYaml(text);
    try {
      const read = valuesSchema.safeParse(parse(text) ?? {});
      setYamlProblem(
        read.success
          ? undefined
          : read.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; '),
      );
      if (read.success) onChange(read.data);
    } catch (error) {
      setYamlProblem(error instanceof Error ? error.message : String(error));
    }
  };
  const problem = yamlProblem ?? valuesProblem(values);
  return (
    <div className={styles.box}>
      <div className={styles.boxHead}>
        <h2>Values</h2>
        <Spacer />
        <SegmentedControl
          aria-label="Edit as"
          value={yaml === undefined ? 'form' : 'yaml'}
          onChange={(value) => {
            setYaml(value === 'yaml' ? stringify(values) : undefined);
            setYamlProblem(undefined);
          }}
          data={[
            { value: 'form', label: 'Form' },
            { value: 'yaml', label: 'YAML' },
          ]}
        />
      </div>
      {yaml !== undefined ? (
        <div className={styles.boxBody}>
          <div style={{ display: 'flex', justifyContent: 'space-between' }}>
            <p className="muted">
              Names are those of Cilium’s chart: an existing values file can be pasted; what is unknown here is ignored.
            </p>
            <Copy text={yaml} label="Copy the values" />
          </div>
          <Textarea
            aria-label="Values as YAML"
            mt={8}
            autosize
            minRows={18}
            value={yaml}
            spellCheck={false}
            error={yamlProblem}
            onChange={(event) => changeYaml(event.currentTarget.value)}
            styles={{ input: { fontFamily: 'var(--font-mono)' } }}
          />
        </div>
      ) : (
        <>
          <Group title="Cluster" text="How the cluster is named and where its API server is.">
            <TextInput
              label="Cluster name"
              description="Part of every identity."
              value={values.cluster.name}
              onChange={(event) => set({ cluster: { name: event.currentTarget.value } })}
            />
            <NumberInput
              label="MTU"
              description="0: found out from the device."
              value={values.MTU}
              min={0}
              max={65535}
              onChange={(value) => set({ MTU: Number(value) || 0 })}
            />
            <div>
              <TextInput
                label="API server host"
                description="Needed when no kube-proxy translates the service."
                value={values.k8sServiceHost}
                onChange={(event) => set({ k8sServiceHost: event.currentTarget.value })}
              />
              {note('k8sServiceHost')}
            </div>
            <NumberInput
              label="API server port"
              description="0: as in the cluster."
              value={values.k8sServicePort}
              min={0}
              max={65535}
              onChange={(value) => set({ k8sServicePort: Number(value) || 0 })}
            />
          </Group>
          <Group title="Routing" text="How packets travel between nodes.">
            <div>
              <Select
                label="Mode"
                description="Tunnel works everywhere; native is faster where nodes can route pod addresses."
                value={values.routingMode}
                data={[
                  { value: 'tunnel', label: 'Tunnel (VXLAN)' },
                  { value: 'native', label: 'Native' },
                ]}
                onChange={(value) => value && set({ routingMode: value as Values['routingMode'] })}
              />
              {note('routingMode')}
            </div>
            <Switch
              label="Direct node routes"
              description="The agent adds a route to every node’s pods; all nodes must share one layer 2 network."
              checked={values.autoDirectNodeRoutes}
              disabled={!native}
              onChange={(event) => set({ autoDirectNodeRoutes: event.currentTarget.checked })}
            />
            <div>
              <TextInput
                label="Native routing CIDR"
                description={native ? 'Inside it packets keep their addresses.' : 'Only for native routing.'}
                placeholder="10.42.0.0/16"
                disabled={!native}
                value={values.ipv4NativeRoutingCIDR}
                onChange={(event) => set({ ipv4NativeRoutingCIDR: event.currentTarget.value })}
              />
              {note('ipv4NativeRoutingCIDR')}
            </div>
            <TagsInput
              size="xs"
              label="Devices"
              description="Network devices of the nodes; empty: found out."
              value={[...values.devices]}
              onChange={(devices) => set({ devices })}
            />
          </Group>
          <Group title="Services" text="ClusterIP and NodePort.">
            <div>
              <Switch
                label="Replace kube-proxy"
                description="Services are translated in eBPF when a connection begins."
                checked={values.kubeProxyReplacement}
                onChange={(event) => set({ kubeProxyReplacement: event.currentTarget.checked })}
              />
              {note('kubeProxyReplacement')}
            </div>
            <Switch
              label="Masquerade"
              description="What leaves the cluster gets the node’s address."
              checked={values.enableIPv4Masquerade}
              onChange={(event) => set({ enableIPv4Masquerade: event.currentTarget.checked })}
            />
          </Group>
          <Group title="Policy and logs" text="What is enforced, and how much is told.">
            <Select
              label="Enforcement"
              description="default: pods that a policy selects. always: all pods. never: none."
              value={values.policyEnforcementMode}
              data={['default', 'always', 'never']}
              onChange={(value) => value && set({ policyEnforcementMode: value as Values['policyEnforcementMode'] })}
            />
            <Switch
              label="Debug log"
              description="Much more output; only to find a fault."
              checked={values.debug}
              onChange={(event) => set({ debug: event.currentTarget.checked })}
            />
          </Group>
        </>
      )}
      <div className={styles.boxBody} style={{ borderTop: '1px solid var(--line)' }}>
        {failure ? (
          <div style={{ marginBottom: 10 }}>
            <FailureCard failure={failure} />
          </div>
        ) : null}
        <div className={styles.footer}>
          {problem ? (
            <span style={{ color: 'var(--bad)' }}>{problem}</span>
          ) : (
            <span className="muted">Making a plan writes nothing.</span>
          )}
          <Button variant="default" onClick={onCancel}>
            Cancel
          </Button>
          <ReasonedButton blocked={problem} loading={planning} onClick={onPlan}>
            Make a plan
          </ReasonedButton>
        </div>
      </div>
    </div>
  );
}

function Group({
  title,
  text,
  children,
}: {
  readonly title: string;
  readonly text: string;
  readonly children: ReactNode;
}) {
  return (
    <section className={styles.group}>
      <div className={styles.groupText}>
        <h3>{title}</h3>
        <p>{text}</p>
      </div>
      <div className={styles.fields}>{children}</div>
    </section>
  );
}
