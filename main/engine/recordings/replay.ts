import type { Failure } from '../../../contract/failure.ts';
import type { Sink } from '../../../contract/implementation.ts';
import type {
  Flow,
  FlowFilter,
  FlowHealth,
  FlowItem,
  Inventory,
  PolicySummary,
  Topology,
  TopologyScope,
} from '../../../contract/index.ts';
import { pause } from '../agents/agent-pool.ts';
import { passes } from '../flows/match.ts';
import type { Case, CaseItem, CaseStream } from './case-file.ts';
import type { RecordedPolicy } from './recorder.ts';

/** A pause between the end and the beginning, so that the seam can be told. */
const seam = 1000;
const shortest = 5000;

/** Where the replay is: how often it has begun anew, and how far this round has come. */
interface Moment {
  readonly round: number;
  readonly at: number;
  /** To be added to recorded times (Unix milliseconds) to make them times of now. */
  readonly shift: number;
}

/** Plays a case in a loop, all streams by one clock, with times moved to now. */
export class Replay {
  readonly case: Case;
  readonly #begin: number;
  readonly #length: number;
  readonly #byStream = new Map<CaseStream, readonly CaseItem[]>();

  /** @param now The clock, Unix milliseconds. */
  constructor(recorded: Case, now = Date.now()) {
    this.case = recorded;
    this.#begin = now;
    this.#length = Math.max(shortest, recorded.length + seam);
    for (const item of recorded.items)
      this.#byStream.set(item.stream, [...(this.#byStream.get(item.stream) ?? []), item]);
  }

  moment(now = Date.now()): Moment {
    const since = Math.max(0, now - this.#begin);
    const round = Math.floor(since / this.#length);
    return { round, at: since - round * this.#length, shift: this.#shift(round) };
  }

  #shift(round: number): number {
    return this.#begin + round * this.#length - this.case.startedAt;
  }

  items(stream: CaseStream): readonly CaseItem[] {
    return this.#byStream.get(stream) ?? [];
  }

  /** The newest item of a stream at this moment; before the first of a round, the first. */
  latest<T>(stream: CaseStream, moment = this.moment()): T | undefined {
    const items = this.items(stream);
    let found = items[0];
    for (const item of items) {
      if (item.at > moment.at) break;
      found = item;
    }
    return found?.body as T | undefined;
  }

  /**
   * Follows a stream from now on, round after round. `handle` gets the item, the round's time shift and its number.
   */
  async follow(
    stream: CaseStream,
    signal: AbortSignal,
    handle: (item: CaseItem, shift: number, round: number) => Promise<void>,
  ): Promise<void> {
    const items = this.items(stream);
    if (items.length === 0) {
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
      return;
    }
    let { round, at } = this.moment();
    let index = items.findIndex((item) => item.at > at);
    if (index < 0) {
      index = 0;
      round += 1;
    }
    while (!signal.aborted) {
      const item = items[index];
      if (!item) {
        index = 0;
        round += 1;
        continue;
      }
      const due = this.#begin + round * this.#length + item.at;
      const wait = due - Date.now();
      if (wait > 0) await pause(wait, signal);
      if (signal.aborted) return;
      await handle(item, this.#shift(round), round);
      index += 1;
    }
  }

  async inventory(sink: Sink<Inventory>, signal: AbortSignal): Promise<Failure | undefined> {
    const send = async (inventory: Inventory | undefined, shift: number) => {
      if (inventory) await sink.push([{ ...inventory, at: inventory.at + shift }]);
    };
    await send(this.latest<Inventory>('inventory'), this.moment().shift);
    await this.follow('inventory', signal, (item, shift) => send(item.body as Inventory, shift));
    return undefined;
  }

  async topology(
    { scope, namespaces }: { readonly scope: TopologyScope; readonly namespaces: readonly string[] },
    sink: Sink<Topology>,
    signal: AbortSignal,
  ): Promise<Failure | undefined> {
    const stream = `topology:${scope}` as const;
    const send = async (picture: Topology | undefined, shift: number) => {
      if (picture) await sink.push([moved(within(picture, namespaces), shift)]);
    };
    await send(this.latest<Topology>(stream), this.moment().shift);
    await this.follow(stream, signal, (item, shift) => send(item.body as Topology, shift));
    return undefined;
  }

  async policies(sink: Sink<{ policies: PolicySummary[] }>, signal: AbortSignal): Promise<Failure | undefined> {
    const send = async (body: unknown) => {
      if (body) await sink.push([body as { policies: PolicySummary[] }]);
    };
    await send(this.latest('policies'));
    await this.follow('policies', signal, (item) => send(item.body));
    return undefined;
  }

  /** The text of a policy as it is at this moment of the replay. */
  policy(key: string): RecordedPolicy | undefined {
    const { at } = this.moment();
    const all = this.items('policy').filter((item) => JSON.stringify((item.body as RecordedPolicy).id) === key);
    return (all.findLast((item) => item.at <= at) ?? all[0])?.body as RecordedPolicy | undefined;
  }

  async flows(
    request: {
      readonly allow: readonly FlowFilter[];
      readonly deny: readonly FlowFilter[];
      readonly last: number;
      readonly since?: number | undefined;
      readonly until?: number | undefined;
      readonly follow: boolean;
    },
    sink: Sink<FlowItem>,
    signal: AbortSignal,
  ): Promise<Failure | undefined> {
    let sequence = 0;
    const prepare = (flows: readonly Flow[], shift: number, round: number): FlowItem[] =>
      flows
        .filter((flow) => passes(flow, request.allow, request.deny))
        .map((flow) => ({ ...flow, time: flow.time + shift, uuid: `${flow.uuid}-${round}` }))
        .filter((flow) => flow.time >= (request.since ?? 0) && flow.time <= (request.until ?? Number.POSITIVE_INFINITY))
        .map((flow) => {
          sequence += 1;
          return { kind: 'flow', flow: { ...flow, sequence } };
        });
    const health = (recorded: FlowHealth | undefined): FlowItem[] =>
      recorded ? [{ kind: 'health', health: recorded }] : [];

    const moment = this.moment();
    // Before a round's first flow there is the round before; the very first begins with what was recorded as past.
    const past = this.items('flows')
      .filter((item) => item.at <= moment.at)
      .flatMap((item) => item.body as Flow[]);
    const wanted = request.since === undefined ? Math.max(0, request.last) : Number.POSITIVE_INFINITY;
    const matching = past.filter((flow) => passes(flow, request.allow, request.deny));
    const begin = wanted === 0 ? [] : matching.slice(-Math.min(wanted, matching.length) || matching.length);
    await sink.push([
      ...prepare(begin, moment.shift, moment.round),
      ...health(this.latest<FlowHealth>('health', moment)),
    ]);
    if (!request.follow) return undefined;
    await Promise.all([
      this.follow('flows', signal, async (item, shift, round) => {
        const items = prepare(item.body as Flow[], shift, round);
        if (items.length > 0) await sink.push(items);
      }),
      this.follow('health', signal, async (item) => sink.push(health(item.body as FlowHealth))),
    ]);
    return undefined;
  }
}

function moved(picture: Topology, shift: number): Topology {
  return {
    ...picture,
    at: picture.at + shift,
    edges: picture.edges.map((edge) => ({ ...edge, lastSeen: edge.lastSeen + shift })),
  };
}

/** Only these namespaces and their direct peers. */
function within(picture: Topology, namespaces: readonly string[]): Topology {
  if (namespaces.length === 0) return picture;
  const wanted = new Set(namespaces);
  const inside = new Set(picture.nodes.filter((node) => wanted.has(node.namespace)).map((node) => node.id));
  const edges = picture.edges.filter((edge) => inside.has(edge.source) || inside.has(edge.target));
  const shown = new Set([...inside, ...edges.flatMap((edge) => [edge.source, edge.target])]);
  return { ...picture, nodes: picture.nodes.filter((node) => shown.has(node.id)), edges };
}
