import type { Failure, InstallProgress, InstallStep, Result } from '../../../contract/index.ts';

/** What a running step may do besides its work. */
export interface StepContext {
  readonly signal: AbortSignal;
  /** Adds a line to the step's log. */
  readonly log: (line: string) => void;
  /** Replaces the step's message. */
  readonly message: (text: string) => void;
}

/** A unit of work; its result is the final message, or `skipped`. */
export interface Step {
  readonly id: string;
  readonly title: string;
  readonly node: string;
  readonly run: (context: StepContext) => Promise<Result<{ readonly message: string; readonly skipped?: boolean }>>;
}

/** Steps of one stage run side by side, at most `parallel` at once; stages run one after the other. */
export interface Stage {
  readonly parallel: number;
  readonly steps: readonly Step[];
}

const stopped: Failure = {
  code: 'install.stopped',
  what: 'Stopped.',
  why: 'The operator stopped it.',
  fix: 'Plan again and apply: what is done already is left as it is.',
};

const mostLines = 200;

/**
 * Runs stages until one fails or `signal` aborts; reports the whole progress on every change. A failed step lets the
 * others of its stage finish, then everything stops: nothing after it is begun.
 */
export async function runStages(
  action: InstallProgress['action'],
  stages: readonly Stage[],
  signal: AbortSignal,
  report: (progress: InstallProgress) => void,
): Promise<InstallProgress> {
  const steps: InstallStep[] = stages.flatMap((stage) =>
    stage.steps.map(({ id, title, node }) => ({ id, title, node, state: 'waiting', message: '', log: [] })),
  );
  let progress: InstallProgress = { action, state: 'running', steps };
  const emit = (state: InstallProgress['state'] = 'running') => {
    progress = { action, state, steps: [...steps] };
    report(progress);
  };
  const change = (id: string, values: Partial<InstallStep>) => {
    const index = steps.findIndex((step) => step.id === id);
    const before = steps[index];
    if (!before) return;
    steps[index] = { ...before, ...values };
    emit();
  };
  const logOf = (id: string) => steps.find((step) => step.id === id)?.log ?? [];

  const runStep = async (step: Step): Promise<boolean> => {
    if (signal.aborted) return false;
    change(step.id, { state: 'running', startedAt: Date.now() });
    const context: StepContext = {
      signal,
      log: (line) => change(step.id, { log: [...logOf(step.id), line].slice(-mostLines) }),
      message: (message) => change(step.id, { message }),
    };
    let result: Awaited<ReturnType<Step['run']>>;
    try {
      result = await step.run(context);
    } catch (error) {
      result = { ok: false, failure: unexpected(error) };
    }
    if (signal.aborted && !result.ok) result = { ok: false, failure: stopped };
    if (result.ok)
      change(step.id, {
        state: result.value.skipped ? 'skipped' : 'done',
        message: result.value.message,
        endedAt: Date.now(),
      });
    else
      change(step.id, {
        state: 'failed',
        message: result.failure.what,
        failure: result.failure,
        endedAt: Date.now(),
      });
    return result.ok;
  };

  emit();
  for (const stage of stages) {
    const queue = [...stage.steps];
    let good = true;
    const worker = async () => {
      for (let next = queue.shift(); next && good; next = queue.shift()) good = (await runStep(next)) && good;
    };
    await Promise.all(Array.from({ length: Math.min(stage.parallel, stage.steps.length) }, worker));
    if (signal.aborted) {
      emit('stopped');
      return progress;
    }
    if (!good) {
      emit('failed');
      return progress;
    }
  }
  emit('done');
  return progress;
}

function unexpected(error: unknown): Failure {
  return {
    code: 'install.unexpected',
    what: 'The step broke.',
    why: error instanceof Error ? error.message : String(error),
    fix: 'Look at the log of the console; plan again and apply to go on.',
  };
}
