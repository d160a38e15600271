import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import { on, root, run } from '../../lab/client.ts';
import { agentJSON } from '../support/cluster.ts';

/** What the container runtime keeps of an attachment (libcni's cache). */
interface Attachment {
  readonly containerId: string;
  readonly ifName: string;
  readonly networkName: string;
  readonly result: { readonly interfaces: readonly { readonly name: string; readonly sandbox?: string }[] };
}

/** The plugin as a runtime calls it, on a node with real attachments. CNI 1.1: https://www.cni.dev/docs/spec/ */
test.describe('the CNI plugin', () => {
  async function attachments(node: string): Promise<readonly Attachment[]> {
    const text = await on(node, ['sh', '-c', 'for f in /var/lib/cni/results/fairlead-*; do cat "$f"; echo; done']);
    return text
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as Attachment);
  }

  function plugin(node: string, command: string, config: unknown, of?: Attachment) {
    const environment = [
      `CNI_COMMAND=${command}`,
      'CNI_PATH=/opt/cni/bin',
      ...(of === undefined
        ? []
        : [
            `CNI_CONTAINERID=${of.containerId}`,
            `CNI_NETNS=${of.result.interfaces.find((one) => one.name === of.ifName)?.sandbox ?? ''}`,
            `CNI_IFNAME=${of.ifName}`,
          ]),
    ];
    return run(join(root, 'lab/lab'), ['exec', node, '--', 'env', ...environment, '/opt/cni/bin/fairlead-cni'], {
      input: JSON.stringify(config),
      seconds: 30,
    });
  }

  async function config(node: string): Promise<Record<string, unknown>> {
    const list = JSON.parse(await on(node, ['cat', '/etc/cni/net.d/05-fairlead.conflist'])) as {
      cniVersion: string;
      name: string;
      plugins: Record<string, unknown>[];
    };
    return { cniVersion: list.cniVersion, name: list.name, ...list.plugins[0] };
  }

  test('VERSION names 1.1.0, STATUS says ready', async () => {
    const version = await plugin('node1', 'VERSION', { cniVersion: '1.1.0' });
    expect(version.stdout).toContain('1.1.0');
    const status = await plugin('node1', 'STATUS', { ...(await config('node1')), cniVersion: '1.1.0' });
    expect(`${status.code} ${status.stdout}${status.stderr}`).toBe('0 ');
  });

  test('CHECK passes for every attachment, and fails for one that is not there', async () => {
    const all = await attachments('node1');
    expect(all.length).toBeGreaterThan(0);
    const base = await config('node1');
    for (const one of all) {
      const checked = await plugin('node1', 'CHECK', { ...base, prevResult: one.result }, one);
      expect(`${checked.code} ${checked.stdout}`, one.containerId).toBe('0 ');
    }
    const first = all[0];
    if (!first) return;
    const missing = await plugin(
      'node1',
      'CHECK',
      { ...base, prevResult: first.result },
      { ...first, containerId: 'f'.repeat(64) },
    );
    expect(missing.code).not.toBe(0);
    expect(missing.stdout).toContain('msg');
  });

  test('GC with everything valid removes nothing; DEL of what is not there succeeds', async () => {
    const before = await agentJSON<{ endpoints?: readonly unknown[] }>('node1', ['endpoints']);
    const all = await attachments('node1');
    const base = await config('node1');
    const valid = all.map((one) => ({ containerID: one.containerId, ifname: one.ifName }));
    const collected = await plugin('node1', 'GC', { ...base, cniVersion: '1.1.0', 'cni.dev/valid-attachments': valid });
    expect(`${collected.code} ${collected.stdout}`).toBe('0 ');
    const after = await agentJSON<{ endpoints?: readonly unknown[] }>('node1', ['endpoints']);
    expect(after.endpoints?.length).toBe(before.endpoints?.length);
    const gone: Attachment = {
      containerId: 'e'.repeat(64),
      ifName: 'eth0',
      networkName: '',
      result: { interfaces: [] },
    };
    expect((await plugin('node1', 'DEL', base, gone)).code).toBe(0);
  });
});
