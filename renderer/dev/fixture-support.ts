import type { AuditEntry } from '../../contract/application.ts';
import type { Client, StreamHandlers } from '../../contract/client.ts';
import { ok, type Result } from '../../contract/failure.ts';
import type { LogItem } from '../../contract/logs.ts';
import type { Question } from '../../contract/questions.ts';
import { actionSchema } from '../../contract/rights.ts';
import type { SupportItem } from '../../contract/support.ts';
import { agentSilent, type Preset } from './fixture-data.ts';

const soon = <T>(value: T): Promise<Result<T>> => new Promise((resolve) => setTimeout(() => resolve(ok(value)), 60));
const failing = <T>(handlers: StreamHandlers<T>) => {
  const timer = setTimeout(() => handlers.end(agentSilent), 80);
  return () => clearTimeout(timer);
};

const item = (id: string, title: string, contents: string, sensitive: string, estimate: number): SupportItem => ({
  id,
  title,
  contents,
  sensitive,
  estimate,
  chosen: sensitive === '',
});
const items: readonly SupportItem[] = [
  item('versions', 'Versions', 'Of the console, the API server, the agents and the nodes.', '', 4_000),
  item('agents', 'Agents', 'Status, components, maps and journal of every agent.', '', 900_000),
  item('logs', 'Logs of the agents', 'The last 10,000 lines of each.', 'Names and addresses of pods.', 6_200_000),
  item('flows', 'Flows', 'The last 2,000 of every node.', 'Who talks to whom.', 1_400_000),
];

const policy = (port: number) =>
  `apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: rule1\n  namespace: default\nspec:\n  endpointSelector:\n    matchLabels:\n      org: empire\n  ingress:\n    - toPorts:\n        - ports:\n            - port: "${port}"\n`;
const start = Date.UTC(2026, 4, 11, 9, 30);

/** Writes that the console made. */
export function fixtureAudit(preset: Preset): readonly AuditEntry[] {
  if (preset === 'empty') return [];
  const long = preset === 'long' ? '-with-a-name-that-goes-on-and-on-as-generated-names-do-in-large-installations' : '';
  const entry = (minutes: number, action: string, subject: string, result: string, more: object = {}): AuditEntry => ({
    time: start + minutes * 60_000,
    cluster: `galaxy${long}`,
    action,
    subject: `${subject}${long}`,
    result,
    who: 'anna@workstation',
    before: '',
    after: '',
    ...more,
  });
  return [
    entry(42, 'policies.apply', 'default/rule1', 'done', { before: policy(8080), after: policy(80) }),
    entry(37, 'end node debug pod', 'kube-system/fairlead-debug-4f1c on node2 (busybox:1.37)', 'done'),
    entry(31, 'make node debug pod', 'kube-system/fairlead-debug-4f1c on node2 (busybox:1.37)', 'done'),
    entry(12, 'policies.remove', 'shop/old', 'kube.forbidden'),
    entry(1, 'install', 'three nodes', 'done'),
  ];
}

/** Questions that wait, as the address asks: `&ask=host-key`. */
function asked(): readonly Question[] {
  const about = 'anna@bastion.example:22';
  const all: readonly Question[] = [
    {
      kind: 'host-key',
      id: '1',
      about,
      host: 'bastion.example',
      algorithm: 'ssh-ed25519',
      fingerprint: 'SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDldTTGl8Fkn7uEJ6M',
    },
    {
      kind: 'secrets',
      id: '2',
      about,
      title: 'Two factors',
      instructions: 'Your password has to be changed within 3 days.',
      prompts: [
        { label: 'Password', hidden: true },
        { label: 'Verification code', hidden: false },
      ],
    },
    {
      kind: 'browser',
      id: '3',
      about: 'prod',
      title: 'Log in to prod',
      kept: 'This login stays in Fairlead’s memory until it ends; nothing of it is written anywhere.',
      url: 'https://login.example/authorize?client_id=console&response_type=code&scope=openid+email&state=6fE1&code_challenge_method=S256',
    },
  ];
  const kind = new URLSearchParams(location.search).get('ask');
  return all.filter((question) => question.kind === kind);
}

function follow(sources: number, handlers: StreamHandlers<LogItem>): () => void {
  const lines: LogItem[] = [];
  for (let source = 0; source < sources; source += 1) lines.push({ kind: 'state', source, state: 'open', message: '' });
  for (let line = 0; line < 120 && sources > 0; line += 1)
    lines.push({
      kind: 'line',
      source: line % sources,
      time: start + line * 137,
      text:
        line % 17 === 3
          ? `level=warn msg="identity of ${line} is not known yet" endpoint=${line} after=${line}ms`
          : `level=info msg="endpoint regenerated" endpoint=${line} policyRevision=${line % 5} duration=${line % 9}ms`,
    });
  void handlers.batch(lines);
  return () => {};
}

type Parts = 'explain' | 'logs' | 'questions' | 'rights' | 'support';

/** Explanations, logs, rights, support bundles and questions of a fixture. */
export function createFixtureSupport(preset: Preset): Pick<Client, Parts> {
  const reader = new URLSearchParams(location.search).has('reader');
  return {
    support: {
      items: () => soon({ items }),
      preview: () =>
        soon({
          files: [
            { name: 'versions/console.txt', bytes: 61, text: 'fairlead 0.1.0\nkubernetes v1.34.4\nagents 0.1.0 (3)\n' },
          ],
          failures: preset === 'errors' ? [agentSilent] : [],
        }),
      collect: (_input, handlers) => failing(handlers),
    },
    logs: {
      follow: ({ sources }, handlers) => (preset === 'errors' ? failing(handlers) : follow(sources.length, handlers)),
    },
    rights: {
      review: () =>
        soon({
          user: 'anna',
          rights: actionSchema.options.map((action) => ({
            action,
            allowed: !reader,
            reason: reader
              ? 'Your user “anna” may not do this in namespace default. Ask whoever runs the cluster for this right, or use a context that has it.'
              : '',
          })),
        }),
    },
    explain: {
      packet: ({ to }) =>
        soon({
          verdict: to.includes('xwing') ? ('dropped' as const) : ('delivered' as const),
          summary: to.includes('xwing')
            ? 'Dropped on node node1: a policy denies it.'
            : 'Delivered to the receiver on node node1.',
          dropReason: to.includes('xwing') ? 'Policy denied' : '',
          steps: [
            ['from_pod', 'conntrack', 'ct4', '10.0.1.7:41000 → 10.0.2.9:80 tcp', 'no entry', 'A new connection.'],
            [
              'from_pod',
              'policy',
              'policy_12',
              'identity 20311, egress, tcp 80',
              'allow',
              'No policy selects the sender.',
            ],
            [
              'to_pod',
              'policy',
              'policy_31',
              'identity 19944, ingress, tcp 80',
              'allow, rule 3',
              'default/rule1 allows it.',
            ],
          ].map(([hook = '', kind = '', map = '', key = '', value = '', text = '']) => ({
            node: 'node1',
            hook,
            kind,
            map,
            key,
            value,
            rule: kind === 'policy' ? 'default/rule1' : '',
            rewrite: '',
            verdict: hook === 'to_pod' ? 'forwarded' : '',
            text,
            dropReason: '',
            source: '',
          })),
          notes: ['The layer 7 rules were not asked: no request was given.'],
        }),
    },
    questions: {
      watch: (_input, handlers) => {
        void handlers.batch([{ questions: asked() }]);
        return () => {};
      },
      decide: () => soon({}),
      answer: () => soon({}),
      cancel: () => soon({}),
    },
  };
}
