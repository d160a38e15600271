import { Button, FileButton, Modal, SegmentedControl, Textarea, TextInput } from '@mantine/core';
import { IconFolderOpen, IconUpload } from '@tabler/icons-react';
import { useNavigate } from '@tanstack/react-router';
import { useState } from 'react';
import { useAction, useProcedure } from '../../app/streams.ts';
import { FailureCard, ReasonedButton } from '../../ui/pieces.tsx';
import { AddSsh } from './add-ssh.tsx';

type Way = 'text' | 'path' | 'ssh';

/** Adds clusters: a kubeconfig as text, an uploaded file or a path on the engine's machine, or a machine behind SSH. */
export function AddCluster({ onClose }: { readonly onClose: () => void }) {
  const [way, setWay] = useState<Way>('text');
  return (
    <Modal opened onClose={onClose} title="Add a cluster" size="lg" closeButtonProps={{ 'aria-label': 'Close' }}>
      <div style={{ display: 'grid', gap: 12 }}>
        <SegmentedControl
          aria-label="How to add"
          value={way}
          onChange={(value) => setWay(value as Way)}
          data={[
            { value: 'text', label: 'Paste or upload' },
            { value: 'path', label: 'Path on this machine' },
            { value: 'ssh', label: 'Behind SSH' },
          ]}
        />
        {way === 'ssh' ? <AddSsh onClose={onClose} /> : <AddKubeconfig way={way} onClose={onClose} />}
      </div>
    </Modal>
  );
}

function AddKubeconfig({ way, onClose }: { readonly way: 'text' | 'path'; readonly onClose: () => void }) {
  const [name, setName] = useState('');
  const [text, setText] = useState('');
  const [path, setPath] = useState('');
  const navigate = useNavigate();
  const add = useAction((client) =>
    way === 'text'
      ? client.clusters.addKubeconfig({ name: name || 'pasted', text })
      : client.clusters.addKubeconfigPath({ path }),
  );
  const missing =
    way === 'text'
      ? text.trim()
        ? undefined
        : 'Paste or choose a file first.'
      : path.trim()
        ? undefined
        : 'Enter a path first.';
  const choose = useAction((client) => client.clusters.chooseKubeconfig({}));
  const about = useProcedure('about', (client, signal) => client.application.about({}, { signal }));
  const show = (added: { readonly added: readonly string[] } | undefined) => {
    const first = added?.added[0];
    if (first) void navigate({ to: '/clusters/$id', params: { id: first } });
    return first;
  };
  const submit = async () => {
    const added = await add.run();
    if (added && !show(added)) onClose();
  };
  return (
    <>
      <p className="muted">
        Every context in it becomes a cluster in the list. Keys and tokens stay with the engine; this page never sees
        them again. A program that a context would run to log in is shown to you first.
      </p>
      {way === 'text' ? (
        <>
          <div style={{ display: 'flex', gap: 8, alignItems: 'end' }}>
            <TextInput
              label="Name in the list"
              placeholder="pasted"
              value={name}
              onChange={(event) => setName(event.currentTarget.value)}
              style={{ flex: 1 }}
              data-autofocus
            />
            <FileButton
              onChange={(file) => {
                if (!file) return;
                setName((old) => old || file.name);
                void file.text().then(setText);
              }}
            >
              {(props) => (
                <Button {...props} variant="default" leftSection={<IconUpload size={14} />}>
                  Choose a file
                </Button>
              )}
            </FileButton>
          </div>
          <Textarea
            label="Text"
            minRows={11}
            maxRows={18}
            autosize
            spellCheck={false}
            placeholder={'apiVersion: v1\nkind: Config\nclusters: …'}
            value={text}
            onChange={(event) => setText(event.currentTarget.value)}
            styles={{ input: { fontFamily: 'var(--font-mono)' } }}
          />
        </>
      ) : (
        <div style={{ display: 'flex', gap: 8, alignItems: 'end' }}>
          <TextInput
            label="Path"
            description="On the machine where Fairlead runs. The file is watched and read again when it changes."
            placeholder="/home/anna/.kube/config"
            value={path}
            onChange={(event) => setPath(event.currentTarget.value)}
            styles={{ input: { fontFamily: 'var(--font-mono)' } }}
            style={{ flex: 1 }}
            data-autofocus
          />
          {about.value?.mode === 'desktop' ? (
            <Button
              variant="default"
              leftSection={<IconFolderOpen size={14} />}
              loading={choose.pending}
              onClick={() => void choose.run().then(show)}
            >
              Choose…
            </Button>
          ) : null}
        </div>
      )}
      {choose.failure ? <FailureCard failure={choose.failure} /> : null}
      {add.failure ? <FailureCard failure={add.failure} /> : null}
      <div style={{ display: 'flex', justifyContent: 'flex-end', gap: 8 }}>
        <Button variant="default" onClick={onClose}>
          Cancel
        </Button>
        <ReasonedButton blocked={missing} loading={add.pending} onClick={() => void submit()}>
          Add
        </ReasonedButton>
      </div>
    </>
  );
}
