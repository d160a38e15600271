import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { lab, root } from '../../lab/client.ts';

/** Brings up a fresh lab without any network plugin: the first test installs ours. `FAIRLEAD_E2E_KEEP=1` uses the one that is up. */
export default async function setup(): Promise<void> {
  mkdirSync(join(root, 'e2e/screenshots'), { recursive: true });
  if (process.env.FAIRLEAD_E2E_KEEP === '1') return;
  await lab(['down'], { echo: true });
  await lab(['up', '--nodes', '3', '--cni', 'fairlead'], { echo: true, seconds: 3000 });
}
