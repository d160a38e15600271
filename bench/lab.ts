import { spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The project's root. */
export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command to its end. `echo` shows its output while it runs. A command over `seconds` is ended. */
export function run(
  command: string,
  args: readonly string[],
  options: { readonly input?: string; readonly echo?: boolean; readonly seconds?: number } = {},
): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: ['pipe', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    const timer = setTimeout(() => child.kill('SIGKILL'), (options.seconds ?? 600) * 1000);
    child.stdout.on('data', (data: Buffer) => {
      stdout += data.toString();
      if (options.echo) process.stderr.write(data);
    });
    child.stderr.on('data', (data: Buffer) => {
      stderr += data.toString();
      if (options.echo) process.stderr.write(data);
    });
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(timer);
      resolve({ code: code ?? -1, stdout, stderr });
    });
    child.stdin.on('error', () => undefined);
    child.stdin.end(options.input ?? '');
  });
}

/** Runs `lab/lab ARGS`; throws with the end of its output when it fails. */
export async function lab(args: readonly string[], options: { readonly input?: string; readonly echo?: boolean; readonly seconds?: number } = {}): Promise<string> {
  const result = await run(join(root, 'lab/lab'), args, options);
  if (result.code !== 0) {
    throw new Error(`lab ${args.join(' ')} ended with ${result.code}: ${(result.stderr || result.stdout).trim().slice(-800)}`);
  }
  return result.stdout;
}

/** Runs kubectl in the lab. */
export function kubectl(args: readonly string[], input?: string): Promise<string> {
  return lab(['kubectl', ...args], input === undefined ? {} : { input });
}

/** Applies manifests given as objects. */
export async function apply(objects: readonly unknown[]): Promise<void> {
  const list = { apiVersion: 'v1', kind: 'List', items: objects };
  await kubectl(['create', '-f', '-'], JSON.stringify(list));
}

/** How a cluster of the lab is networked while it is measured. */
export type Network = 'bridge' | 'bridge+kube-proxy' | 'fairlead-tunnel' | 'fairlead-native';

/** Brings the lab up with a network; takes down what was there. */
export async function up(network: Network): Promise<void> {
  await lab(['down']);
  if (network === 'bridge' || network === 'bridge+kube-proxy') {
    await lab(['up', '--nodes', '2', '--cni', 'bridge', ...(network === 'bridge+kube-proxy' ? ['--kube-proxy'] : [])], { echo: true });
    return;
  }
  await lab(['up', '--nodes', '2', '--cni', 'fairlead'], { echo: true });
  const values = network === 'fairlead-native' ? ['--set', 'routingMode=native', '--set', 'autoDirectNodeRoutes=true', '--set', 'ipv4NativeRoutingCIDR=10.77.0.0/16'] : [];
  const result = await run(process.execPath, ['scripts/install-agent.mjs', '--lab', ...values], { echo: true, seconds: 300 });
  if (result.code !== 0) throw new Error(`installing the agent: ${(result.stderr || result.stdout).trim().slice(-800)}`);
}
