import { on } from '../lab/client.ts';
import { median } from './report.ts';

/** What the agent costs, of the cluster that is up. */
export interface AgentFacts {
  readonly values: { readonly memoryMebibytes: number; readonly startToReadySeconds: number };
  readonly text: string;
}

async function agentPid(node: string): Promise<string> {
  return (await on(node, ['pgrep', '-o', '-x', 'fairlead-agent'])).trim();
}

async function memoryOf(node: string): Promise<number> {
  const status = await on(node, ['cat', `/proc/${await agentPid(node)}/status`]);
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? Number.NaN) / 1024;
}

/** Reads memory, and how long the agent itself says it took from its start to being ready. */
export async function agentFacts(): Promise<AgentFacts> {
  const nodes = ['node1', 'node2'];
  const memory: number[] = [];
  const ready: number[] = [];
  for (const node of nodes) {
    memory.push(await memoryOf(node));
    const metrics = await on(node, ['curl', '-s', 'http://127.0.0.1:9962/metrics']);
    ready.push(Number(/^fairlead_start_to_ready_seconds (\S+)$/m.exec(metrics)?.[1] ?? Number.NaN));
  }
  const values = { memoryMebibytes: median(memory), startToReadySeconds: median(ready) };
  const text = `agent memory ${values.memoryMebibytes.toFixed(1)} MiB (budget 60), start to ready ${values.startToReadySeconds.toFixed(2)} s (budget 2)\n`;
  return { values, text };
}
