/** Rows of policy, all on one cluster: many rules against none, HTTP rules against none, and how soon a change counts. */
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:https';
import { parse } from 'yaml';
import { eventually, kubectl, lab } from '../lab/client.ts';
import { create, up } from './lab.ts';
import { type Effort, takeTurns, trips, turn } from './measure.ts';
import { addressOf, clientInPod, type Measurement, measureInPod, startPods, startTwin } from './pods.ts';
import { absolute, paired, quantile, type Row } from './report.ts';

function ingressPolicy(name: string, ingress: readonly unknown[]): unknown {
  return {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name, namespace: 'default' },
    spec: { endpointSelector: { matchLabels: { app: 'server' } }, ingress },
  };
}

/** A policy that admits the clients, and beside them many networks, each on a port of its own. */
function manyRules(total: number): unknown {
  const others = Array.from({ length: total - 1 }, (_, index) => ({
    fromCIDR: [`198.18.${index >> 8}.${index & 255}/32`],
    toPorts: [{ ports: [{ port: String(10_000 + index), protocol: 'TCP' }] }],
  }));
  const clients = {
    fromEndpoints: [{ matchLabels: { app: 'client' } }],
    toPorts: [{ ports: [{ port: '9000', protocol: 'TCP' }] }],
  };
  return ingressPolicy('many', [clients, ...others]);
}

/** Whether a policy is in force: whoever is not named by it is refused. */
async function inForce(server: string, refused: boolean): Promise<void> {
  await eventually(`the policy is ${refused ? 'in force' : 'gone'}`, 60, async () => {
    const probe = await measureInPod('stranger', ['once', '--to', server]).catch(() => ({ errors: 1 }) as Measurement);
    return probe.errors > 0 === refused ? true : undefined;
  });
}

/**
 * Measures the server while a policy governs it against its twin, which none does, in turns; the same programs serve both, one
 * client on the other node asks them.
 */
async function governed(effort: Effort, policy: unknown, name: string, modes: readonly string[]): Promise<Rates[]> {
  const addresses = { governed: await addressOf('server'), free: await addressOf('twin') };
  const server = `${addresses.governed}:9000`;
  await create([policy]);
  try {
    await inForce(server, true);
    const rates: Rates[] = [];
    for (const mode of modes) {
      const clients = new Map(
        Object.entries(addresses).map(([who, address]) => [
          who,
          clientInPod('far', [mode, '--to', `${address}:9000`], turn),
        ]),
      );
      const taken = await takeTurns(clients, effort.turns);
      rates.push({ governed: taken.get('governed')?.map(trips) ?? [], free: taken.get('free')?.map(trips) ?? [] });
    }
    return rates;
  } finally {
    await kubectl(['delete', 'ciliumnetworkpolicy', name]);
    await inForce(server, false);
  }
}

/** Rates per second, turn by turn. */
interface Rates {
  readonly governed: readonly number[];
  readonly free: readonly number[];
}

/** A row of one with a policy against the other with none. */
function againstNone(what: string, rates: Rates | undefined, budget?: number): Row {
  return paired(what, rates?.governed ?? [], rates?.free ?? [], 'none', budget);
}

/** Round trips and new connections with a thousand rules on the server against none. */
async function rules(effort: Effort): Promise<Row[]> {
  const total = 1000;
  const [roundTrips, opened] = await governed(effort, manyRules(total), 'many', ['rr', 'crr']);
  return [
    againstNone(`round trips with ${total} rules`, roundTrips, 0.97),
    againstNone(`new connections with ${total} rules`, opened),
  ];
}

/** Short connections with an HTTP rule against none. */
async function http(effort: Effort): Promise<Row[]> {
  const policy = ingressPolicy('http', [
    {
      fromEndpoints: [{ matchLabels: { app: 'client' } }],
      toPorts: [{ ports: [{ port: '9000', protocol: 'TCP' }], rules: { http: [{ method: 'GET' }] } }],
    },
  ]);
  const [short] = await governed(effort, policy, 'http', ['http']);
  return [againstNone('short connections with an HTTP policy', short, 0.12)];
}

/** One connection to the API server, so that what is timed is the change and not a program's start. */
class Api {
  readonly #agent: Agent;
  readonly #server: URL;

  constructor(kubeconfig: string) {
    const config = parse(readFileSync(kubeconfig, 'utf8')) as {
      clusters: { cluster: Record<string, string> }[];
      users: { user: Record<string, string> }[];
    };
    const cluster = config.clusters[0]?.cluster ?? {};
    const user = config.users[0]?.user ?? {};
    const read = (object: Record<string, string>, key: string): Buffer =>
      object[`${key}-data`] === undefined
        ? readFileSync(object[key] ?? '')
        : Buffer.from(object[`${key}-data`] ?? '', 'base64');
    this.#server = new URL(cluster.server ?? '');
    this.#agent = new Agent({
      keepAlive: true,
      maxSockets: 1,
      ca: read(cluster, 'certificate-authority'),
      cert: read(user, 'client-certificate'),
      key: read(user, 'client-key'),
    });
  }

  /** Sends a request; gives the time of day, in milliseconds, just before it was sent. */
  send(method: string, path: string, body?: unknown): Promise<number> {
    return new Promise((resolve, reject) => {
      const sent = Date.now();
      const outgoing = request(
        new URL(path, this.#server),
        { method, agent: this.#agent, headers: { 'Content-Type': 'application/json' } },
        (response) => {
          response.resume();
          response.on('end', () => {
            if ((response.statusCode ?? 500) < 300) resolve(sent);
            else reject(new Error(`${method} ${path}: ${response.statusCode ?? 0}`));
          });
        },
      );
      outgoing.on('error', reject);
      outgoing.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  close(): void {
    this.#agent.destroy();
  }
}

/** From the request to the API server until packets stop (and pass again) on every node. */
async function latency(effort: Effort): Promise<Row[]> {
  const server = `${await addressOf('server')}:9000`;
  const rounds = effort.quick ? 10 : 50;
  const path = '/apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies';
  const policy = {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name: 'cut', namespace: 'default' },
    spec: {
      endpointSelector: { matchLabels: { app: 'client' } },
      egressDeny: [{ toEndpoints: [{ matchLabels: { app: 'server' } }] }],
    },
  };
  const api = new Api((await lab(['kubeconfig'])).trim());
  const pause = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));
  try {
    const seconds = Math.ceil(rounds * 1.6) + 4;
    const probes = ['near', 'far'].map((pod) =>
      measureInPod(pod, ['switch', '--to', server, '--seconds', String(Math.min(seconds, 118))]),
    );
    await pause(2000);
    const sent: { at: number; passes: boolean }[] = [];
    for (let round = 0; round < rounds; round += 1) {
      // The times between changes are what is being sampled, so that they meet every phase of the agent's work.
      sent.push({ at: await api.send('POST', path, policy), passes: false });
      await pause(650 + Math.random() * 150);
      sent.push({ at: await api.send('DELETE', `${path}/cut`), passes: true });
      await pause(650 + Math.random() * 150);
    }
    const delays: number[] = [];
    let missing = 0;
    for (const probe of await Promise.all(probes)) {
      for (const [index, { at, passes }] of sent.entries()) {
        const before = sent[index + 1]?.at ?? Number.POSITIVE_INFINITY;
        const change = probe.changes?.find(
          (found) => found.passes === passes && found.atMilliseconds >= at - 1 && found.atMilliseconds < before,
        );
        if (change === undefined) missing += 1;
        else delays.push(change.atMilliseconds - at);
      }
    }
    const note = `${delays.length} changes on 2 nodes, median ${quantile(delays, 0.5).toFixed(0)} ms, ${missing} not seen before the next change`;
    const worst = missing > delays.length / 100 ? Number.NaN : quantile(delays, 0.99);
    return [absolute('policy applied → enforced on every node, p99', worst, 'ms', 500, 'most', note)];
  } finally {
    api.close();
  }
}

/** Measures all of them on one cluster. */
export async function policy(effort: Effort): Promise<Row[]> {
  await up('fairlead-native');
  await startPods(['stranger']);
  await startTwin();
  const rows: Row[] = [];
  for (const measure of [latency, rules, http]) {
    try {
      rows.push(...(await measure(effort)));
    } catch (error) {
      // One row that cannot be measured is said and does not take the others with it.
      process.stderr.write(`${measure.name}: ${error instanceof Error ? error.message : String(error)}\n`);
      rows.push({ what: `${measure.name}: could not be measured`, value: Number.NaN, budget: 0, note: String(error) });
    }
  }
  return rows;
}
