import { Autocomplete, Button, TextInput } from '@mantine/core';
import { useNavigate } from '@tanstack/react-router';
import { useState } from 'react';
import type { Failure } from '../../../contract/failure.ts';
import { useAction, useProcedure } from '../../app/streams.ts';
import { FailureCard, ReasonedButton } from '../../ui/pieces.tsx';

/** Adds the clusters that a machine reached by SSH has kubeconfigs of. */
export function AddSsh({ onClose }: { readonly onClose: () => void }) {
  const [host, setHost] = useState('');
  const [path, setPath] = useState('');
  const navigate = useNavigate();
  const known = useProcedure('ssh hosts', (client, signal) => client.clusters.sshHosts({}, { signal }));
  const add = useAction((client) => client.clusters.addSsh({ host, ...(path.trim() ? { path: path.trim() } : {}) }));
  const [looked, setLooked] = useState<{ readonly added: readonly string[]; readonly problems: readonly Failure[] }>();
  const first = looked?.added[0];
  const show = (id: string) => void navigate({ to: '/clusters/$id', params: { id } });
  const submit = async () => {
    setLooked(undefined);
    const result = await add.run();
    const found = result?.added[0];
    // What could not be read there is told before the view changes.
    if (found && result.problems.length === 0) show(found);
    else setLooked(result);
  };
  return (
    <>
      <p className="muted">
        Fairlead logs in as your SSH configuration says (agent, keys, ProxyJump), finds the kubeconfig there and reads
        it into memory. The API, the agents and shells travel through the same hops; no local port is opened and nothing
        is written on the machine.
      </p>
      <Autocomplete
        label="Host"
        description="An alias of your SSH configuration, or user@host:port."
        placeholder="bastion"
        data={[...(known.value?.hosts ?? [])]}
        value={host}
        onChange={setHost}
        limit={12}
        data-autofocus
        styles={{ input: { fontFamily: 'var(--font-mono)' } }}
      />
      {known.failure ? <FailureCard failure={known.failure} warning /> : null}
      <TextInput
        label="Path of the kubeconfig there"
        description="Empty: KUBECONFIG, ~/.kube/config, and where kubeadm, k3s, RKE2, MicroK8s and k0s keep it."
        placeholder="/etc/kubernetes/admin.conf"
        value={path}
        onChange={(event) => setPath(event.currentTarget.value)}
        styles={{ input: { fontFamily: 'var(--font-mono)' } }}
      />
      {add.failure ? <FailureCard failure={add.failure} /> : null}
      {looked?.problems.map((problem) => (
        <FailureCard key={`${problem.code} ${problem.what}`} failure={problem} warning />
      ))}
      <div style={{ display: 'flex', justifyContent: 'flex-end', gap: 8 }}>
        <Button variant="default" onClick={onClose}>
          {looked ? 'Close' : 'Cancel'}
        </Button>
        {first ? (
          <Button onClick={() => show(first)}>Show the cluster</Button>
        ) : (
          <ReasonedButton
            blocked={host.trim() ? undefined : 'Enter a host first.'}
            loading={add.pending}
            onClick={() => void submit()}
          >
            Connect and look
          </ReasonedButton>
        )}
      </div>
    </>
  );
}
