import { IconFileImport, IconFlask, IconPlayerRecord } from '@tabler/icons-react';
import { useNavigate } from '@tanstack/react-router';
import { useEffect, useRef, useState } from 'react';
import type { Failure } from '../../../contract/failure.ts';
import { useAction, useProcedure, useStream } from '../../app/streams.ts';
import { FailureCard, ReasonedButton, SkeletonRows } from '../../ui/pieces.tsx';
import styles from './clusters.module.css';

interface WelcomeProps {
  readonly onAdd: () => void;
  readonly problems: readonly Failure[];
}

/** What there is to begin with when no cluster is known. */
export function Welcome({ onAdd, problems }: WelcomeProps) {
  const about = useProcedure('about', (client, signal) => client.application.about({}, { signal }));
  const navigate = useNavigate();
  const [starting, setStarting] = useState(false);
  const [lines, setLines] = useState<readonly string[]>([]);
  const log = useRef<HTMLPreElement>(null);
  const lab = useStream<{ readonly line: string }>(
    'start lab',
    starting ? (client, handlers) => client.application.startLab({}, handlers) : undefined,
    (items) => setLines((old) => [...old, ...items.map((item) => item.line)].slice(-400)),
    () => setLines([]),
    true,
  );
  const open = useAction((client, name: string) => client.application.openRecording({ name }));
  // biome-ignore lint/correctness/useExhaustiveDependencies: it follows the lines
  useEffect(() => log.current?.scrollTo({ top: log.current.scrollHeight }), [lines]);
  const value = about.value;
  const recording = value?.recordings[0];
  return (
    <div className={styles.scroll}>
      <div className={styles.welcome}>
        <h1>Welcome to Fairlead</h1>
        <p className="muted" style={{ marginTop: 6, fontSize: 14, maxWidth: '64ch' }}>
          One place to install an eBPF network, see its flows, govern it with policies and prove what it does. No
          cluster is known yet. Choose how to begin; nothing is changed anywhere until you say so.
        </p>
        {problems.map((problem) => (
          <div key={problem.what} style={{ marginTop: 12 }}>
            <FailureCard failure={problem} warning />
          </div>
        ))}
        {about.failure ? <FailureCard failure={about.failure} onRetry={about.retry} /> : null}
        {about.pending ? <SkeletonRows rows={4} /> : null}
        {value ? (
          <div className={styles.cards}>
            <section className={styles.card}>
              <IconFileImport size={22} stroke={1.6} aria-hidden />
              <h2>Your cluster</h2>
              <p>
                Add a kubeconfig, or a machine that has one and is reached by SSH. Files are read, never written;
                Fairlead connects only when you ask it to.
              </p>
              <ReasonedButton onClick={onAdd}>Add a cluster</ReasonedButton>
            </section>
            <section className={styles.card}>
              <IconFlask size={22} stroke={1.6} aria-hidden />
              <h2>The lab</h2>
              <p>
                A real Kubernetes cluster of three nodes on this machine, with Fairlead’s agent and a small demo in it.
              </p>
              <ReasonedButton
                variant="default"
                loading={starting && !lab.failure && !lab.ended}
                blocked={value.lab.possible ? undefined : value.lab.reason}
                onClick={() => (starting ? lab.retry() : setStarting(true))}
              >
                {value.lab.running ? 'Connect to the lab' : 'Start the lab'}
              </ReasonedButton>
            </section>
            <section className={styles.card}>
              <IconPlayerRecord size={22} stroke={1.6} aria-hidden />
              <h2>The recording</h2>
              <p>
                {recording ? recording.title : 'A recorded case of the lab'}: look around without any cluster. It is
                clearly labelled, and read-only.
              </p>
              <ReasonedButton
                variant="default"
                loading={open.pending}
                blocked={recording ? undefined : 'This build carries no recording.'}
                onClick={() => {
                  if (!recording) return;
                  void open.run(recording.name).then((opened) => {
                    if (opened) void navigate({ to: '/topology', search: { cluster: opened.cluster } as never });
                  });
                }}
              >
                Open the recording
              </ReasonedButton>
            </section>
          </div>
        ) : null}
        {open.failure ? (
          <div style={{ marginTop: 12 }}>
            <FailureCard failure={open.failure} />
          </div>
        ) : null}
        {lines.length > 0 ? (
          <pre ref={log} className={styles.log} tabIndex={0} role="log" aria-label="Progress of the lab">
            {lines.join('\n')}
          </pre>
        ) : null}
        {lab.failure ? (
          <div style={{ marginTop: 12 }}>
            <FailureCard failure={lab.failure} onRetry={lab.retry} />
          </div>
        ) : null}
      </div>
    </div>
  );
}
