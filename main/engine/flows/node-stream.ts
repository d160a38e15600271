import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { type Timestamp, timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import type { FlowHealth } from '../../../contract/flows.ts';
import type { AgentConnection } from '../agents/agent-connection.ts';
import { agentFailure } from '../agents/agent-connection.ts';
import type { AgentLink } from '../agents/agent-pool.ts';
import {
  type FlowFilter as HubbleFilter,
  type Flow as HubbleFlow,
  type LostEvent,
  LostEventSource,
} from '../agents/gen/flow/flow_pb.ts';
import {
  GetFlowsRequestSchema,
  type GetFlowsResponse,
  GetFlowsResponseSchema,
} from '../agents/gen/observer/observer_pb.ts';

export type NodeHealth = FlowHealth['nodes'][number];

/** What is asked of every node. */
export interface NodeRequest {
  readonly allow: readonly HubbleFilter[];
  readonly deny: readonly HubbleFilter[];
  readonly last: number;
  readonly since: number | undefined;
  readonly until: number | undefined;
  readonly follow: boolean;
}

const batchItems = 256;
const batchDelay = 40;

/** The stream of one node: connects, reads, reconnects where it broke off, and keeps its own health. */
export class NodeStream {
  readonly #link: AgentLink;
  readonly #request: NodeRequest;
  readonly #flow: (flow: HubbleFlow, node: string) => void;
  readonly #changed: () => void;
  /** Time of the newest flow: a broken stream goes on after it. */
  #newest: Timestamp | undefined;
  #health: NodeHealth;

  constructor(
    link: AgentLink,
    request: NodeRequest,
    handlers: { readonly flow: (flow: HubbleFlow, node: string) => void; readonly changed: () => void },
  ) {
    this.#link = link;
    this.#request = request;
    this.#flow = handlers.flow;
    this.#changed = handlers.changed;
    this.#health = { node: link.node, state: 'connecting', message: '', lostInKernel: 0, lostInAgent: 0 };
  }

  get health(): NodeHealth {
    return this.#health;
  }

  #set(state: NodeHealth['state'], message = ''): void {
    if (this.#health.state === state && this.#health.message === message) return;
    this.#health = { ...this.#health, state, message };
    this.#changed();
  }

  /** Runs until everything asked for was read, or until aborted. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      if (this.#health.state !== 'unreachable') this.#set('connecting');
      const client = await this.#link.client();
      if (signal.aborted) return;
      if (!client.ok) {
        this.#set('unreachable', `${client.failure.what} ${client.failure.why}`);
        if (client.failure.code === 'agent.closed') return;
        if (!this.#request.follow) return;
        continue;
      }
      try {
        await this.#read(client.value, signal);
        if (!this.#request.follow) {
          this.#set('ended');
          return;
        }
      } catch (error) {
        if (signal.aborted) return;
        this.#set('unreachable', agentFailure(this.#link.node, error).why);
        // A stream that breaks while the connection stays would otherwise be asked for again without a breath.
        await new Promise((resolve) => setTimeout(resolve, 500));
      }
    }
  }

  #body() {
    const { allow, deny, last, since, until, follow } = this.#request;
    const resumed = this.#newest;
    const later = resumed ? { ...resumed, nanos: resumed.nanos + 1 } : undefined;
    const from = later ?? (since === undefined ? undefined : timestampFromMs(since));
    return create(GetFlowsRequestSchema, {
      number: resumed ? 0n : BigInt(Math.max(0, Math.floor(last))),
      follow,
      whitelist: [...allow],
      blacklist: [...deny],
      ...(from ? { since: from } : {}),
      ...(until === undefined ? {} : { until: timestampFromMs(until) }),
    });
  }

  async #read(client: AgentConnection, signal: AbortSignal): Promise<void> {
    const request = this.#body();
    try {
      const batches = client.agent.watchFlows(
        {
          request: toBinary(GetFlowsRequestSchema, request),
          maxBatch: batchItems,
          maxDelayMilliseconds: batchDelay,
        },
        { signal },
      );
      this.#set('streaming');
      for await (const batch of batches)
        for (const bytes of batch.responses) this.#take(fromBinary(GetFlowsResponseSchema, bytes));
    } catch (error) {
      // Foreign Hubble servers have the observer only.
      if (ConnectError.from(error).code !== Code.Unimplemented) throw error;
      for await (const response of client.observer.getFlows(request, { signal })) {
        this.#set('streaming');
        this.#take(response);
      }
    }
  }

  #take(response: GetFlowsResponse): void {
    switch (response.responseTypes.case) {
      case 'flow': {
        const flow = response.responseTypes.value;
        if (flow.time) this.#newest = flow.time;
        this.#flow(flow, this.#link.node);
        break;
      }
      case 'lostEvents':
        this.#lost(response.responseTypes.value);
        break;
      default:
        break;
    }
  }

  #lost(event: LostEvent): void {
    const count = Number(event.numEventsLost);
    const inKernel = event.source === LostEventSource.PERF_EVENT_RING_BUFFER;
    this.#health = {
      ...this.#health,
      lostInKernel: this.#health.lostInKernel + (inKernel ? count : 0),
      lostInAgent: this.#health.lostInAgent + (inKernel ? 0 : count),
    };
    this.#changed();
  }
}
