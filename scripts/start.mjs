// npm start: everything from a fresh checkout to a running console. `npm start -- --help` lists what can be said.
import { join } from 'node:path';
import { bootstrap, root } from './lib/bootstrap.mjs';

const help = `Starts Fairlead's console in browser mode and prints its address.

  npm start [-- OPTIONS]

  --lab                start a real three-node cluster on this machine, with the agent and the demo (root on Linux)
  --recording          open on the recorded case: everything to look at, nothing to change
  --keep-lab           leave that cluster running at the end
  --kubeconfig PATH    use this kubeconfig (may be given several times) instead of KUBECONFIG or ~/.kube/config
  --context NAME       connect this context at once
  --ssh-config PATH    SSH configuration for node terminals and side-loading (default ~/.ssh/config)
  --port N             listen on this port of 127.0.0.1 (default 7420, or a free one)
  --no-open            do not open a browser
  --state-dir PATH     where Fairlead keeps its own state (default ~/.local/state/fairlead)
  --verbose            a more talkative log

Without a kubeconfig: as root on Linux the console offers the lab; elsewhere it shows a recorded case.
`;

if (process.argv.includes('--help') || process.argv.includes('-h')) {
  process.stdout.write(help);
  process.exit(0);
}
await bootstrap(import.meta.url);

const { run } = await import('./lib/run.mjs');
const built = await run(process.execPath, [join(root, 'scripts', 'build.mjs'), 'wasm', 'renderer'], { echo: true });
if (built.code !== 0) process.exit(1);

const { main } = await import('../main/serve/index.ts');
try {
  await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(
    `Fairlead did not start.\nWhy: ${error instanceof Error ? error.message : String(error)}\nFix: npm start -- --help lists what can be said; another program may also hold the port.\n`,
  );
  process.exit(1);
}
