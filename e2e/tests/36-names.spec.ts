import { expect, test } from '@playwright/test';
import { eventually, kubectl, on } from '../../lab/client.ts';
import { agent, agentJSON, agentProcess, inPod, ready, toolPod } from '../support/cluster.ts';

const policy = {
  apiVersion: 'cilium.io/v2',
  kind: 'CiliumNetworkPolicy',
  metadata: { name: 'names', namespace: 'default' },
  spec: {
    endpointSelector: { matchLabels: { app: 'asker' } },
    egress: [
      {
        toEndpoints: [{ matchLabels: { 'k8s:io.kubernetes.pod.namespace': 'kube-system', 'k8s:k8s-app': 'kube-dns' } }],
        toPorts: [{ ports: [{ port: '53', protocol: 'ANY' }], rules: { dns: [{ matchPattern: '*.outside.test' }] } }],
      },
      { toFQDNs: [{ matchName: 'www.outside.test' }] },
    ],
  },
};

/** What the asker gets of a server: a status code, or 0 where nothing came within two seconds. */
async function asks(url: string, ...args: readonly string[]): Promise<number> {
  try {
    const curl = ['curl', '-s', '-m', '2', '-o', '/dev/null', '-w', '%{http_code}', ...args, url];
    return Number(await inPod('asker', curl));
  } catch {
    return 0;
  }
}

/** Asks without DNS: what counts then is what was learned before. */
const remembered = (): Promise<number> =>
  asks('http://www.outside.test/', '--resolve', 'www.outside.test:80:198.51.100.10');

/** The state that a lookup ends with, as nslookup tells it. */
function lookup(name: string): Promise<string> {
  return inPod('asker', ['sh', '-c', `nslookup ${name}. 10.96.0.10 2>&1 || true`]);
}

/** Names instead of addresses: what DNS said counts, for those who asked, and a new agent knows it still. */
test.describe('toFQDNs', () => {
  test.beforeAll(async () => {
    test.setTimeout(120_000);
    await kubectl(['delete', 'pod', 'asker', 'bystander', '--ignore-not-found', '--wait']);
    const pods = [toolPod('asker', 'node1', { app: 'asker' }), toolPod('bystander', 'node1', { app: 'bystander' })];
    await kubectl(['create', '-f', '-'], {
      input: JSON.stringify({ apiVersion: 'v1', kind: 'List', items: pods }),
    });
    await ready(['asker', 'bystander']);
  });
  test.afterAll(async () => {
    await kubectl(['delete', 'cnp', 'names', '--ignore-not-found']);
    await kubectl(['delete', 'pod', 'asker', 'bystander', '--ignore-not-found', '--wait=false']);
  });

  test('a name that is allowed works, others do not, and an agent that comes back remembers', async () => {
    test.setTimeout(150_000);
    for (const name of ['www', 'other'])
      await eventually(`${name}.outside.test answers without a policy`, 20, async () =>
        (await asks(`http://${name}.outside.test/`)) === 200 ? true : undefined,
      );
    await kubectl(['create', '-f', '-'], { input: JSON.stringify(policy) });
    await eventually('addresses are out of reach', 20, async () =>
      (await asks('http://198.51.100.11/')) === 0 ? true : undefined,
    );
    expect(await remembered(), 'nobody has asked for the name since').toBe(0);

    expect(await asks('http://www.outside.test/'), 'the first packet after the answer passes').toBe(200);
    expect(await remembered(), 'its address by itself').toBe(200);
    expect(await asks('http://other.outside.test/'), 'a name that resolves, but that no rule means').toBe(0);
    expect(await lookup('www.outside.test')).toContain('198.51.100.10');
    expect(await lookup('kubernetes.default.svc.cluster.local'), 'a name that may not be asked for').toMatch(
      /REFUSED/i,
    );
    const addresses = await agentJSON<{ ips: { prefix: string; identity: number }[] }>('node1', [
      'bpf',
      'ipcache',
      'list',
    ]);
    expect(addresses.ips.map((ip) => ip.prefix)).toContain('198.51.100.10/32');
    expect(await agent('node1', ['bpf', 'policy', 'list'])).toContain('fqdn:www.outside.test');

    // A connection that stays open keeps its name's address longer than the answer's few seconds.
    const open = inPod('asker', ['sh', '-c', '(echo hello; sleep 50) | nc 198.51.100.10 7']);
    await eventually('what was learned is on disk', 20, async () =>
      (await on('node1', ['sh', '-c', 'cat /var/run/fairlead/state/names.json'])).includes('198.51.100.10')
        ? true
        : undefined,
    );
    const old = await agentProcess('node1');
    await on('node1', ['kill', '-9', String(old)]);
    expect(await remembered(), 'while the agent is away').toBe(200);
    await eventually('the agent is ready again', 40, async () => {
      const now = await agentProcess('node1').catch(() => old);
      const health = ['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', 'http://127.0.0.1:9879/healthz'];
      return now !== old && (await on('node1', health).catch(() => '')).trim() === '200' ? true : undefined;
    });
    expect(await remembered(), 'after the agent came back, without a new question').toBe(200);
    expect(await asks('http://198.51.100.11/'), 'and nothing else').toBe(0);
    expect(await asks('http://other.outside.test/')).toBe(0);
    expect(await open, 'the connection lived through it').toContain('hello');
    expect(await asks('http://www.outside.test/')).toBe(200);
  });

  test('who is under no policy on names is not concerned', async () => {
    const curl = ['curl', '-s', '-m', '3', '-o', '/dev/null', '-w', '%{http_code}', 'http://other.outside.test/'];
    expect(await inPod('bystander', curl)).toBe('200');
  });
});
