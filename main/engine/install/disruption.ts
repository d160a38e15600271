import { ok } from '../../../contract/failure.ts';
import { execute } from '../checks/execute.ts';
import { makeTestbed, type Testbed } from '../connectivity/testbed.ts';
import { type ClusterConnection, type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { Step } from './steps.ts';

/** Two steps around a rollout, and what has to be cleared away however it ends. */
export interface DisruptionProbe extends AsyncDisposable {
  readonly start: Step;
  readonly result: Step;
}

/** What `fairlead-agent probe disrupt` prints. */
interface Noticed {
  readonly seconds: number;
  readonly longestGapMilliseconds: number;
  readonly broken: number;
  readonly opened: number;
  readonly failed: number;
  readonly lastError?: string;
}

/** One line for the operator. */
export function noticedText({ seconds, longestGapMilliseconds, broken, opened, failed, lastError }: Noticed): string {
  const held = broken === 0 ? 'the held connection never broke' : `the held connection broke ${broken} times`;
  return `${seconds.toFixed(0)} s: ${held}, longest pause ${longestGapMilliseconds.toFixed(0)} ms; ${failed} of ${opened} new connections failed${failed > 0 && lastError ? ` (${lastError})` : ''}`;
}

/**
 * Holds a connection between two pods, from one node to another, and opens new ones beside it while agents are
 * replaced; to the pod itself, or to the address of a service. It never stands in the way: what it cannot do is said and skipped.
 */
export function createDisruptionProbe(
  connection: ClusterConnection,
  image: string,
  nodes: readonly string[],
  via: 'pod' | 'service' = 'pod',
): DisruptionProbe {
  const end = new AbortController();
  const stop = new AbortController();
  let testbed: Testbed | undefined;
  let running: ReturnType<typeof execute> | undefined;
  const ids =
    via === 'pod'
      ? { start: 'probe', result: 'probe-result' }
      : { start: 'service-probe', result: 'service-probe-result' };
  return {
    start: {
      id: ids.start,
      title: via === 'pod' ? 'Connection probe' : 'Connection probe through a service',
      node: '',
      run: async ({ signal, log }) => {
        const [from, to] = [nodes[0], nodes.at(-1)];
        if (!from || !to) return ok({ message: 'there are no nodes', skipped: true });
        testbed = makeTestbed(connection, image, via === 'pod' ? 'upgrade' : 'kube-proxy');
        const pods = await testbed.pods(
          [
            { name: 'client', node: from },
            { name: 'server', node: to },
          ],
          signal,
          45,
        );
        if (!pods.ok) return ok({ message: `not possible: ${pods.failure.what} ${pods.failure.why}`, skipped: true });
        let address = `${pods.value.get('server')?.address ?? ''}:8080`;
        if (via === 'service') {
          const made = await testbed.create(resources.services, {
            apiVersion: 'v1',
            kind: 'Service',
            metadata: { name: 'server' },
            spec: { selector: { name: 'server' }, ports: [{ port: 80, targetPort: 8080 }] },
          } as KubeObject);
          if (!made.ok) return ok({ message: `not possible: ${made.failure.what} ${made.failure.why}`, skipped: true });
          address = (made.value as { readonly spec?: { readonly clusterIP?: string } }).spec?.clusterIP ?? '';
        }
        running = execute(
          connection,
          {
            namespace: testbed.namespace,
            pod: 'client',
            container: 'probe',
            command: ['/fairlead-agent', 'probe', 'disrupt', `http://${address}`],
          },
          { signal: stop.signal, seconds: 3600, until: end.signal },
        );
        log(`client on ${from}, server on ${to} at ${address}`);
        return ok({ message: `from ${from} to ${to}: one connection held, ten opened each second` });
      },
    },
    result: {
      id: ids.result,
      title: 'What connections noticed',
      node: '',
      run: async ({ log }) => {
        if (!running) return ok({ message: 'nothing was measured', skipped: true });
        end.abort();
        const ran = await running;
        if (!ran.ok) return ok({ message: `nothing was measured: ${ran.failure.why}`, skipped: true });
        try {
          const noticed = JSON.parse(ran.value.stdout) as Noticed;
          log(ran.value.stdout.trim());
          return ok({ message: noticedText(noticed) });
        } catch {
          return ok({ message: `nothing was measured: ${ran.value.stderr.trim().slice(0, 200)}`, skipped: true });
        }
      },
    },
    async [Symbol.asyncDispose]() {
      end.abort();
      stop.abort();
      await testbed?.[Symbol.asyncDispose]();
    },
  };
}
