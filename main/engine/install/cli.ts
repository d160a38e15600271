import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { parse } from 'yaml';
import type { Implementation } from '../../../contract/implementation.ts';
import {
  type Failure,
  type InstallProgress,
  importValues,
  problemText,
  type Result,
  type Values,
  valuesSchema,
} from '../../../contract/index.ts';
import { createEngine } from '../engine.ts';
import { silent } from '../log.ts';

const help = `Installs, upgrades or removes Fairlead's agent, with the console's own engine.

  node main/engine/install/cli.ts [--kubeconfig PATH] [--context NAME] [--ssh-config PATH] [--image ARCHIVE] [--values FILE]
                                  [--set key=value …] [--canary NODE] [--restart] [--plan]
                                  [--remove-kube-proxy [--leave-out NODE …] | --restore-kube-proxy] [--rollback] [--uninstall]

--set takes the names of Cilium's chart: routingMode=native, cluster.name=lab, devices=eth0,eth1 …
--values FILE takes over a values file, also one of Cilium's chart; what has no equivalent is printed.
--canary is the node that goes first. --restart restarts pods that another plugin connected.
--remove-kube-proxy takes its DaemonSet away, with its rules, once the agents translate services; --restore-kube-proxy
brings it back. --leave-out goes on without a node that does not answer; one that answers is not left out.
--rollback goes back to what was there before the last application.
--plan prints the plan and writes nothing.
`;

/** Puts "a.b=c" into values, by the type that the schema gives the field. */
export function withSetting(values: Values, setting: string): Values {
  const at = setting.indexOf('=');
  if (at < 1) throw new Error(`--set ${setting}: write key=value`);
  const path = setting.slice(0, at).split('.');
  const text = setting.slice(at + 1);
  const copy = structuredClone(values) as Record<string, unknown>;
  let place = copy;
  for (const key of path.slice(0, -1)) {
    const next = place[key];
    if (typeof next !== 'object' || next === null) throw new Error(`--set ${setting}: there is no ${path.join('.')}`);
    place = next as Record<string, unknown>;
  }
  const key = path.at(-1) ?? '';
  const before = place[key];
  if (before === undefined) throw new Error(`--set ${setting}: there is no ${path.join('.')}`);
  // Anything but these would count as false.
  if (typeof before === 'boolean' && text !== 'true' && text !== 'false')
    throw new Error(`--set ${setting}: It must be one of true, false.`);
  place[key] =
    typeof before === 'boolean'
      ? text === 'true'
      : typeof before === 'number'
        ? Number(text)
        : Array.isArray(before)
          ? text.split(',').filter(Boolean)
          : text;
  const parsed = valuesSchema.safeParse(copy);
  if (!parsed.success) throw new Error(`--set ${setting}: ${problemText(parsed.error.issues[0])}`);
  return parsed.data;
}

/** The values of a file on top of others; what was not taken over is printed. */
function fromFile(path: string | undefined, onto: Values): Values {
  if (path === undefined) return onto;
  const read = importValues(parse(readFileSync(path, 'utf8')), onto);
  for (const one of read.ignored) process.stdout.write(`not taken over: ${one.path}: ${one.why}\n`);
  const [problem] = read.problems;
  if (problem) throw new Error(`${path}: ${problem.path}: ${problem.why}`);
  return read.values;
}

class Refused extends Error {
  readonly failure: Failure;
  constructor(failure: Failure) {
    super(failure.what);
    this.failure = failure;
  }
}

function must<T>(result: Result<T>): T {
  if (!result.ok) throw new Refused(result.failure);
  return result.value;
}

function print(failure: Failure): void {
  process.stderr.write(`${failure.what}\n  why: ${failure.why}\n  fix: ${failure.fix}\n`);
  if (failure.details) process.stderr.write(`  ${failure.details}\n`);
}

/** Prints what changed in the progress since the last time. */
function printer(): (progress: InstallProgress) => void {
  const shown = new Map<string, string>();
  const lines = new Map<string, string>();
  const began = Date.now();
  return (progress) => {
    for (const step of progress.steps) {
      if (step.state === 'waiting') continue;
      const newest = step.log.at(-1);
      if (newest !== undefined && lines.get(step.id) !== newest && newest !== step.message) {
        lines.set(step.id, newest);
        process.stdout.write(`         ${newest}\n`);
      }
      const text = `${step.state} ${step.message}`;
      if (shown.get(step.id) === text) continue;
      shown.set(step.id, text);
      const seconds = ((Date.now() - began) / 1000).toFixed(1).padStart(6);
      process.stdout.write(
        `${seconds}s ${step.state.padEnd(8)} ${step.title}${step.node ? ` on ${step.node}` : ''}${step.message ? `: ${step.message}` : ''}\n`,
      );
    }
  };
}

const localContext = () => ({ signal: new AbortController().signal, connection: 'command-line' });

async function chooseCluster(implementation: Implementation, wanted: string | undefined): Promise<string> {
  const stop = new AbortController();
  let chosen: string | undefined;
  let names: readonly string[] = [];
  await implementation.clusters
    .watch(
      {},
      {
        push: async (items) => {
          const clusters = items.at(-1)?.clusters ?? [];
          names = clusters.map((cluster) => cluster.name);
          chosen = (wanted ? clusters.find((cluster) => cluster.name === wanted) : clusters[0])?.id;
          stop.abort();
        },
      },
      { signal: stop.signal, connection: 'command-line' },
    )
    .catch(() => undefined);
  if (chosen) return chosen;
  throw new Refused({
    code: 'cluster.unknown',
    what: wanted ? `There is no context “${wanted}”.` : 'The kubeconfig names no cluster.',
    why: names.length > 0 ? `Known are: ${names.join(', ')}.` : 'No context was found.',
    fix: 'Name a kubeconfig with --kubeconfig and a context with --context.',
  });
}

async function main(args: readonly string[]): Promise<number> {
  const { values: given } = parseArgs({
    args: [...args],
    options: {
      kubeconfig: { type: 'string' },
      context: { type: 'string' },
      'ssh-config': { type: 'string' },
      image: { type: 'string' },
      set: { type: 'string', multiple: true, default: [] },
      plan: { type: 'boolean', default: false },
      uninstall: { type: 'boolean', default: false },
      rollback: { type: 'boolean', default: false },
      restart: { type: 'boolean', default: false },
      'remove-kube-proxy': { type: 'boolean', default: false },
      'restore-kube-proxy': { type: 'boolean', default: false },
      'leave-out': { type: 'string', multiple: true, default: [] },
      canary: { type: 'string' },
      values: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (given.help) {
    process.stdout.write(help);
    return 0;
  }
  const state = mkdtempSync(join(tmpdir(), 'fairlead-install-'));
  const engine = await createEngine({
    stateDirectory: state,
    log: silent,
    mode: 'desktop',
    ...(given.kubeconfig ? { kubeconfigs: [given.kubeconfig] } : {}),
    ...(given['ssh-config'] ? { sshConfig: given['ssh-config'] } : {}),
    ...(given.image ? { image: given.image } : {}),
  });
  try {
    const { implementation } = engine;
    const cluster = await chooseCluster(implementation, given.context);
    must(await implementation.clusters.connect({ cluster }, localContext()));
    const status = must(await implementation.install.status({ cluster }, localContext()));
    const action = given.uninstall
      ? 'uninstall'
      : given.rollback
        ? 'rollback'
        : status.installed
          ? 'upgrade'
          : 'install';
    const values = given.set.reduce(withSetting, fromFile(given.values, valuesSchema.parse(status.suggested)));
    const kubeProxy = given['remove-kube-proxy'] ? 'remove' : given['restore-kube-proxy'] ? 'restore' : undefined;
    const rollout = {
      restart: given.restart,
      ...(given.canary ? { canary: given.canary } : {}),
      ...(kubeProxy ? ({ kubeProxy } as const) : {}),
      ...(given['leave-out'].length > 0 ? { leaveOut: given['leave-out'] } : {}),
    };
    const plan = must(await implementation.install.plan({ cluster, action, values, rollout }, localContext()));
    for (const object of plan.objects)
      if (given.plan || object.action !== 'unchanged')
        process.stdout.write(
          `        ${object.action.padEnd(9)} ${object.kind} ${[object.namespace, object.name].filter(Boolean).join('/')}\n`,
        );
    for (const node of plan.nodes) process.stdout.write(`        node      ${node.name}: image ${node.image}\n`);
    for (const warning of plan.warnings) process.stdout.write(`warning: ${warning}\n`);
    for (const obstacle of plan.obstacles) print(obstacle);
    if (given.plan) return plan.obstacles.length > 0 ? 1 : 0;
    if (plan.obstacles.length > 0) return 1;
    must(await implementation.install.apply({ cluster, digest: plan.digest }, localContext()));
    process.once('SIGINT', () => void implementation.install.stop({ cluster }, localContext()));
    let last: InstallProgress | undefined;
    const report = printer();
    await implementation.install.watch(
      { cluster },
      {
        push: async (items) => {
          last = items.at(-1) as InstallProgress | undefined;
          if (last) report(last);
        },
      },
      localContext(),
    );
    for (const step of last?.steps ?? []) if (step.failure) print(step.failure);
    return last?.state === 'done' ? 0 : 1;
  } finally {
    await engine.close();
    rmSync(state, { recursive: true, force: true });
  }
}

/** Runs the command; prints failures; gives the exit code. */
export async function run(args: readonly string[]): Promise<number> {
  try {
    return await main(args);
  } catch (error) {
    if (error instanceof Refused) print(error.failure);
    else process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    return 1;
  }
}

if (import.meta.main) void run(process.argv.slice(2)).then((code) => process.exit(code));
