import type { Cancel, Client, Connection, StreamHandlers } from '../../contract/client.ts';
import type { Cluster, Inventory } from '../../contract/clusters.ts';
import { type Failure, failed, ok, type Result } from '../../contract/failure.ts';
import type { FlowItem } from '../../contract/flows.ts';
import type { InstallProgress } from '../../contract/install.ts';
import type { PolicyId } from '../../contract/policies.ts';
import { createFixtureConnectivity } from './fixture-connectivity.ts';
import { agentSilent, makeClusters, makeInventory, type Preset, presets } from './fixture-data.ts';
import { createFlowSource, makeTalks, makeTopology, matchesFilter } from './fixture-flows.ts';
import { checkFixture, defaultValues, makePlan, makeProfiles, makeProgress } from './fixture-install.ts';
import { makePolicies } from './fixture-policies.ts';
import { createFixtureSupport, fixtureAudit } from './fixture-support.ts';
import { createFixtureTerminals } from './fixture-terminals.ts';
import { fixtureSchema, validateText } from './fixture-validate.ts';
import { createFixtureVerify } from './fixture-verify.ts';

/** Answers after a moment, as an engine would. */
function soon<T>(make: () => Result<T>, milliseconds = 60): Promise<Result<T>> {
  return new Promise((resolve) => setTimeout(() => resolve(make()), milliseconds));
}

/** A value that streams follow. */
function cell<T>(initial: T) {
  let value = initial;
  const listeners = new Set<(value: T) => void>();
  return {
    get: () => value,
    set(next: T) {
      value = next;
      for (const listener of [...listeners]) listener(next);
    },
    follow(handlers: StreamHandlers<T>): Cancel {
      const listener = (next: T) => void handlers.batch([next]);
      const timer = setTimeout(() => {
        listeners.add(listener);
        listener(value);
      }, 40);
      return () => {
        clearTimeout(timer);
        listeners.delete(listener);
      };
    },
  };
}

/** Ends a stream with a failure a moment after it was opened. */
function failing<T>(handlers: StreamHandlers<T>, failure: Failure): Cancel {
  const timer = setTimeout(() => handlers.end(failure), 80);
  return () => clearTimeout(timer);
}

const sameId = (a: PolicyId, b: PolicyId) => a.kind === b.kind && a.namespace === b.namespace && a.name === b.name;

/**
 * A client of a made-up engine: everything in memory, nothing real. Serves design, pictures and tests of the interface;
 * never part of a release build.
 */
export function createFixtureConnection(name: string): Connection {
  const preset: Preset = presets.find((one) => one === name) ?? 'galaxy';
  const still = new URLSearchParams(location.search).has('still');
  const clusters = cell<readonly Cluster[]>(makeClusters(preset));
  const inventory = cell<Inventory>(makeInventory(preset));
  const policies = cell(makePolicies(preset));
  const progress = cell<InstallProgress | undefined>(undefined);
  let installed = preset !== 'errors';
  const enforced = () => policies.get().some(({ summary }) => summary.id.name === 'rule1');
  const change = (id: string, to: Partial<Cluster>) =>
    clusters.set(clusters.get().map((cluster) => (cluster.id === id ? { ...cluster, ...to } : cluster)));
  const isProtected = (id: string) => clusters.get().find((cluster) => cluster.id === id)?.protected ?? false;
  const refused: Failure = {
    code: 'cluster.protected',
    what: 'Nothing was changed.',
    why: 'The cluster is protected: the console only reads from it.',
    fix: 'Unlock it in Clusters by typing its name.',
  };
  if (!still)
    setInterval(() => change('galaxy', { dataAt: Date.now(), latencyMilliseconds: 2.8 + Math.random() }), 2000);

  const client: Client = {
    application: {
      about: () =>
        soon(() =>
          ok({
            version: '0.1.0',
            mode: 'browser',
            platform: 'linux',
            lab: {
              possible: preset !== 'errors',
              running: false,
              reason: preset === 'errors' ? 'The lab needs root on Linux; this process runs as an ordinary user.' : '',
            },
            recordings: [{ name: 'demo', title: 'Starwars demo (recorded in the lab)' }],
          }),
        ),
      startLab: (_input, handlers) => {
        const lines = [
          'checking what this machine has',
          'building: cached',
          'etcd ready in 0.8 s',
          'kube-apiserver ready in 2.9 s',
          'node1 ready',
          'node2 ready',
          'node3 ready',
          'agent deployed',
          'demo applied',
        ];
        let at = 0;
        const timer = setInterval(() => {
          const line = lines[at];
          at += 1;
          if (line) return void handlers.batch([{ line }]);
          clearInterval(timer);
          clusters.set(makeClusters('galaxy').slice(0, 1));
          handlers.end();
        }, 350);
        return () => clearInterval(timer);
      },
      openRecording: () =>
        soon(() => {
          if (!clusters.get().some((cluster) => cluster.id === 'demo'))
            clusters.set([...clusters.get(), ...makeClusters('galaxy').slice(4)]);
          change('demo', { state: 'online', dataAt: Date.now() });
          return ok({ cluster: 'demo' });
        }),
      record: (_input, handlers) => failing(handlers, agentSilent),
      audit: () => soon(() => ok({ entries: fixtureAudit(preset) })),
    },
    ...createFixtureSupport(preset),
    clusters: {
      chooseKubeconfig: () => soon(() => ok({ added: [] })),
      sshHosts: () => soon(() => ok({ hosts: ['bastion', 'control-plane'] })),
      addSsh: () => soon(() => ok({ added: [], problems: [] })),
      setColour: ({ cluster, colour }) =>
        soon(() => {
          change(cluster, { colour });
          return ok({});
        }),
      watch: (_input, handlers) => {
        const problems: Failure[] =
          preset === 'errors'
            ? [
                {
                  code: 'kubeconfig.malformed',
                  what: 'The file “work” is not a kubeconfig.',
                  why: 'Line 14: mapping values are not allowed here.',
                  fix: 'Mend the file; Fairlead reads it again when it changes.',
                },
              ]
            : [];
        return clusters.follow({
          batch: (items) => handlers.batch(items.map((list) => ({ clusters: list, problems }))),
          end: handlers.end,
        });
      },
      addKubeconfig: ({ text }) =>
        soon(() => {
          if (!text.includes('clusters'))
            return failed({
              code: 'kubeconfig.malformed',
              what: 'This is not a kubeconfig.',
              why: 'It has no “clusters”.',
              fix: 'Paste the whole file, from apiVersion to users.',
            });
          clusters.set([...clusters.get(), ...makeClusters('galaxy').slice(1, 2)]);
          return ok({ added: ['prod'] });
        }),
      addKubeconfigPath: ({ path }) =>
        soon(() =>
          failed({
            code: 'kubeconfig.missing',
            what: `There is no file ${path}.`,
            why: 'Nothing was found at that path on the machine where Fairlead runs.',
            fix: 'Check the path, or paste the file’s text.',
          }),
        ),
      forget: ({ cluster }) =>
        soon(() => {
          clusters.set(clusters.get().filter((one) => one.id !== cluster));
          return ok({});
        }),
      connect: ({ cluster }) => {
        const bad = cluster === 'staging';
        change(cluster, { state: 'connecting' });
        setTimeout(
          () =>
            change(
              cluster,
              bad
                ? { state: 'offline' }
                : { state: 'online', latencyMilliseconds: 12.5, dataAt: Date.now(), serverVersion: 'v1.33.1' },
            ),
          900,
        );
        return soon(() => ok({}));
      },
      disconnect: ({ cluster }) =>
        soon(() => {
          change(cluster, { state: 'idle' });
          return ok({});
        }),
      describeExecPlugin: () =>
        soon(() =>
          ok({
            command: 'aws',
            resolved: '/usr/local/bin/aws',
            args: ['--region', 'eu-central-1', 'eks', 'get-token', '--cluster-name', 'payments', '--output', 'json'],
            env: [],
            hash: 'sha256:9b1e5c0d77aa',
          }),
        ),
      allowExecPlugin: ({ cluster }) =>
        soon(() => {
          change(cluster, { state: 'idle', execPlugin: { command: 'aws', allowed: true, locked: false } });
          return ok({});
        }),
      setProtected: (input) =>
        soon(() => {
          const found = clusters.get().find((cluster) => cluster.id === input.cluster);
          if (!input.protected && input.typedName !== found?.name)
            return failed({
              code: 'cluster.wrong-name',
              what: 'The cluster stays protected.',
              why: 'The name that was typed is not its name.',
              fix: 'Type the name exactly as it is shown.',
            });
          change(input.cluster, { protected: input.protected });
          return ok({});
        }),
      inventory: (_input, handlers) => inventory.follow(handlers),
      deletePod: ({ cluster }) => soon(() => (isProtected(cluster) ? failed(refused) : ok({}))),
    },
    flows: {
      watch: (request, handlers) => {
        const source = createFlowSource(makeTalks(inventory.get(), enforced()), inventory.get());
        const passes = (flow: Parameters<typeof matchesFilter>[0]) =>
          (request.allow.length === 0 || request.allow.some((filter) => matchesFilter(flow, filter))) &&
          !request.deny.some((filter) => matchesFilter(flow, filter));
        const make = (count: number, from: number, to: number) => {
          const items: FlowItem[] = [];
          for (let index = 0; index < count; index += 1) {
            const flow = source(from + ((to - from) * index) / count);
            if (flow && passes(flow)) items.push({ kind: 'flow', flow });
          }
          return items;
        };
        const lossy = preset === 'errors';
        const health = (): FlowItem => ({
          kind: 'health',
          health: {
            nodes: inventory.get().nodes.map((node, index) => ({
              node: node.name,
              state: lossy && index === 2 ? 'unreachable' : 'streaming',
              message: lossy && index === 2 ? agentSilent.why : '',
              lostInKernel: lossy && index === 1 ? 18_210 : 0,
              lostInAgent: lossy && index === 1 ? 134 : 0,
            })),
            lostInConsole: 0,
            rate: preset === 'many' ? 1900 : 41,
          },
        });
        const start = Date.now();
        const past = preset === 'many' ? 5000 : 400;
        const first = setTimeout(() => void handlers.batch([...make(past, start - 60_000, start), health()]), 120);
        if (!request.follow || still) return () => clearTimeout(first);
        const timer = setInterval(() => {
          const now = Date.now();
          void handlers.batch([
            ...make(preset === 'many' ? 400 : 8, now - 200, now),
            ...(Math.random() < 0.2 ? [health()] : []),
          ]);
        }, 200);
        return () => {
          clearTimeout(first);
          clearInterval(timer);
        };
      },
      asHubbleCommand: ({ allow, deny, follow }) =>
        soon(() => {
          const flags = (not: string) => (filter: Readonly<Record<string, unknown>>) =>
            Object.entries(filter).map(
              ([key, value]) =>
                `${not}--${key.replace(/[A-Z]+/g, (part) => `-${part.toLowerCase()}`)} ${String(value)}`,
            );
          return ok({
            command: [
              'hubble observe',
              ...(follow ? ['--follow'] : []),
              ...allow.flatMap(flags('')),
              ...deny.flatMap(flags('--not ')),
            ].join(' '),
          });
        }),
      fromHubbleCommand: ({ command }) =>
        soon(() =>
          command.includes('--verdict DROPPED')
            ? ok({ allow: [{ verdict: ['DROPPED' as const] }], deny: [] })
            : failed({
                code: 'flows.flag-unknown',
                what: 'The line could not be taken over.',
                why: 'The fixture understands only --verdict DROPPED.',
                fix: 'Use the real engine.',
              }),
        ),
    },
    topology: {
      watch: (request, handlers) => {
        const talks = makeTalks(inventory.get(), enforced());
        let phase = 0;
        const send = () => {
          phase += 0.4;
          const picture = makeTopology(inventory.get(), talks, request.scope, request.namespaces, phase);
          const more = {
            ...(preset === 'large' && request.scope !== 'pod'
              ? {
                  summarised: {
                    from: 'pod' as const,
                    elements: 2210,
                    text: 'At pod scope this would be 2,210 elements; namespaces and workloads are drawn instead. Filter by namespace to see pods.',
                  },
                }
              : {}),
            ...(preset === 'errors' ? { missing: ['node3'], lost: 18_344 } : {}),
          };
          void handlers.batch([{ ...picture, ...more }]);
        };
        const first = setTimeout(send, 150);
        const timer = still ? undefined : setInterval(send, 1000);
        return () => {
          clearTimeout(first);
          clearInterval(timer);
        };
      },
    },
    policies: {
      watch: (_input, handlers) =>
        preset === 'errors' && new URLSearchParams(location.search).has('broken')
          ? failing(handlers, {
              code: 'policies.forbidden',
              what: 'Policies cannot be listed.',
              why: 'User admin may not list ciliumnetworkpolicies.cilium.io in the cluster.',
              fix: 'Ask for a role with list and watch on cilium.io policies.',
            })
          : policies.follow({
              batch: (items) => handlers.batch(items.map((list) => ({ policies: list.map((one) => one.summary) }))),
              end: handlers.end,
            }),
      read: ({ id }) =>
        soon(() => {
          const found = policies.get().find((one) => sameId(one.summary.id, id));
          return found
            ? ok({ text: found.text, resourceVersion: '1207' })
            : failed({
                code: 'policy.gone',
                what: `There is no ${id.kind} ${id.namespace}/${id.name}.`,
                why: 'It has been deleted in the meantime.',
                fix: 'Go back to the list.',
              });
        }),
      validate: ({ text }) => soon(() => ok(validateText(text, inventory.get())), 30),
      dryRun: ({ text }) =>
        soon(() => {
          const { id } = validateText(text, inventory.get());
          const old = id && policies.get().find((one) => sameId(one.summary.id, id));
          if (!id)
            return failed({
              code: 'policy.invalid',
              what: 'The server refuses this policy.',
              why: 'It does not parse.',
              fix: 'Mend what the editor marks.',
            });
          return ok({
            action: old ? (old.text === text ? ('unchanged' as const) : ('update' as const)) : ('create' as const),
            before: old?.text ?? '',
            after: text,
            resourceVersion: old ? '1207' : '',
            warnings: [],
          });
        }, 250),
      apply: ({ cluster, text }) =>
        soon(() => {
          if (isProtected(cluster)) return failed(refused);
          const { id, selects, problems } = validateText(text, inventory.get());
          if (!id)
            return failed({
              code: 'policy.invalid',
              what: 'Nothing was applied.',
              why: 'The policy does not parse.',
              fix: 'Mend what the editor marks.',
            });
          if (text.includes('conflict'))
            return failed({
              code: 'policy.conflict',
              what: 'Somebody else changed this policy.',
              why: 'It is no longer what was read when editing began.',
              fix: 'Compare with the version in the cluster and take over what you need.',
            });
          const others = policies.get().filter((one) => !sameId(one.summary.id, id));
          const existed = others.length < policies.get().length;
          policies.set([
            ...others,
            {
              text,
              summary: {
                id,
                selector: 'as written',
                description: '',
                selects,
                directions: [text.includes('egress:') ? 'egress' : 'ingress'],
                status: problems.some((problem) => problem.severity === 'error') ? 'invalid' : 'valid',
                problems,
                enforcedOn: 3,
                expectedOn: 3,
                createdAt: Date.now(),
                managedBy: '',
              },
            },
          ]);
          return ok({ id, action: existed ? ('update' as const) : ('create' as const) });
        }, 300),
      remove: ({ cluster, id }) =>
        soon(() => {
          if (isProtected(cluster)) return failed(refused);
          policies.set(policies.get().filter((one) => !sameId(one.summary.id, id)));
          return ok({});
        }),
      schema: () => soon(() => ok({ schema: fixtureSchema })),
    },
    install: {
      status: () =>
        soon(() =>
          ok({
            installed,
            version: installed ? '0.1.0' : '',
            ...(installed ? { values: defaultValues } : {}),
            image: 'fairlead-agent 0.1.0 (14.2 MB)',
            suggested: defaultValues,
            reasons: {
              routingMode: 'The nodes are not all on one layer 2 network, so packets between nodes need a tunnel.',
              kubeProxyReplacement: 'No kube-proxy runs in this cluster.',
              k8sServiceHost: 'Without kube-proxy the agent must know the API server’s own address.',
            },
            kubeProxy: { kind: 'none', text: 'No kube-proxy runs in this cluster.' },
            profiles: makeProfiles(),
          }),
        ),
      check: ({ values }) => soon(() => ok(checkFixture(values as typeof defaultValues)), 20),
      plan: ({ action, values }) =>
        soon(
          () =>
            ok(
              makePlan(
                action,
                { ...defaultValues, ...values } as typeof defaultValues,
                inventory.get(),
                preset === 'errors',
              ),
            ),
          400,
        ),
      apply: ({ cluster }) => {
        if (isProtected(cluster)) return soon(() => failed(refused));
        const action = installed ? 'uninstall' : 'install';
        let tick = 0;
        progress.set(makeProgress(action, inventory.get(), 0));
        const timer = setInterval(() => {
          tick += 1;
          const next = makeProgress(action, inventory.get(), tick);
          progress.set(next);
          if (next.state === 'done') {
            installed = action === 'install';
            clearInterval(timer);
          }
        }, 500);
        return soon(() => ok({}));
      },
      stop: () => soon(() => ok({})),
      watch: (_input, handlers) => {
        const cancel = progress.follow({
          batch: (items) => handlers.batch(items.filter((item) => item !== undefined)),
          end: handlers.end,
        });
        return cancel;
      },
    },
    terminals: createFixtureTerminals(preset) satisfies Client['terminals'],
    connectivity: createFixtureConnectivity(),
    verify: createFixtureVerify(() => inventory.get()),
  };
  return { client, state: () => 'open', onState: () => () => {}, close: () => {} };
}
