import type { CheckResult } from '../../../contract/checks.ts';
import type { Failure } from '../../../contract/index.ts';
import { type NodeCommands, onNode, type Way } from '../checks/node-command.ts';
import { type Check, type Outcome, partOf } from '../checks/runner.ts';
import type { ClusterFacts, NodeFacts } from '../install/facts.ts';
import { nodeHasImage } from '../install/image.ts';

const ways: Readonly<Record<Way, string>> = {
  agent: 'through its agent',
  ssh: 'over SSH',
  pod: 'by a short-lived pod',
};

/** What the agent's own preflight prints. */
interface Printed {
  readonly checks: readonly {
    readonly id: string;
    readonly title: string;
    readonly status: 'pass' | 'warn' | 'fail' | 'skip';
    readonly found: string;
    readonly expected: string;
    readonly fix?: string;
  }[];
}

const statuses = { pass: 'passed', warn: 'warning', fail: 'failed', skip: 'skipped' } as const;

/** Prefix of ids of checks that the node's own preflight answers. */
export const nodePrefix = 'node.';

function notAsked(failure: Failure): Outcome {
  return {
    status: 'failed',
    found: `${failure.what} ${failure.why}`,
    expected: 'an answer of the node',
    fix: failure.fix,
  };
}

/** Reads the agent's output into results; throws where it is no such output. */
export function readPreflight(node: string, text: string): readonly CheckResult[] {
  const printed = JSON.parse(text) as Printed;
  return printed.checks.map(({ id, title, status, found, expected, fix }) =>
    partOf(
      { id: `${nodePrefix}${id}`, title, node, group: 'Node' },
      { status: statuses[status], found, expected, ...(fix ? { fix } : {}) },
    ),
  );
}

function nodeCheck(
  commands: NodeCommands,
  machine: NodeFacts,
  peers: readonly string[],
  only: readonly string[],
): Check {
  return {
    id: 'node',
    title: 'The node answers',
    node: machine.name,
    group: 'Node',
    run: async (signal) => {
      const selection = only.length > 0 ? ['--check', only.map((id) => id.slice(nodePrefix.length)).join(',')] : [];
      const among = peers.length > 0 ? ['--peer', peers.join(',')] : [];
      const ran = await onNode(commands, machine, ['preflight', '-o', 'json', ...selection, ...among], signal);
      if (!ran.ok) return notAsked(ran.failure);
      const results = readPreflight(machine.name, ran.value.stdout);
      return {
        own: { status: 'passed', found: `asked ${ways[ran.value.way]}`, expected: 'an agent, SSH or a pod' },
        results,
      };
    },
  };
}

/** A check that is answered by what the API server has said already. */
function known(id: string, title: string, node: string, group: string, outcome: () => Outcome): Check {
  return { id, title, node, group, run: async () => outcome() };
}

function machineChecks(commands: NodeCommands, machine: NodeFacts): readonly Check[] {
  const { name } = machine;
  return [
    known('pod-cidr', 'Pod CIDR', name, 'Kubernetes', () => {
      const cidrs = [...machine.podCIDRs, ...machine.podCIDRs6];
      return cidrs.length > 0
        ? { status: 'passed', found: cidrs.join(', '), expected: 'one is assigned' }
        : {
            status: 'failed',
            found: 'none',
            expected: 'one is assigned',
            fix: 'Start kube-controller-manager with --allocate-node-cidrs=true and --cluster-cidr (kubeadm: podSubnet).',
          };
    }),
    known('system', 'Operating system', name, 'Kubernetes', () => ({
      status: machine.os === 'linux' ? 'passed' : 'skipped',
      found: [machine.image, machine.kernel].filter(Boolean).join(', '),
      expected: 'Linux',
    })),
    known('image', 'Way for the agent’s image', name, 'Kubernetes', () => {
      const present = commands.image !== undefined && nodeHasImage(machine.images, commands.image);
      if (present) return { status: 'passed', found: 'the node holds it', expected: 'there, or SSH' };
      if (machine.ssh) return { status: 'passed', found: `SSH as ${machine.ssh}`, expected: 'there, or SSH' };
      return {
        status: 'failed',
        found: 'not there, and no SSH',
        expected: 'there, or SSH',
        fix: `Add a Host for ${name} (${machine.address}) to your SSH configuration, or load the image by hand: ctr -n k8s.io images import fairlead-agent.tar.`,
      };
    }),
  ];
}

function clusterChecks(facts: ClusterFacts, rights: () => Promise<readonly Failure[]>): readonly Check[] {
  return [
    {
      id: 'rights',
      title: 'Rights of this user',
      node: '',
      group: 'Kubernetes',
      run: async () => {
        const [missing] = await rights();
        return missing
          ? { status: 'failed', found: missing.why, expected: 'everything that applying needs', fix: missing.fix }
          : { status: 'passed', found: 'everything is allowed', expected: 'everything that applying needs' };
      },
    },
    known('other-network', 'Another pod network', '', 'Kubernetes', () => {
      const found = facts.foreign
        .map(({ product, namespace, name }) => `${product} (${[namespace, name].filter(Boolean).join('/')})`)
        .join(', ');
      return found === ''
        ? { status: 'passed', found: 'none', expected: 'none' }
        : {
            status: 'failed',
            found,
            expected: 'none',
            fix:
              facts.foreign.find(({ fix }) => fix)?.fix ?? 'Remove it first; two pod networks on one node break both.',
          };
    }),
    known('kube-proxy', 'kube-proxy', '', 'Kubernetes', () => ({
      status: facts.kubeProxy ? 'warning' : 'passed',
      found: facts.proxy.text,
      expected: 'either, as kubeProxyReplacement says',
      ...(facts.kubeProxy
        ? {
            fix:
              facts.proxy.kind === 'daemonset'
                ? 'None needed. The plan can remove it, with its rules, once the agents translate services.'
                : 'None needed; both translate services then.',
          }
        : {}),
    })),
    known('api-server', 'Real address of the API server', '', 'Kubernetes', () =>
      facts.apiEndpoint
        ? {
            status: 'passed',
            found: `${facts.apiEndpoint.host}:${facts.apiEndpoint.port}`,
            expected: 'an address that needs no service',
          }
        : {
            status: facts.kubeProxy ? 'warning' : 'failed',
            found: 'the Endpoints of default/kubernetes name none',
            expected: 'an address that needs no service',
            fix: 'Set k8sServiceHost and k8sServicePort by hand.',
          },
    ),
  ];
}

/** Everything that is asked before an installation. `only` keeps these ids; ids of a node's own checks begin with "node.". */
export function preflightChecks(
  commands: NodeCommands,
  facts: ClusterFacts,
  rights: () => Promise<readonly Failure[]>,
  nodes: readonly string[] | undefined,
  only: readonly string[] | undefined,
): readonly Check[] {
  const machines = facts.machines.filter((machine) => !nodes || nodes.includes(machine.name));
  const wanted = (check: Check) => !only || only.includes(check.id);
  const inner = only?.filter((id) => id.startsWith(nodePrefix)) ?? [];
  const linux = machines.filter((machine) => machine.os === 'linux');
  return [
    ...(nodes && !nodes.includes('') ? [] : clusterChecks(facts, rights)).filter(wanted),
    ...machines.flatMap((machine) => machineChecks(commands, machine)).filter(wanted),
    ...(!only || only.includes('node') || inner.length > 0
      ? linux.map((machine) => {
          const peers = facts.machines.filter((other) => other.name !== machine.name && other.address);
          return nodeCheck(
            commands,
            machine,
            peers.map((other) => other.address),
            inner,
          );
        })
      : []),
  ];
}
