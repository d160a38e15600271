import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { LabFiles } from '../clusters/index.ts';

/** Whether this machine can run the embedded lab; why not, otherwise. */
export interface LabPossibility {
  readonly possible: boolean;
  readonly reason: string;
}

/** The embedded lab's command line, as far as the console uses it. */
export interface LabCommand {
  readonly possibility: LabPossibility;
  /** The files of a lab that is up. */
  readonly running: () => Promise<LabFiles | undefined>;
  /** Runs one command of the lab, or one of the project's scripts; tells its lines as they come. */
  readonly run: (command: LabStep, tell: (line: string) => void) => Promise<Result<void>>;
}

export type LabStep = 'up' | 'demo' | 'down' | 'image';

/** Judges by platform, user and whether the checkout has the lab. */
export function labPossibility(
  root: string,
  platform: string = process.platform,
  uid: number | undefined = process.getuid?.(),
): LabPossibility {
  if (platform !== 'linux') return { possible: false, reason: 'The lab needs Linux: it is made of Linux namespaces.' };
  if (!existsSync(join(root, 'lab', 'lab')))
    return { possible: false, reason: 'This installation does not carry the lab; it is part of the source.' };
  if (uid !== 0)
    return {
      possible: false,
      reason: 'The lab needs root on this machine: it makes namespaces and loads eBPF programs.',
    };
  return { possible: true, reason: '' };
}

/** The lab of the checkout at `root`. */
export function openLab(root: string): LabCommand {
  const program = join(root, 'lab', 'lab');
  const command: Readonly<Record<LabStep, readonly [string, ...string[]]>> = {
    up: [program, 'up', '--cni', 'fairlead'],
    demo: [program, 'demo'],
    down: [program, 'down'],
    image: [process.execPath, join(root, 'scripts', 'build-agent.mjs')],
  };
  const possibility = labPossibility(root);
  return {
    possibility,
    async running() {
      if (!possibility.possible) return undefined;
      const text = await new Promise<string>((resolve) => {
        const child = spawn(program, ['status', '-o', 'json'], { stdio: ['ignore', 'pipe', 'ignore'] });
        let output = '';
        child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
          output += chunk;
        });
        child.on('error', () => resolve(''));
        child.on('close', () => resolve(output));
      });
      try {
        const status = JSON.parse(text) as {
          readonly state?: string;
          readonly kubeconfig?: string;
          readonly sshConfig?: string;
        };
        if (status.state !== 'up' || !status.kubeconfig || !status.sshConfig) return undefined;
        return { kubeconfig: status.kubeconfig, sshConfig: status.sshConfig };
      } catch {
        return undefined;
      }
    },
    run(step, tell) {
      const [file, ...args] = command[step];
      return new Promise((resolve) => {
        const child = spawn(file, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
        const last: string[] = [];
        for (const stream of [child.stdout, child.stderr]) {
          createInterface({ input: stream }).on('line', (line) => {
            last.push(line);
            if (last.length > 12) last.shift();
            tell(line);
          });
        }
        child.on('error', (error) => resolve(failed(stepFailed(step, error.message))));
        child.on('close', (code) =>
          resolve(
            code === 0
              ? ok(undefined)
              : failed(stepFailed(step, last.join('\n') || `It ended with exit code ${code}.`)),
          ),
        );
      });
    },
  };
}

const titles: Readonly<Record<LabStep, string>> = {
  up: 'The lab did not start.',
  demo: 'The demo could not be applied to the lab.',
  down: 'The lab could not be taken down.',
  image: 'The agent’s image could not be built.',
};

function stepFailed(step: LabStep, why: string): Failure {
  return {
    code: `lab.${step}-failed`,
    what: titles[step],
    why,
    fix:
      step === 'up'
        ? 'Do what the last lines say; npm run lab -- down clears whatever is left of it.'
        : 'See the last lines; then try again.',
  };
}
