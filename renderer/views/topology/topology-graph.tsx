import { useMantineColorScheme } from '@mantine/core';
import { IconFocusCentered, IconLayoutGrid, IconMinus, IconPhotoDown, IconPlus } from '@tabler/icons-react';
import { useEffect, useMemo, useRef, useState } from 'react';
import type { Topology } from '../../../contract/topology.ts';
import { download } from '../../ui/download.ts';
import { formatCount, formatRate } from '../../ui/format.ts';
import { IconButton } from '../../ui/pieces.tsx';
import { GraphController } from './graph-controller.ts';
import { type Grouping, matchesFind, toGraph } from './graph-elements.ts';
import type { NamesShown } from './graph-labels.ts';
import styles from './topology.module.css';

interface TopologyGraphProps {
  /** Names the drawing: its positions are kept under it. */
  readonly name: string;
  readonly topology: Topology;
  readonly grouping: Grouping;
  readonly hidden: ReadonlySet<string>;
  readonly find: string;
  readonly selected: string | undefined;
  readonly onSelect: (id: string | undefined) => void;
}

/** The drawn graph. The table twin shows the same for keyboard and screen reader. */
export function TopologyGraph(props: TopologyGraphProps) {
  const { name, topology, grouping, hidden, find, selected, onSelect } = props;
  const container = useRef<HTMLDivElement>(null);
  const [controller, setController] = useState<GraphController | undefined>(undefined);
  const [busy, setBusy] = useState(false);
  const [names, setNames] = useState<NamesShown>({ shown: 0, hidden: 0 });
  const { colorScheme } = useMantineColorScheme();
  const select = useRef(onSelect);
  select.current = onSelect;
  const clicked = useRef<string | undefined>(undefined);

  useEffect(() => {
    const element = container.current;
    if (!element) return;
    const made = new GraphController(
      element,
      (id) => {
        clicked.current = id;
        select.current(id);
      },
      setBusy,
      // The same figures again draw nothing anew.
      (next) => setNames((old) => (old.shown === next.shown && old.hidden === next.hidden ? old : next)),
    );
    const observer = new ResizeObserver(() => made.resize());
    observer.observe(element);
    setController(made);
    return () => {
      observer.disconnect();
      made.destroy();
      setController(undefined);
    };
  }, []);

  const graph = useMemo(() => toGraph(topology, { grouping, hidden, rate: formatRate }), [topology, grouping, hidden]);
  useEffect(() => controller?.update(name, graph), [controller, name, graph]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: a new drawing needs its marks anew
  useEffect(
    () => controller?.select(selected, selected !== undefined && selected !== clicked.current),
    [controller, selected, name],
  );
  const found = useMemo(
    () => topology.nodes.filter((node) => matchesFind(node, find)).map((node) => node.id),
    [topology, find],
  );
  const lastFind = useRef('');
  useEffect(() => {
    if (!controller) return;
    // Only a new search moves the picture; updates of the same one just keep the marks.
    controller.find(found, found.length > 0 && lastFind.current !== find);
    lastFind.current = find;
  }, [controller, found, find]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the scheme is what it reacts to
  useEffect(() => {
    if (!controller) return;
    // The colours of the page follow a moment after the choice.
    const restyle = () => requestAnimationFrame(() => controller.restyle());
    restyle();
    const media = matchMedia('(prefers-color-scheme: dark)');
    media.addEventListener('change', restyle);
    return () => media.removeEventListener('change', restyle);
  }, [controller, colorScheme]);

  return (
    <div className={styles.stage}>
      <div
        ref={container}
        className={styles.canvas}
        role="img"
        aria-label={`Topology with ${topology.nodes.length} nodes and ${topology.edges.length} edges. The table shows the same.`}
      />
      {busy ? <div className={styles.busy}>Arranging…</div> : null}
      <Legend names={names} />
      <div className={styles.zoom}>
        <IconButton icon={IconPlus} label="Zoom in" onClick={() => controller?.zoom(1.3)} />
        <IconButton icon={IconMinus} label="Zoom out" onClick={() => controller?.zoom(1 / 1.3)} />
        <IconButton icon={IconFocusCentered} label="Show everything" onClick={() => controller?.fit()} />
        <IconButton icon={IconLayoutGrid} label="Arrange anew" onClick={() => controller?.layout()} />
        <IconButton
          icon={IconPhotoDown}
          label="Save as PNG"
          onClick={() =>
            controller &&
            download(`topology-${new Date().toISOString().slice(0, 19)}.png`, controller.png(), 'image/png')
          }
        />
      </div>
    </div>
  );
}

function Line({
  colour,
  dash,
  end,
}: {
  readonly colour: string;
  readonly dash?: string;
  readonly end: 'arrow' | 'stop';
}) {
  return (
    <svg width="34" height="10" aria-hidden="true">
      <line
        x1="0"
        y1="5"
        x2={end === 'arrow' ? 26 : 29}
        y2="5"
        stroke={colour}
        strokeWidth="2"
        strokeDasharray={dash}
      />
      {end === 'arrow' ? (
        <path d="M25 1l8 4-8 4z" fill={colour} />
      ) : (
        <line x1="30" y1="0" x2="30" y2="10" stroke={colour} strokeWidth="2.5" />
      )}
    </svg>
  );
}

function Legend({ names: { shown, hidden } }: { readonly names: NamesShown }) {
  return (
    <div className={styles.legend}>
      <span>
        <Line colour="var(--ok)" end="arrow" /> forwarded
      </span>
      <span>
        <Line colour="var(--warn)" dash="8 3" end="arrow" /> partly denied
      </span>
      <span>
        <Line colour="var(--bad)" dash="5 3" end="stop" /> denied
      </span>
      <span>
        <svg width="34" height="14" aria-hidden="true">
          <rect x="10" y="1" width="12" height="12" rx="3" fill="none" stroke="var(--info)" strokeWidth="1" />
          <rect x="12.5" y="3.5" width="7" height="7" rx="1.5" fill="none" stroke="var(--info)" strokeWidth="1" />
        </svg>
        default deny on
      </span>
      <span className="muted">width: flow events per second</span>
      {hidden > 0 ? (
        <span
          role="status"
          title="Drawn first: what is chosen or found, who is denied something, then the busiest. Point at a thing to see its name."
        >
          {formatCount(shown)} of {formatCount(shown + hidden)} names fit: zoom in for more
        </span>
      ) : null}
    </div>
  );
}
