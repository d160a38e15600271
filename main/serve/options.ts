import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

/** What can be said on the command line of browser mode. */
export interface Options {
  readonly port: number;
  readonly portRequired: boolean;
  readonly kubeconfigs: readonly string[];
  readonly context: string | undefined;
  readonly sshConfig: string | undefined;
  readonly stateDirectory: string;
  readonly token: string | undefined;
  /** No login program of a kubeconfig is ever run, and nobody is asked to allow one. */
  readonly denyLoginPrograms: boolean;
  readonly verbose: boolean;
  /** Start the embedded lab at once. */
  readonly lab: boolean;
  /** Open on the recorded case, whatever clusters there are. */
  readonly recording: boolean;
  readonly keepLab: boolean;
  /** Open the user's browser. */
  readonly open: boolean;
}

/** Where the engine keeps its own state unless told. */
export function defaultStateDirectory(environment: NodeJS.ProcessEnv = process.env): string {
  return join(environment.XDG_STATE_HOME ?? join(homedir(), '.local', 'state'), 'fairlead');
}

/** Reads the command line; throws with a sentence for the user when it makes no sense. */
export function readOptions(args: readonly string[], environment: NodeJS.ProcessEnv = process.env): Options {
  const { values } = parseArgs({
    args: [...args],
    allowPositionals: false,
    options: {
      port: { type: 'string' },
      kubeconfig: { type: 'string', multiple: true },
      context: { type: 'string' },
      'ssh-config': { type: 'string' },
      'state-dir': { type: 'string' },
      'deny-login-programs': { type: 'boolean' },
      verbose: { type: 'boolean' },
      lab: { type: 'boolean' },
      recording: { type: 'boolean' },
      'keep-lab': { type: 'boolean' },
      'no-open': { type: 'boolean' },
    },
  });
  const port = values.port === undefined ? 7420 : Number(values.port);
  if (!Number.isInteger(port) || port < 0 || port > 65535) {
    throw new Error(`--port takes a number from 0 to 65535, not “${values.port}”`);
  }
  const token = environment.FAIRLEAD_TOKEN;
  if (token !== undefined && token.length < 16) throw new Error('FAIRLEAD_TOKEN must have at least 16 characters');
  return {
    port,
    portRequired: values.port !== undefined && port !== 0,
    kubeconfigs: (values.kubeconfig ?? []).map((path) => resolve(path)),
    context: values.context,
    sshConfig: values['ssh-config'] === undefined ? undefined : resolve(values['ssh-config']),
    stateDirectory:
      values['state-dir'] === undefined ? defaultStateDirectory(environment) : resolve(values['state-dir']),
    token,
    denyLoginPrograms: values['deny-login-programs'] ?? environment.FAIRLEAD_LOGIN_PROGRAMS === 'deny',
    verbose: values.verbose ?? false,
    lab: values.lab ?? false,
    recording: values.recording ?? false,
    keepLab: values['keep-lab'] ?? false,
    open: !(values['no-open'] ?? false),
  };
}
