import type { StylesheetJson } from 'cytoscape';
import { labelStyle } from './graph-labels.ts';

/** Icon of a kind as a data URL: the content policy admits images from there. */
function icon(paths: string, colour: string): string {
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="24" height="24" viewBox="0 0 24 24" fill="none" stroke="${colour}" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round">${paths}</svg>`;
  return `data:image/svg+xml;utf8,${encodeURIComponent(svg)}`;
}

const paths = {
  pod: '<path d="M12 3l8 4.5v9l-8 4.5-8-4.5v-9z"/><path d="M12 12l8-4.5M12 12v9M12 12L4 7.5"/>',
  workload: '<path d="M12 4l-8 4 8 4 8-4z"/><path d="M4 12l8 4 8-4"/><path d="M4 16l8 4 8-4"/>',
  namespace: '<rect x="4" y="4" width="16" height="16" rx="2" stroke-dasharray="4 3"/><path d="M9 12h6M12 9v6"/>',
  entity: '<circle cx="12" cy="12" r="9"/><path d="M3.6 9h16.8M3.6 15h16.8M12 3a17 17 0 000 18M12 3a17 17 0 010 18"/>',
};

/**
 * Colours come from the page's variables, so that light and dark are decided in one place. `scale` is by how much letters
 * are to be larger than in the drawing; it is asked whenever the style is updated.
 */
export function graphStyle(scale: () => number): StylesheetJson {
  const scaled = (size: number) => () => size * scale();
  const wide = (size: number) => () => `${size * scale()}px`;
  const variables = getComputedStyle(document.documentElement);
  const colour = (name: string) => variables.getPropertyValue(`--${name}`).trim();
  const text = colour('text');
  const verdict = { forwarded: colour('ok'), dropped: colour('bad'), mixed: colour('warn') };
  return [
    {
      selector: 'node',
      style: {
        width: 38,
        height: 38,
        shape: 'round-rectangle',
        'background-color': colour('surface'),
        'border-width': 1.5,
        'border-color': colour('line-strong'),
        label: 'data(label)',
        color: text,
        'font-family': labelStyle.family,
        'font-size': scaled(labelStyle.node.size),
        'font-weight': labelStyle.node.weight,
        'text-valign': 'bottom',
        'text-margin-y': scaled(labelStyle.node.margin),
        'text-wrap': 'ellipsis',
        'text-max-width': wide(labelStyle.node.widest),
        'text-outline-width': scaled(2.5),
        'text-outline-color': colour('bg'),
        'min-zoomed-font-size': 7,
        // A group is as large as what is in it, whatever names are drawn.
        'compound-sizing-wrt-labels': 'exclude',
        'background-fit': 'none',
        'background-width': '58%',
        'background-height': '58%',
      },
    },
    ...(['pod', 'workload', 'namespace', 'entity'] as const).map((kind) => ({
      selector: `node[kind = "${kind}"]`,
      style: {
        'background-image': icon(paths[kind], colour('muted')),
        ...(kind === 'entity' ? { shape: 'ellipse' as const } : {}),
      },
    })),
    {
      selector: 'node[?isolated]',
      style: { 'border-color': colour('info'), 'border-width': 2.5, 'border-style': 'double' as const },
    },
    {
      selector: 'node[!ready]',
      style: { 'border-color': colour('bad'), 'border-style': 'dashed' as const, 'border-width': 2 },
    },
    {
      selector: 'node[kind = "group"]',
      style: {
        shape: 'round-rectangle',
        'background-color': colour('raised'),
        'background-opacity': 0.75,
        'border-color': colour('line-strong'),
        'border-width': 1,
        padding: '26px',
        'text-valign': 'top',
        'text-margin-y': scaled(-labelStyle.group.margin),
        'font-weight': labelStyle.group.weight,
        'font-size': scaled(labelStyle.group.size),
        color: colour('muted'),
        'text-max-width': wide(labelStyle.group.widest),
      },
    },
    {
      selector: 'edge',
      style: {
        width: 'data(width)',
        'curve-style': 'bezier',
        'control-point-step-size': 34,
        'target-arrow-shape': 'triangle',
        'arrow-scale': 0.9,
        label: 'data(label)',
        'font-family': labelStyle.family,
        'font-size': scaled(labelStyle.edge.size),
        color: colour('muted'),
        'text-rotation': 'autorotate',
        'text-outline-width': scaled(2.5),
        'text-outline-color': colour('bg'),
        'min-zoomed-font-size': 7,
      },
    },
    ...(['forwarded', 'dropped', 'mixed'] as const).map((kind) => ({
      selector: `edge[verdict = "${kind}"]`,
      style: {
        'line-color': verdict[kind],
        'target-arrow-color': verdict[kind],
        ...(kind === 'forwarded'
          ? { 'line-opacity': 0.65 }
          : { color: verdict[kind], 'font-weight': 600 as const, 'line-style': 'dashed' as const }),
        ...(kind === 'dropped'
          ? { 'target-arrow-shape': 'tee' as const, 'line-dash-pattern': [7, 4], 'arrow-scale': 1.3, 'z-index': 5 }
          : {}),
        ...(kind === 'mixed' ? { 'line-dash-pattern': [12, 4] } : {}),
      },
    })),
    // In a big picture what is denied must still be found: the rest steps back.
    { selector: 'edge.many', style: { 'curve-style': 'straight', label: '', 'target-arrow-shape': 'none', width: 3 } },
    { selector: 'edge.many[verdict = "forwarded"]', style: { width: 1.6, 'line-opacity': 0.28 } },
    { selector: '.unnamed', style: { label: '' } },
    { selector: 'node.pointed', style: { label: 'data(label)', 'z-index': 20, 'text-max-width': wide(600) } },
    { selector: '.faded', style: { opacity: 0.22 } },
    {
      selector: 'node.found',
      style: {
        'border-color': colour('accent'),
        'border-width': 3,
        'underlay-color': colour('accent'),
        'underlay-opacity': 0.22,
        'underlay-padding': 7,
      },
    },
    {
      selector: 'node:selected',
      style: {
        'border-color': colour('accent'),
        'border-width': 3.5,
        'underlay-color': colour('accent'),
        'underlay-opacity': 0.28,
        'underlay-padding': 8,
      },
    },
    {
      selector: 'edge:selected',
      style: { 'underlay-color': colour('accent'), 'underlay-opacity': 0.3, 'underlay-padding': 5 },
    },
  ];
}
