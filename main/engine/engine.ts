import { dirname, join } from 'node:path';
import type { Implementation } from '../../contract/implementation.ts';
import { createAgents } from './agents/index.ts';
import { openAuditLog } from './application/audit.ts';
import { createApplication, projectRoot } from './application/index.ts';
import { type LabCommand, openLab } from './application/lab.ts';
import { Findings } from './checks/findings.ts';
import { createClusters } from './clusters/index.ts';
import { createConnectivity } from './connectivity/index.ts';
import { createExplain } from './explain/index.ts';
import { createFlows } from './flows/index.ts';
import { createInstall } from './install/index.ts';
import type { Log } from './log.ts';
import { createLogs } from './logs/index.ts';
import { createPolicies } from './policies/index.ts';
import { createQuestions } from './questions/index.ts';
import { createRecordings } from './recordings/index.ts';
import { createRights } from './rights/index.ts';
import type { SecretStore } from './secrets.ts';
import { createSshConnector } from './ssh/connector.ts';
import type { SshConnector } from './ssh/ssh-connector.ts';
import { createSupport } from './support/index.ts';
import { createTerminals } from './terminals/index.ts';
import { openOwner } from './terminals/owner.ts';
import { createTopology } from './topology/index.ts';
import { createVerify } from './verify/index.ts';

export interface EngineOptions {
  /** Where the engine keeps its own state: accepted host keys, trusted login programs, audit log. */
  readonly stateDirectory: string;
  readonly log: Log;
  readonly mode: 'browser' | 'desktop';
  /** Never run a login program of a kubeconfig; nobody can allow one. */
  readonly denyLoginPrograms?: boolean;
  /** Kubeconfig files named on the command line; otherwise KUBECONFIG or ~/.kube/config. */
  readonly kubeconfigs?: readonly string[];
  /** Context to connect at once. */
  readonly context?: string;
  /** OpenSSH configuration; ~/.ssh/config unless told. */
  readonly sshConfig?: string;
  /** OCI archive of the agent's image; the one that the build makes unless told. */
  readonly image?: string;
  /** Directories with recorded cases; those of the project and of the state directory unless told. */
  readonly recordings?: readonly string[];
  /** The operating system's store for secrets; without it they live with the process. */
  readonly secrets?: SecretStore;
  /** The system's own dialog for choosing a file; undefined when nothing was chosen. */
  readonly chooseFile?: (title: string) => Promise<string | undefined>;
  /** For tests; the checkout's lab otherwise. */
  readonly lab?: LabCommand;
}

export interface Engine {
  readonly implementation: Implementation;
  readonly lab: LabCommand;
  /** Whether an address is one that the engine has asked a person to open: a login page that is being shown. */
  readonly asksToOpen: (address: string) => boolean;
  readonly close: () => Promise<void>;
}

/** Puts the capabilities together. Everything that it opened is closed by `close`. */
export async function createEngine(options: EngineOptions): Promise<Engine> {
  const { log, stateDirectory } = options;
  const root = projectRoot();
  using opening = new DisposableStack();
  const audit = openAuditLog(stateDirectory, log);
  const lab = options.lab ?? openLab(root);

  const questions = opening.use(createQuestions());
  const connectors = new Map<string, SshConnector>();
  const ssh = (configPath: string | undefined): SshConnector => {
    const key = configPath ?? '';
    const known = connectors.get(key);
    if (known) return known;
    const connector = createSshConnector({
      stateDirectory,
      log,
      ...(configPath === undefined ? {} : { configPath }),
      ask: {
        hostKey: (question, signal) => questions.hostKey({ about: question.host, ...question }, signal),
        secrets: (question, signal) => questions.secrets(question, signal),
      },
    });
    connectors.set(key, connector);
    return connector;
  };
  const clusters = opening.use(
    createClusters({
      stateDirectory,
      log,
      audit,
      kubeconfigs: options.kubeconfigs ?? [],
      denyLoginPrograms: options.denyLoginPrograms ?? false,
      secrets: options.secrets,
      chooseFile: options.chooseFile,
      showLogin: (name, url, signal, kept) =>
        questions.browser({ about: name, title: `Log in to ${name}`, url, kept }, signal),
      ssh,
      connected(connection) {
        rights.forget(connection);
        void terminals.connected(connection);
      },
      refused: (connection) => rights.forget(connection),
      ...(options.context === undefined ? {} : { context: options.context }),
      ...(options.sshConfig === undefined ? {} : { sshConfig: options.sshConfig }),
    }),
  );
  const { connections } = clusters;
  const rights = createRights({ connections });
  const terminals = opening.use(createTerminals({ connections, audit, log, owner: openOwner(stateDirectory) }));
  const agents = createAgents({ connections, log });
  opening.defer(() => agents.close());
  const recordings = opening.use(
    createRecordings({
      directories: options.recordings ?? [join(root, 'recordings'), join(stateDirectory, 'recordings')],
      log,
    }),
  );
  const image = options.image ?? join(root, 'dist', 'fairlead-agent.tar');
  const findings = new Findings();
  const install = opening.use(
    createInstall({
      findings,
      connections,
      agents,
      audit,
      log,
      image,
    }),
  );
  const live: Implementation = {
    application: createApplication({
      mode: options.mode,
      log,
      lab,
      clusters,
      install: () => install,
      audit,
      recordings: recordings.list,
    }),
    clusters: clusters.implementation(agents.statuses),
    connectivity: opening.use(createConnectivity({ connections, agents, audit, log })),
    explain: createExplain({ agents }),
    flows: opening.use(createFlows({ connections, agents, log })),
    install,
    logs: createLogs({ connections, log }),
    policies: opening.use(createPolicies({ connections, agents, audit, log })),
    questions: questions.implementation,
    rights,
    support: createSupport({ connections, agents, log, stateDirectory }),
    terminals,
    topology: opening.use(createTopology({ connections, agents, log })),
    verify: createVerify({ connections, agents, log, findings, image, binary: join(dirname(image), 'fairlead-agent') }),
  };
  // A lab that is up already is in the list from the start, unless the user has said which clusters to show.
  if ((options.kubeconfigs ?? []).length === 0) {
    const files = await lab.running();
    if (files) clusters.addLab(files);
  }
  const opened = opening.move();
  return {
    implementation: recordings.wrap(live),
    lab,
    asksToOpen: questions.asksToOpen,
    async close() {
      await terminals.close();
      opened.dispose();
    },
  };
}
