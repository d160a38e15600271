import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseKubeconfig, resolveContext } from '../kube/kubeconfig.ts';
import { hopSettings, loadSshConfig } from '../ssh/config.ts';
import { judge, parseKnownHosts, preferredAlgorithms } from '../ssh/known-hosts.ts';
import { numbers, spoil } from './mutations.ts';

const rounds = Number(process.env.FAIRLEAD_FUZZ_ROUNDS ?? 1500);

const kubeconfig = `apiVersion: v1
kind: Config
current-context: a
clusters:
- name: c1
  cluster: &c {server: "https://127.0.0.1:6443", certificate-authority-data: Y2E=, proxy-url: "socks5://p:1080"}
- {name: c2, cluster: {<<: *c, insecure-skip-tls-verify: true}}
contexts:
- name: a
  context: {cluster: c1, user: u1, namespace: shop}
- {name: b, context: {cluster: c2, user: u2}}
users:
- name: u1
  user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: login, args: [--x], env: [{name: A, value: hunter2}]}}
- {name: u2, user: {token: hunter2, password: hunter2, username: x}}
`;
const sshConfig = `Include other
Host bastion *.prod !evil.prod
  HostName %h.example.org
  User "a b"
  Port 2222
  IdentityFile ~/.ssh/%r@%h
Match host db* user root
  ProxyJump bastion,deploy@[fe80::1]:2200
Match exec "touch MARKER"
  ProxyCommand none
Host *
  ServerAliveInterval 15
  UserKnownHostsFile /dev/null ~/.ssh/known
`;
const knownHosts = `bastion,[127.0.0.1]:2222 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA0123456789abcdefghijklmnopqrstuvwxyzABCDEFG
|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ==
@revoked * ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF
@cert-authority *.prod ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEE
`;

/** Fails with the text that did it. */
function withText<T>(seed: number, text: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    throw new Error(`seed ${seed}: ${JSON.stringify(text)}`, { cause: error });
  }
}

describe(`files of users, spoilt ${rounds} times each`, () => {
  let directory: string;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'fairlead-fuzz-'));
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  it('a kubeconfig is read or refused in words, and no secret stands in them', () => {
    let read = 0;
    let refused = 0;
    for (let seed = 1; seed <= rounds; seed++) {
      const text = spoil(kubeconfig, numbers(seed), 3);
      withText(seed, text, () => {
        const result = parseKubeconfig(text, '/home/anna/.kube/config');
        if (result.ok) {
          read += 1;
          for (const context of result.value.contexts) {
            const resolved = resolveContext(context, result.value, []);
            if (resolved.ok) expect(URL.canParse(resolved.value.cluster.server)).toBe(true);
            else expect(resolved.failure.fix).not.toBe('');
          }
          return;
        }
        refused += 1;
        const { code, what, why, fix } = result.failure;
        for (const part of [code, what, why, fix]) expect(part.length).toBeGreaterThan(3);
        expect(JSON.stringify(result.failure)).not.toContain('hunter2');
      });
    }
    // Both happen: otherwise nothing was tested.
    expect(read).toBeGreaterThan(rounds / 50);
    expect(refused).toBeGreaterThan(rounds / 50);
  });

  it('an SSH configuration is read or refused in words, and nothing of it is run', () => {
    const path = join(directory, 'config');
    writeFileSync(join(directory, 'other'), 'Host other\n  Port 22\n');
    for (let seed = 1; seed <= rounds; seed++) {
      const text = spoil(sshConfig, numbers(seed)).replaceAll(/include[^\n]*/gi, 'Include other');
      withText(seed, text, () => {
        writeFileSync(path, text);
        const loaded = loadSshConfig(path);
        if (!loaded.ok) {
          expect(loaded.failure.fix).not.toBe('');
          return;
        }
        for (const host of [
          'bastion',
          'db1',
          'x.prod',
          'root@[::1]:22',
          '',
          '*',
          ...loaded.value.aliases.slice(0, 5),
        ]) {
          const settings = hopSettings(loaded.value, host);
          expect(Number.isInteger(settings.port)).toBe(true);
          expect(settings.connectTimeout).toBeGreaterThan(0);
          expect(['yes', 'ask', 'accept-new']).toContain(settings.strict);
        }
      });
    }
  });

  it('known_hosts never vouches for a key that it does not hold', () => {
    const stranger = Buffer.concat([Buffer.from([0, 0, 0, 11]), Buffer.from('ssh-ed25519'), Buffer.alloc(36, 7)]);
    for (let seed = 1; seed <= rounds; seed++) {
      const text = spoil(knownHosts, numbers(seed));
      withText(seed, text, () => {
        const entries = parseKnownHosts(text, 'known_hosts');
        for (const name of ['bastion', '[127.0.0.1]:2222', 'db.prod', ''])
          expect(judge(entries, [name], stranger).kind).not.toBe('known');
        expect(preferredAlgorithms(entries, ['bastion'], ['ssh-ed25519'])).toEqual(['ssh-ed25519']);
      });
    }
  });
});
