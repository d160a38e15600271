import { join } from 'node:path';
import { kubectl, lab, root } from '../../lab/client.ts';
import { ready } from './cluster.ts';

/** The demo's ships and its deathstar are up, and no policy of it is in force. */
export async function startDemo(): Promise<void> {
  await lab(['demo']);
  await ready(['tiefighter', 'xwing'], 'galaxy', 90);
  await kubectl(['-n', 'galaxy', 'rollout', 'status', 'deployment/deathstar', '--timeout=90s']);
  await removePolicies();
}

/** The policy of the demo's first half, as its manifest has it: xwing may not land. */
export async function applyDemoPolicy(): Promise<void> {
  await kubectl(['apply', '-f', join(root, 'lab/manifests/demo-policy.yaml')]);
}

/** Every policy of the demo's namespace goes. */
export async function removePolicies(): Promise<void> {
  await kubectl(['-n', 'galaxy', 'delete', 'cnp', '--all']);
}

/** A field of the first deathstar pod, e.g. "spec.nodeName". */
export async function deathstar(field: string): Promise<string> {
  const path = `jsonpath={.items[0].${field}}`;
  return (await kubectl(['-n', 'galaxy', 'get', 'pods', '-l', 'class=deathstar', '-o', path])).trim();
}
