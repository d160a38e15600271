import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, type Page } from '@playwright/test';
import { kubectl, lab, on } from '../../lab/client.ts';
import { agentPods, nodes } from './cluster.ts';

/** What an agent leaves on a node, asked of the node itself. */
export async function residue(node: string): Promise<string> {
  const script = `
    ls /etc/cni/net.d /opt/cni/bin 2>/dev/null | grep -i fairlead
    ip -o link show | grep -E 'fairlead|: fl'
    ip route show table all | grep -i fairlead
    ip rule show | grep -i fairlead
    nft list tables 2>/dev/null | grep -i fairlead
    find /sys/fs/bpf -mindepth 1 2>/dev/null | grep -i fairlead
    pgrep -x fairlead-agent
    true`;
  return (await on(node, ['sh', '-c', script])).trim();
}

/** Opens the tab of the agent's installation. */
export async function openInstall(page: Page): Promise<void> {
  await page.getByRole('tab', { name: /Agent/ }).click();
  await expect(page.getByRole('heading', { name: /agent .* installed/ })).toBeVisible({ timeout: 30_000 });
}

/** Applies the plan that is shown and confirms it; resolves when the run is shown. */
export async function applyPlan(page: Page, verb: 'Upgrade' | 'Roll back' | 'Apply'): Promise<void> {
  const button = page.getByRole('button', { name: verb === 'Apply' ? 'Apply' : `${verb}…`, exact: true });
  await expect(button).toBeEnabled({ timeout: 60_000 });
  await button.click();
  if (verb !== 'Apply') await page.getByRole('dialog').getByRole('button', { name: verb, exact: true }).click();
  await expect(page.getByRole('heading', { name: /is running|done|failed/ })).toBeVisible({ timeout: 30_000 });
}

/** Changes one value in the form, found by its path. */
export async function findValue(page: Page, path: string): Promise<void> {
  await page.getByRole('textbox', { name: 'Find a value' }).fill(path);
}

/** Unique ids of the agents' pods by node: they change when an agent is replaced. */
export async function agentUids(): Promise<Readonly<Record<string, string>>> {
  const text = await agentPods('{range .items[*]}{.spec.nodeName} {.metadata.uid}{"\\n"}{end}');
  return Object.fromEntries(
    text
      .trim()
      .split('\n')
      .map((line) => line.split(' ') as [string, string]),
  );
}

/** The agents' configuration as it is in the cluster. */
export async function agentConfiguration(): Promise<string> {
  return await kubectl([
    '-n',
    'kube-system',
    'get',
    'configmap',
    'fairlead-config',
    '-o',
    'jsonpath={.data.config\\.yaml}',
  ]);
}

/** One line of the API server's audit log. */
interface AuditEvent {
  readonly verb: string;
  readonly userAgent?: string;
  readonly objectRef?: { readonly resource?: string; readonly subresource?: string; readonly name?: string };
}

/** Writes that the API server has served since `from` lines, without questions ("may I?"), which it stores nowhere. */
export async function auditedWrites(from = 0): Promise<{ readonly lines: number; readonly writes: readonly string[] }> {
  const file = join(dirname((await lab(['kubeconfig'])).trim()), 'cp/audit.jsonl');
  if (!existsSync(file)) throw new Error(`the lab keeps no audit log at ${file}: start it anew`);
  const lines = readFileSync(file, 'utf8').trim().split('\n');
  const writes = lines
    .slice(from)
    .map((line) => JSON.parse(line) as AuditEvent)
    .filter(({ objectRef }) => !/^selfsubject(access|rules)reviews$/.test(objectRef?.resource ?? ''))
    .map(({ verb, objectRef }) =>
      `${verb} ${objectRef?.resource}/${objectRef?.name ?? ''} ${objectRef?.subresource ?? ''}`.trim(),
    );
  return { lines: lines.length, writes };
}

/** Agents of all nodes are Ready. */
export async function allReady(): Promise<void> {
  for (const node of nodes) {
    const status = await kubectl([
      'get',
      'node',
      node,
      '-o',
      'jsonpath={.status.conditions[?(@.type=="Ready")].status}',
    ]);
    expect(status, node).toBe('True');
  }
}
