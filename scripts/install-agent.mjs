// Installs the agent with the console's own engine: node scripts/install-agent.mjs [--lab] [--set key=value] [--uninstall]
// --lab takes kubeconfig and SSH configuration of the running lab. Everything else goes to main/engine/install/cli.ts.
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bootstrap } from './lib/bootstrap.mjs';

await bootstrap(import.meta.url);

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Kubeconfig and SSH configuration of the lab that is up. */
function labArguments() {
  const status = JSON.parse(execFileSync(join(root, 'lab/lab'), ['status', '-o', 'json'], { encoding: 'utf8' }));
  if (!status.kubeconfig) throw new Error('No lab is up: run npm run lab -- up.');
  return ['--kubeconfig', status.kubeconfig, ...(status.sshConfig ? ['--ssh-config', status.sshConfig] : [])];
}

const given = process.argv.slice(2);
const archive = join(root, 'dist/fairlead-agent.tar');
const args = [
  ...(given.includes('--lab') ? labArguments() : []),
  ...(!given.includes('--image') && existsSync(archive) ? ['--image', archive] : []),
  ...given.filter((arg) => arg !== '--lab'),
];
const { run } = await import('../main/engine/install/cli.ts');
process.exit(await run(args));
