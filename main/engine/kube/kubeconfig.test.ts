import { describe, expect, it } from 'vitest';
import { parseKubeconfig, resolveContext } from './kubeconfig.ts';

const good = `apiVersion: v1
kind: Config
current-context: a
clusters:
- name: c1
  cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: Y2E=, proxy-url: "http://proxy:3128"}
contexts:
- name: a
  context: {cluster: c1, user: u1, namespace: shop}
- name: dangling-cluster
  context: {cluster: nope, user: u1}
- name: dangling-user
  context: {cluster: c1, user: nope}
- name: nobody
  context: {cluster: c1}
users:
- name: u1
  user:
    exec: {apiVersion: client.authentication.k8s.io/v1, command: login, args: [--x], env: [{name: A, value: b}], provideClusterInfo: true}
`;

function parsed(text: string) {
  const result = parseKubeconfig(text, '/home/u/.kube/config');
  if (!result.ok) throw new Error(result.failure.why);
  return result.value;
}

describe('parseKubeconfig', () => {
  it('reads clusters, users and contexts', () => {
    const config = parsed(good);
    expect(config.currentContext).toBe('a');
    expect(config.contexts.map((context) => context.name)).toEqual([
      'a',
      'dangling-cluster',
      'dangling-user',
      'nobody',
    ]);
    expect(config.clusters.get('c1')).toMatchObject({ proxyUrl: 'http://proxy:3128', insecure: false });
    expect(config.users.get('u1')?.exec).toMatchObject({
      command: 'login',
      args: ['--x'],
      env: [{ name: 'A', value: 'b' }],
    });
  });
  it.each([
    ['', 'the file is empty'],
    ['just text', 'must be a mapping'],
    ['- a\n- b', 'must be a mapping'],
    ['a: [1, 2', 'line 1'],
    ['kind: Pod\nclusters: []', 'line 1, column 7 of config: kind is “Pod”'],
    ['clusters: {a: 1}', '“clusters” must be a list'],
    ['clusters:\n- cluster: {}', 'line 2, column 3 of config: each entry of “clusters” needs a name'],
    [
      'clusters:\n- name: x\n  cluster:\n    server: "not a url"',
      'line 4, column 13 of config: the server of cluster “x”',
    ],
    ['clusters:\n- name: x\n  cluster:\n    server: "ftp://x"', 'must be a URL'],
    ['a: 1\n\tb: 2', 'line 2'],
  ])('tells where %j is wrong', (text, why) => {
    const result = parseKubeconfig(text, '/home/u/.kube/config');
    expect(result).toMatchObject({ ok: false, failure: { code: 'kubeconfig.malformed' } });
    if (!result.ok) expect(result.failure.why).toContain(why);
  });
  it('does not blow up on aliases that multiply', () => {
    const lines = ['a: &a [x,x,x,x,x,x,x,x,x,x]'];
    for (let i = 0; i < 12; i++)
      lines.push(`k${i}: &k${i} [${Array.from({ length: 10 }, () => `*${i === 0 ? 'a' : `k${i - 1}`}`).join(',')}]`);
    expect(parseKubeconfig(lines.join('\n'), 'x').ok).toBe(false);
  });
  it('never shows secrets in what it says', () => {
    const result = parseKubeconfig('users:\n- name: u\n  user: {token: s3cret-token, bad', 'x');
    expect(JSON.stringify(result)).not.toContain('s3cret');
  });
});

describe('resolveContext', () => {
  const config = parsed(good);
  const context = (name: string) => {
    const found = config.contexts.find((entry) => entry.name === name);
    if (!found) throw new Error(name);
    return found;
  };
  it('finds what a context names', () => {
    expect(resolveContext(context('a'), config, [])).toMatchObject({ ok: true, value: { user: { name: 'u1' } } });
    expect(resolveContext(context('nobody'), config, [])).toMatchObject({ ok: true, value: { user: { name: '' } } });
  });
  it.each([
    ['dangling-cluster', 'kubeconfig.unknown-cluster', 'It has: c1'],
    ['dangling-user', 'kubeconfig.unknown-user', 'It has: u1'],
  ])('tells what %s lacks', (name, code, why) => {
    const result = resolveContext(context(name), config, []);
    expect(result).toMatchObject({ ok: false, failure: { code } });
    if (!result.ok) expect(result.failure.why).toContain(why);
  });
  it('looks into the other files of KUBECONFIG', () => {
    const other = parsed('clusters:\n- name: nope\n  cluster: {server: "https://h:1"}\n');
    expect(resolveContext(context('dangling-cluster'), config, [other])).toMatchObject({
      ok: true,
      value: { cluster: { server: 'https://h:1' } },
    });
  });
});
