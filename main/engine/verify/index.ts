import type { CheckBatch, CheckResult } from '../../../contract/checks.ts';
import type { CallContext, CapabilityImplementation, Sink } from '../../../contract/implementation.ts';
import { defaultValues, type Failure, ok, type Result, type Values } from '../../../contract/index.ts';
import { type Agents, agentFailure, unaryTimeout } from '../agents/index.ts';
import type { Connections } from '../capability.ts';
import type { Findings } from '../checks/findings.ts';
import { type NodeCommands, onNode } from '../checks/node-command.ts';
import { type Check, type Outcome, runChecks } from '../checks/runner.ts';
import { askRights, type ClusterFacts, missingRights, type NodeFacts, readFacts } from '../install/facts.ts';
import { readImageArchive } from '../install/image.ts';
import { agentName } from '../install/names.ts';
import { neededRights, readInstalledValues } from '../install/read.ts';
import { waitFor } from '../install/wait.ts';
import type { Log } from '../log.ts';
import { clusterChecks } from './cluster-checks.ts';
import { judgeNode } from './node-checks.ts';
import type { PrintedFacts } from './node-facts.ts';
import { preflightChecks } from './preflight.ts';

export interface VerifyOptions {
  readonly connections: Connections;
  readonly agents: Agents;
  readonly log: Log;
  /** Where what preflights find is kept. */
  readonly findings: Findings;
  /** OCI archive of the agent's image. */
  readonly image: string;
  /** The agent's binary, for nodes that are reached over SSH. */
  readonly binary: string;
}

type Selection = Parameters<CapabilityImplementation<'verify'>['run']>[0];

interface Prepared {
  readonly commands: NodeCommands;
  readonly facts: ClusterFacts;
  readonly values: Values | undefined;
}

const parallelNodes = 4;

/** Runs the checks before an installation, and those of the verify page. */
export function createVerify(options: VerifyOptions): CapabilityImplementation<'verify'> {
  const { connections, agents, log, findings } = options;

  const prepare = async (cluster: string): Promise<Result<Prepared>> => {
    const connection = await connections.get(cluster);
    if (!connection.ok) return connection;
    const ssh = connections.ssh(cluster);
    const [facts, values, image] = await Promise.all([
      readFacts(connection.value, ssh),
      readInstalledValues(connection.value),
      readImageArchive(options.image),
    ]);
    if (!facts.ok) return facts;
    const writable = connections.writable(cluster);
    return ok({
      facts: facts.value,
      values: values.ok ? values.value : undefined,
      commands: {
        connection: connection.value,
        ssh,
        binary: options.binary,
        image: image.ok ? image.value : undefined,
        values: (values.ok ? values.value : undefined) ?? defaultValues,
        refused: writable.ok ? undefined : writable.failure.what,
      },
    });
  };

  const stream = async (
    checks: readonly Check[],
    keep: (result: CheckResult) => boolean,
    sink: Sink<CheckBatch>,
    { signal }: CallContext,
  ): Promise<Failure | undefined> => {
    await runChecks(checks, signal, parallelNodes, (results) => sink.push([{ results: results.filter(keep) }]));
    return undefined;
  };

  /** What the agent of a node says over its own API. */
  const agentOf = async (cluster: string, node: string, signal: AbortSignal) => {
    const opened = await agents.open(cluster);
    if (!opened.ok) return opened;
    using held = opened.value;
    const link = await waitFor(
      [held],
      signal,
      15,
      () => {
        const found = held.links().find((one) => one.node === node);
        return found ? ok(found) : undefined;
      },
      (): Failure => ({
        code: 'verify.no-agent',
        what: `No agent was found on ${node}.`,
        why: 'Its pod is not listed.',
        fix: 'Look at the DaemonSet fairlead-agent.',
      }),
    );
    if (!link.ok) return link;
    const client = await link.value.client();
    if (!client.ok) return client;
    const status = await client.value.status();
    if (!status.ok) return status;
    const maps = await client.value.agent.listMaps({}, { timeoutMs: unaryTimeout }).catch((error: unknown) => {
      log.warn('verify', agentFailure(node, error).what);
      return undefined;
    });
    return ok({ status: status.value, maps });
  };

  const nodeCheck = (
    { commands, values }: Prepared,
    machine: NodeFacts,
    cluster: string,
    installed: boolean,
  ): Check => ({
    id: 'node',
    title: 'The node answers',
    node: machine.name,
    group: '',
    run: async (signal) => {
      const [ran, agent] = await Promise.all([
        onNode(commands, machine, ['facts'], signal),
        installed ? agentOf(cluster, machine.name, signal) : undefined,
      ]);
      const problem: Failure | undefined = agent && !agent.ok ? agent.failure : undefined;
      if (!ran.ok) return refusedOutcome(ran.failure);
      const facts = JSON.parse(ran.value.stdout) as PrintedFacts;
      const results = judgeNode(machine.name, facts, agent?.ok ? agent.value : undefined, values);
      const way = { agent: 'its pod', ssh: 'SSH', pod: 'a short-lived pod' }[ran.value.way];
      if (problem)
        return {
          own: { ...refusedOutcome(problem), found: `asked by ${way}; its agent: ${problem.what} ${problem.why}` },
          results,
        };
      return {
        own: {
          status: 'passed',
          found: `asked by ${way}${agent?.ok ? ' and its agent’s API' : '; no agent is installed'}`,
          expected: 'an answer',
        },
        results,
      };
    },
  });

  return {
    async preflight(selection: Selection, sink, context) {
      const prepared = await prepare(selection.cluster);
      if (!prepared.ok) return prepared.failure;
      const { commands, facts } = prepared.value;
      const rights = () => missingRights(askRights(commands.connection), neededRights('install'));
      const checks = preflightChecks(commands, facts, rights, selection.nodes, selection.checks);
      const only = selection.checks;
      return await stream(
        checks,
        (result) => {
          findings.note(selection.cluster, [result]);
          return !only || only.includes(result.id) || (result.id === 'node' && result.status === 'failed');
        },
        sink,
        context,
      );
    },

    async run(selection: Selection, sink, context) {
      const prepared = await prepare(selection.cluster);
      if (!prepared.ok) return prepared.failure;
      const { commands, facts, values } = prepared.value;
      const only = selection.checks;
      const whole = clusterChecks(commands.connection, values);
      const forNodes = !only || only.some((id) => !whole.some((check) => check.id === id));
      const installed = facts.installed?.metadata.name === agentName;
      const machines = facts.machines.filter((machine) => !selection.nodes || selection.nodes.includes(machine.name));
      const checks = [
        ...(selection.nodes && !selection.nodes.includes('') ? [] : whole).filter(
          (check) => !only || only.includes(check.id),
        ),
        ...(forNodes
          ? machines.map((machine) => nodeCheck(prepared.value, machine, selection.cluster, installed))
          : []),
      ];
      // Held until the last check has ended, so that each does not connect anew.
      const held = installed ? await agents.open(selection.cluster) : undefined;
      using _agents = held?.ok ? held.value : undefined;
      return await stream(
        checks,
        ({ id, status }) => !only || only.includes(id) || (id === 'node' && status === 'failed'),
        sink,
        context,
      );
    },
  };
}

function refusedOutcome(failure: Failure): Outcome {
  return { status: 'failed', found: `${failure.what} ${failure.why}`, expected: 'an answer', fix: failure.fix };
}
