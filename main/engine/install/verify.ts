import { type Failure, failed, ok } from '../../../contract/failure.ts';
import type { ClusterAgents } from '../agents/agent-pool.ts';
import type { NodeFacts } from './facts.ts';
import type { Step, StepContext } from './steps.ts';
import { waitFor } from './wait.ts';
import type { Workbench } from './workbench.ts';

const seconds = 45;
const pollMilliseconds = 1000;

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener(
      'abort',
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}

async function verifyNode(
  agents: ClusterAgents,
  machine: NodeFacts,
  expected: number,
  leftOut: readonly string[],
  context: StepContext,
) {
  const { signal, message, log } = context;
  const link = () => agents.links().find((one) => one.node === machine.name);
  const found = await waitFor(
    [agents],
    signal,
    seconds,
    () => {
      const one = link();
      return one ? ok(one) : undefined;
    },
    (): Failure => ({
      code: 'install.no-agent',
      what: `No agent was found on ${machine.name}.`,
      why: 'Its pod is not listed.',
      fix: 'Look at the DaemonSet kube-system/fairlead-agent.',
    }),
  );
  if (!found.ok) return found;
  const end = Date.now() + seconds * 1000;
  let last = 'it did not answer';
  for (;;) {
    const client = await (link() ?? found.value).client();
    if (client.ok) {
      const status = await client.value.status();
      if (status.ok) {
        const others = status.value.nodes.filter(({ name }) => name !== machine.name && !leftOut.includes(name));
        const bad = others.filter((node) => !node.reachable);
        const unprobed = status.value.components.some((one) => one.name === 'node-health' && one.state === 'off');
        const failing = status.value.components.filter((one) => one.state === 'failing');
        if (
          status.value.ready &&
          bad.length === 0 &&
          failing.length === 0 &&
          (unprobed || others.length >= expected - 1)
        ) {
          const worst = Math.max(0, ...others.map((node) => node.latencyMilliseconds));
          log(
            `version ${status.value.version}, ${status.value.routingMode}, masquerade ${status.value.masquerade}, ${status.value.endpoints} endpoints`,
          );
          return ok({
            message:
              others.length > 0
                ? `answers; reaches ${others.length} other nodes, slowest in ${worst.toFixed(1)} ms`
                : 'answers',
          });
        }
        last =
          failing.length > 0
            ? failing.map((one) => `${one.name}: ${one.message}`).join('; ')
            : bad.length > 0
              ? `it does not reach ${bad.map((node) => `${node.name} (${node.error})`).join(', ')}`
              : others.length < expected - 1
                ? `it knows ${others.length + 1} of ${expected} nodes`
                : 'it says that it is not ready';
      } else last = status.failure.why;
    } else last = client.failure.why;
    message(last);
    if (signal.aborted || Date.now() > end)
      return failed({
        code: 'install.verify',
        what: `The agent on ${machine.name} runs, but not everything works.`,
        why: last,
        fix: 'Run fairlead-agent status on the node. Between the nodes UDP 8472 (tunnel) and TCP 4240 and 4244 must be open.',
      });
    await pause(pollMilliseconds, signal);
  }
}

/** Asks one node's agent how it is and whether it reaches the others; `expected` nodes have one. */
export function verifyStep(bench: Workbench, machine: NodeFacts, expected: number, title: string, id: string): Step {
  return {
    id: `${id}:${machine.name}`,
    title,
    node: machine.name,
    run: async (context) => {
      const agents = await bench.agents.open(bench.connection.cluster);
      if (!agents.ok) return agents;
      using held = agents.value;
      return await verifyNode(held, machine, expected, bench.leftOut ?? [], context);
    },
  };
}

/** Asks every agent how it is and whether it reaches the others. */
export function verifySteps(bench: Workbench, machines: readonly NodeFacts[]): readonly Step[] {
  return machines.map((machine) => verifyStep(bench, machine, machines.length, 'Verify', 'verify'));
}
