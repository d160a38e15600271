import { Button, Checkbox, FileButton, Modal } from '@mantine/core';
import { IconFolderOpen, IconLifebuoy, IconPackage } from '@tabler/icons-react';
import { useEffect, useMemo, useRef, useState } from 'react';
import type { Failure } from '../../../contract/failure.ts';
import type { SupportItem, SupportProgress } from '../../../contract/support.ts';
import { NeedsCluster } from '../../app/needs-cluster.tsx';
import { useConnection, useProcedure } from '../../app/streams.ts';
import { formatBytes } from '../../ui/format.ts';
import { Empty, FailureCard, ReasonedButton, Section, SkeletonRows, Spacer, Toolbar } from '../../ui/pieces.tsx';
import { type BundleFile, openBundle } from './bundle-file.ts';

/** Makes support bundles, shows every part before, and opens bundles of others without any cluster. */
export function SupportView() {
  const [opened, setOpened] = useState<{ readonly name: string; readonly files: readonly BundleFile[] } | undefined>();
  const [failure, setFailure] = useState<Failure | undefined>();
  const open = async (file: File | null) => {
    if (!file) return;
    const result = await openBundle(file);
    setFailure(result.ok ? undefined : result.failure);
    if (result.ok) setOpened({ name: file.name, files: result.value });
  };
  return (
    <div style={{ display: 'flex', flexDirection: 'column', height: '100%', minHeight: 0 }}>
      <Toolbar label="Support">
        <h1 style={{ fontSize: 15, margin: 0 }}>{opened ? opened.name : 'Support bundle'}</h1>
        <Spacer />
        {opened ? (
          <Button variant="default" onClick={() => setOpened(undefined)}>
            Close
          </Button>
        ) : null}
        <FileButton onChange={(file) => void open(file)} accept=".gz,.tgz,application/gzip">
          {(props) => (
            <Button {...props} variant="default" leftSection={<IconFolderOpen size={14} />}>
              Open a bundle…
            </Button>
          )}
        </FileButton>
      </Toolbar>
      {failure ? (
        <div style={{ padding: 16 }}>
          <FailureCard failure={failure} />
        </div>
      ) : null}
      <div style={{ flex: 1, minHeight: 0, overflow: 'auto' }}>
        {opened ? (
          <Files files={opened.files} />
        ) : (
          <NeedsCluster>
            {(cluster) =>
              cluster.source === 'recording' ? (
                <Empty icon={IconLifebuoy} title="A recording has no support bundle">
                  There is no cluster behind it that could be asked. A bundle that somebody sent can be opened above.
                </Empty>
              ) : (
                <Collect key={cluster.id} cluster={cluster.id} name={cluster.name} />
              )
            }
          </NeedsCluster>
        )}
      </div>
    </div>
  );
}

type ItemState = Extract<SupportProgress, { readonly kind: 'item' }>;

function Collect({ cluster, name }: { readonly cluster: string; readonly name: string }) {
  const connection = useConnection();
  const items = useProcedure(`support ${cluster}`, (client, signal) => client.support.items({ cluster }, { signal }));
  const [taken, setTaken] = useState<ReadonlyMap<string, boolean>>(new Map());
  const [preview, setPreview] = useState<SupportItem | undefined>();
  const [states, setStates] = useState<ReadonlyMap<string, ItemState>>(new Map());
  const [running, setRunning] = useState(false);
  const [failure, setFailure] = useState<Failure | undefined>();
  const [saved, setSaved] = useState('');
  const cancel = useRef<(() => void) | undefined>(undefined);
  useEffect(() => () => cancel.current?.(), []);
  if (items.pending) return <SkeletonRows rows={8} label="Reading what can be collected" />;
  if (!items.value)
    return (
      <div style={{ padding: 16 }}>
        {items.failure ? <FailureCard failure={items.failure} onRetry={items.retry} /> : null}
      </div>
    );
  const isTaken = (item: SupportItem) => taken.get(item.id) ?? item.chosen;
  const chosen = items.value.items.filter(isTaken);
  const total = chosen.reduce((sum, item) => sum + item.estimate, 0);
  const start = () => {
    setRunning(true);
    setStates(new Map());
    setFailure(undefined);
    setSaved('');
    const pieces: BlobPart[] = [];
    cancel.current = connection.client.support.collect(
      { cluster, items: chosen.map(({ id }) => id) },
      {
        batch: (batch) => {
          for (const item of batch)
            if (item.kind === 'piece') pieces.push(new Uint8Array(item.data));
            else setStates((old) => new Map(old).set(item.id, item));
        },
        end: (ended) => {
          cancel.current = undefined;
          setRunning(false);
          if (ended) return setFailure(ended);
          const blob = new Blob(pieces, { type: 'application/gzip' });
          const address = URL.createObjectURL(blob);
          const link = document.createElement('a');
          link.href = address;
          link.download = `fairlead-support-${name.replaceAll(/[^\w.-]/g, '_')}.tar.gz`;
          link.click();
          setTimeout(() => URL.revokeObjectURL(address), 1000);
          setSaved(`${link.download} (${formatBytes(blob.size)})`);
        },
      },
    );
  };
  return (
    <div style={{ padding: 16, display: 'grid', gap: 16, maxWidth: 860 }}>
      <p className="muted">
        Everything that somebody who helps needs to see of <b>{name}</b>, in one archive on this machine. It is sent
        nowhere. Secrets are not taken out of it: they are never read.
      </p>
      <Section title="What goes in">
        <div style={{ display: 'grid', gap: 10 }}>
          {items.value.items.map((item) => (
            <ItemRow
              key={item.id}
              item={item}
              taken={isTaken(item)}
              state={states.get(item.id)}
              locked={running}
              onTake={(on) => setTaken((old) => new Map(old).set(item.id, on))}
              onPreview={() => setPreview(item)}
            />
          ))}
        </div>
      </Section>
      {failure ? <FailureCard failure={failure} /> : null}
      <div style={{ display: 'flex', gap: 12, alignItems: 'center' }}>
        <ReasonedButton
          leftSection={<IconPackage size={14} />}
          loading={running}
          blocked={chosen.length === 0 ? 'Choose something first.' : undefined}
          onClick={start}
        >
          Make the bundle
        </ReasonedButton>
        {running ? (
          <Button
            variant="default"
            onClick={() => {
              cancel.current?.();
              cancel.current = undefined;
              setRunning(false);
            }}
          >
            Stop
          </Button>
        ) : null}
        <span className="muted" role="status">
          {saved ? `Saved as ${saved}` : `about ${formatBytes(total)} before it is compressed`}
        </span>
      </div>
      {preview ? <Preview cluster={cluster} item={preview} onClose={() => setPreview(undefined)} /> : null}
    </div>
  );
}

interface ItemRowProps {
  readonly item: SupportItem;
  readonly taken: boolean;
  readonly state: ItemState | undefined;
  readonly locked: boolean;
  readonly onTake: (on: boolean) => void;
  readonly onPreview: () => void;
}

function ItemRow({ item, taken, state, locked, onTake, onPreview }: ItemRowProps) {
  return (
    <div style={{ display: 'grid', gap: 6 }}>
      <div style={{ display: 'flex', gap: 12, alignItems: 'flex-start' }}>
        <Checkbox
          checked={taken}
          disabled={locked}
          onChange={(event) => onTake(event.currentTarget.checked)}
          label={item.title}
          description={`${item.contents}${item.sensitive ? ` Tells ${item.sensitive}.` : ''}`}
          style={{ flex: 1 }}
        />
        <span className="muted" style={{ whiteSpace: 'nowrap' }}>
          {state
            ? state.state === 'running'
              ? 'collecting…'
              : `${state.files} files, ${formatBytes(state.bytes)}`
            : `about ${formatBytes(item.estimate)}`}
        </span>
        <Button size="compact-sm" variant="default" onClick={onPreview} aria-label={`Preview ${item.title}`}>
          Preview
        </Button>
      </div>
      {state?.failures.map((failure) => (
        <FailureCard key={`${failure.code} ${failure.what}`} failure={failure} warning />
      ))}
    </div>
  );
}

function Preview({
  cluster,
  item,
  onClose,
}: {
  readonly cluster: string;
  readonly item: SupportItem;
  readonly onClose: () => void;
}) {
  const shown = useProcedure(`preview ${cluster} ${item.id}`, (client, signal) =>
    client.support.preview({ cluster, item: item.id }, { signal }),
  );
  return (
    <Modal opened onClose={onClose} title={item.title} size="xl" closeButtonProps={{ 'aria-label': 'Close' }}>
      {shown.pending ? <SkeletonRows rows={8} label="Collecting" /> : null}
      {shown.failure ? <FailureCard failure={shown.failure} onRetry={shown.retry} /> : null}
      {shown.value?.failures.map((failure) => (
        <FailureCard key={`${failure.code} ${failure.what}`} failure={failure} warning />
      ))}
      {shown.value ? <Files files={shown.value.files} /> : null}
    </Modal>
  );
}

/** Files with the text of the chosen one. */
function Files({ files }: { readonly files: readonly BundleFile[] }) {
  const [chosen, setChosen] = useState(0);
  const file = files[chosen];
  const cut = useMemo(() => (file && file.text.length < file.bytes / 4 ? 'The beginning of it.' : ''), [file]);
  if (!file)
    return (
      <Empty icon={IconPackage} title="No files">
        Nothing could be collected; what stood in the way is said above.
      </Empty>
    );
  return (
    <div
      style={{ display: 'grid', gridTemplateColumns: 'minmax(180px, 260px) 1fr', gap: 12, padding: 12, minHeight: 320 }}
    >
      <nav
        aria-label="Files"
        style={{ display: 'grid', alignContent: 'start', gap: 2, overflow: 'auto', maxHeight: '70vh' }}
      >
        {files.map((one, index) => (
          <Button
            key={one.name}
            size="compact-sm"
            variant={index === chosen ? 'light' : 'subtle'}
            justify="space-between"
            aria-current={index === chosen}
            rightSection={<span className="muted">{formatBytes(one.bytes)}</span>}
            onClick={() => setChosen(index)}
          >
            {one.name}
          </Button>
        ))}
      </nav>
      <div style={{ minWidth: 0 }}>
        {cut ? <p className="muted">{cut}</p> : null}
        <pre
          className="mono"
          // It scrolls, so the keyboard must reach it.
          tabIndex={0}
          style={{ margin: 0, overflow: 'auto', maxHeight: '70vh', fontSize: 12 }}
        >
          {file.text}
        </pre>
      </div>
    </div>
  );
}
