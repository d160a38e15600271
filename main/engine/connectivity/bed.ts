import type { Result } from '../../../contract/failure.ts';
import type { KubeObject, ResourceType } from '../kube/cluster-connection.ts';
import type { UpPod } from './testbed.ts';

/** What one attempt of the probe printed. */
export interface Attempted {
  readonly ok: boolean;
  readonly kind?: string;
  readonly error?: string;
  readonly peer: {
    readonly pod?: string;
    readonly node?: string;
    readonly client?: string;
    readonly received?: number;
  };
  readonly status?: number;
  readonly addresses?: readonly string[];
  readonly milliseconds: number;
  readonly bytes?: number;
  readonly body?: string;
}

/** Names of the test's pods. */
export type PodName = 'client' | 'near' | 'far' | 'other' | 'host' | 'host-far';

/** Everything that a case works with. */
export interface Bed {
  readonly namespace: string;
  readonly pods: ReadonlyMap<PodName, UpPod>;
  /** Largest packet of pods; 0 where no agent says. */
  readonly mtu: number;
  readonly outside: string | undefined;
  /** Address of a service by its name; node ports by name. */
  readonly services: ReadonlyMap<string, { readonly address: string; readonly nodePort: number }>;
  /** Addresses of the nodes, by name. */
  readonly nodes: ReadonlyMap<string, string>;
  /** One attempt of the probe from a pod. */
  readonly ask: (from: PodName, args: readonly string[]) => Promise<Attempted>;
  readonly create: (type: ResourceType, object: KubeObject) => Promise<Result<KubeObject>>;
  readonly remove: (type: ResourceType, name: string) => Promise<Result<void>>;
  readonly signal: AbortSignal;
}

/** What an attempt should come to; true, or why it did not. */
export type Expectation = (attempted: Attempted, bed: Bed) => true | string;

/** How one case went. */
export interface Verdict {
  readonly passed: boolean;
  readonly message: string;
}

export interface Case {
  readonly id: string;
  readonly title: string;
  readonly group: string;
  readonly expected: string;
  readonly needs: readonly Need[];
  readonly run: (bed: Bed) => Promise<Verdict>;
}

/** What a case may need, in the operator's words. */
export type Need = 'two nodes' | 'a server outside' | 'an address for LoadBalancer services';

/** One attempt that must come to what is expected. */
export function once(from: PodName, args: (bed: Bed) => readonly string[], expect: Expectation): Case['run'] {
  return async (bed) => {
    const attempted = await bed.ask(from, args(bed));
    const judged = expect(attempted, bed);
    return judged === true
      ? {
          passed: true,
          message: `${attempted.peer.pod ?? attempted.addresses?.join(', ') ?? attempted.kind ?? 'answered'} in ${attempted.milliseconds.toFixed(1)} ms`,
        }
      : { passed: false, message: judged };
  };
}

const said = ({ ok, kind, error }: Attempted) => (ok ? 'it worked' : `${kind}: ${error ?? ''}`);

/** It works, and one of these pods answers. */
export const answers =
  (...pods: readonly PodName[]): Expectation =>
  (attempted) =>
    !attempted.ok
      ? said(attempted)
      : pods.length === 0 || pods.some((pod) => pod === attempted.peer.pod)
        ? true
        : `${attempted.peer.pod ?? 'somebody else'} answered instead of ${pods.join(' or ')}`;

/** The same, and the server sees the client's own address. */
export const seesClient =
  (client: PodName, ...pods: readonly PodName[]): Expectation =>
  (attempted, bed) => {
    const worked = answers(...pods)(attempted, bed);
    if (worked !== true) return worked;
    const seen = (attempted.peer.client ?? '').replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
    const own = bed.pods.get(client)?.address ?? '';
    return seen === own ? true : `the server sees ${seen} instead of ${own}`;
  };

/** It fails in one of these ways. */
export const failsBy =
  (...kinds: readonly string[]): Expectation =>
  (attempted) =>
    !attempted.ok && kinds.includes(attempted.kind ?? '')
      ? true
      : `${said(attempted)}, instead of failing by ${kinds.join(' or ')}`;

/** At least so many bytes came back. */
export const carries =
  (bytes: number, of: 'back' | 'there' = 'back'): Expectation =>
  (attempted) => {
    if (!attempted.ok) return said(attempted);
    const got = (of === 'back' ? attempted.bytes : attempted.peer.received) ?? 0;
    return got >= bytes ? true : `${got} of ${bytes} bytes arrived`;
  };

/** A URL of an address, also an IPv6 one. */
export function url(address: string, port: number, path = '/'): string {
  return `http://${address.includes(':') ? `[${address}]` : address}:${port}${path}`;
}

/** Host and port of an address, also an IPv6 one. */
export function socket(address: string, port: number): string {
  return `${address.includes(':') ? `[${address}]` : address}:${port}`;
}
