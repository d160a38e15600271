import { Autocomplete, Select } from '@mantine/core';
import { type ReactNode, useState } from 'react';
import { create } from 'zustand';
import type { Cluster, Pod } from '../../../contract/clusters.ts';
import type { DebugProfile, TerminalTarget } from '../../../contract/terminals.ts';
import { useClusters } from '../../app/clusters.tsx';
import { useBlocked } from '../../app/rights.ts';
import { useProcedure } from '../../app/streams.ts';
import { Confirm } from '../../ui/confirm.tsx';
import { Copy } from '../../ui/pieces.tsx';
import styles from './terminal.module.css';

type Asked =
  | { readonly kind: 'debug'; readonly namespace: string; readonly pod: string; readonly container: string }
  | { readonly kind: 'node-pod'; readonly node: string };

interface Asking {
  readonly asked: Asked | undefined;
  readonly ask: (asked: Asked | undefined) => void;
}

/** What is about to be made in the cluster for a shell, until somebody has said yes or no. */
export const useAsking = create<Asking>()((set) => ({ asked: undefined, ask: (asked) => set({ asked }) }));

interface DialogsProps {
  readonly cluster: Cluster;
  readonly onOpen: (target: TerminalTarget) => void;
}

/** Shells that need something made in the cluster: explains it, and asks before it is. */
export function DebugDialogs({ cluster, onOpen }: DialogsProps) {
  const { asked, ask } = useAsking();
  const close = () => ask(undefined);
  const open = (target: TerminalTarget) => {
    close();
    onOpen(target);
  };
  if (!asked) return null;
  return asked.kind === 'debug' ? (
    <DebugContainer cluster={cluster} asked={asked} onClose={close} onOpen={open} />
  ) : (
    <NodePod cluster={cluster} node={asked.node} onClose={close} onOpen={open} />
  );
}

/** Why an image cannot be used, as far as that can be told here; the engine judges for good. */
function imageProblem(image: string): string | undefined {
  if (image === '') return 'Name an image.';
  if (/\s/.test(image)) return 'The name of an image has no spaces.';
  if (!/^[\w.:/@-]+$/.test(image)) return 'Only letters, digits and . : / _ - @ can stand in the name of an image.';
  return undefined;
}

interface ImageFieldProps {
  readonly cluster: string;
  readonly node: string;
  readonly value: string | undefined;
  readonly onChange: (image: string) => void;
}

/** An image with suggestions: what the node holds needs no registry and comes first. */
function ImageField({ cluster, node, value, onChange }: ImageFieldProps) {
  const images = useProcedure(`debug images ${cluster} ${node}`, (client, signal) =>
    client.terminals.debugImages({ cluster, node }, { signal }),
  );
  const list = images.value?.images ?? [];
  const shown = value ?? list[0]?.name ?? '';
  const known = list.find((image) => image.name === shown);
  return (
    <Autocomplete
      label="Image"
      description={
        known?.present
          ? 'The node holds it: nothing is pulled.'
          : 'It needs sh and sleep. The node has to pull it, unless it holds it already.'
      }
      value={shown}
      onChange={onChange}
      error={images.pending ? undefined : imageProblem(shown)}
      data={list.map((image) => image.name)}
      filter={({ options }) => options}
      spellCheck={false}
      comboboxProps={{ withinPortal: true }}
    />
  );
}

/** The chosen image: the first suggestion until something is typed. */
function useImage(cluster: string, node: string) {
  const [typed, setTyped] = useState<string | undefined>(undefined);
  const images = useProcedure(`debug images ${cluster} ${node}`, (client, signal) =>
    client.terminals.debugImages({ cluster, node }, { signal }),
  );
  return { typed, setTyped, image: (typed ?? images.value?.images[0]?.name ?? '').trim() };
}

const profiles: readonly { readonly value: DebugProfile; readonly label: string; readonly what: string }[] = [
  { value: 'general', label: 'General', what: 'May look into other processes (SYS_PTRACE).' },
  {
    value: 'netadmin',
    label: 'Network',
    what: 'May capture packets and change the pod’s network (NET_ADMIN, NET_RAW).',
  },
  { value: 'baseline', label: 'Baseline', what: 'Nothing beyond what any container may.' },
  { value: 'restricted', label: 'Restricted', what: 'Not root, no capabilities: passes the strictest Pod Security.' },
];

interface DebugContainerProps {
  readonly cluster: Cluster;
  readonly asked: Extract<Asked, { kind: 'debug' }>;
  readonly onClose: () => void;
  readonly onOpen: (target: TerminalTarget) => void;
}

function DebugContainer({ cluster, asked, onClose, onOpen }: DebugContainerProps) {
  const { namespace, pod: name } = asked;
  const { inventory } = useClusters();
  const pod: Pod | undefined = inventory.value?.pods.find((one) => one.namespace === namespace && one.name === name);
  const [container, setContainer] = useState(asked.container);
  const [profile, setProfile] = useState<DebugProfile>('netadmin');
  const { typed, setTyped, image } = useImage(cluster.id, pod?.node ?? '');
  const denied = useBlocked('terminals.debug', namespace);
  const command = [
    `kubectl debug -it -n ${namespace} ${name}`,
    `--image=${image}`,
    ...(container ? [`--target=${container}`] : []),
    `--profile=${profile}`,
  ].join(' ');
  return (
    <Confirm
      opened
      title={`Debug container in ${namespace}/${name}`}
      confirm="Add it and open a shell"
      blocked={denied ?? imageProblem(image)}
      onClose={onClose}
      onConfirm={() => onOpen({ kind: 'debug', cluster: cluster.id, namespace, pod: name, container, image, profile })}
    >
      <div className={styles.form}>
        <p>
          A container of another image is added to the running pod, in its network: for pods whose own image has no
          shell. Cluster <b>{cluster.name}</b>.
        </p>
        <ImageField cluster={cluster.id} node={pod?.node ?? ''} value={typed} onChange={setTyped} />
        <Select
          label="Sees the processes of"
          description="Their files are then below /proc/1/root."
          value={container}
          onChange={(value) => setContainer(value ?? '')}
          data={[...(pod?.containers ?? []).map((one) => ({ value: one, label: one })), { value: '', label: 'none' }]}
          allowDeselect={false}
        />
        <Select
          label="Profile"
          description={profiles.find((one) => one.value === profile)?.what}
          value={profile}
          onChange={(value) => setProfile(profiles.find((one) => one.value === value)?.value ?? 'general')}
          data={profiles.map(({ value, label }) => ({ value, label }))}
          allowDeselect={false}
        />
        <Notes>
          <li>It ends when the tab is closed, and after four hours at the latest, also when this console is gone.</li>
          <li>
            Kubernetes cannot take it out of the pod’s description again: an ended entry stays until the pod goes.
          </li>
        </Notes>
        <Equivalent command={command} />
      </div>
    </Confirm>
  );
}

interface NodePodProps {
  readonly cluster: Cluster;
  readonly node: string;
  readonly onClose: () => void;
  readonly onOpen: (target: TerminalTarget) => void;
}

function NodePod({ cluster, node, onClose, onOpen }: NodePodProps) {
  const { typed, setTyped, image } = useImage(cluster.id, node);
  const denied = useBlocked('terminals.nodePod');
  return (
    <Confirm
      opened
      danger
      title={`Debug pod on ${node}`}
      confirm="Make the pod and open a shell"
      blocked={denied ?? imageProblem(image)}
      onClose={onClose}
      onConfirm={() => onOpen({ kind: 'node-pod', cluster: cluster.id, node, image })}
    >
      <div className={styles.form}>
        <p>
          A privileged pod is made on <b>{node}</b> of <b>{cluster.name}</b>, in the namespace kube-system, and its
          shell is in the node’s own root directory. <b>Whoever types there is root on the node.</b>
        </p>
        <ImageField cluster={cluster.id} node={node} value={typed} onChange={setTyped} />
        <Notes>
          <li>
            The pod has the node’s processes, network and IPC (hostPID, hostNetwork, hostIPC), all its devices, and its
            root file system at /host.
          </li>
          <li>
            It is removed when the tab is closed. When this console is killed, the next one removes it as it connects.
          </li>
          <li>Nobody there: the node itself ends it after four hours (activeDeadlineSeconds).</li>
          <li>Making and removing it are in the audit log. No token of a service account is in it.</li>
        </Notes>
        <Equivalent command={`kubectl debug node/${node} -it --image=${image} --profile=sysadmin -- chroot /host`} />
      </div>
    </Confirm>
  );
}

function Notes({ children }: { readonly children: ReactNode }) {
  return <ul className={styles.notes}>{children}</ul>;
}

function Equivalent({ command }: { readonly command: string }) {
  return (
    <div className={styles.equivalent}>
      <span className="muted">The same by hand</span>
      <code>{command}</code>
      <Copy text={command} label="Copy the command" />
    </div>
  );
}
