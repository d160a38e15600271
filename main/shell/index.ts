import { dirname, join } from 'node:path';
import { app, type BrowserWindow, session } from 'electron';
import { createEngine } from '../engine/engine.ts';
import { createLog } from '../engine/log.ts';
import { applyLoginEnvironment } from '../engine/login-environment.ts';
import { projectFile } from '../engine/project.ts';
import { chooseFile } from './dialogs.ts';
import { handOutPorts } from './ipc.ts';
import { installMenu } from './menu.ts';
import { restrictApplication, restrictSession } from './permissions.ts';
import { registerScheme, serveContent } from './protocol.ts';
import { openSecrets } from './secrets.ts';
import { openWindow } from './window.ts';

const stateDirectory = app.getPath('userData');
const log = createLog({ file: join(stateDirectory, 'fairlead.log'), quiet: app.isPackaged });
let window: BrowserWindow | undefined;
/** Until there is an engine nothing asks a person to open anything. */
let asksToOpen: (address: string) => boolean = () => false;

/** Opens the window, or brings the one that is open to the front. */
function show(): void {
  if (window && !window.isDestroyed()) {
    if (window.isMinimized()) window.restore();
    window.focus();
    return;
  }
  window = openWindow(projectFile('out/preload/index.cjs'));
  window.on('closed', () => {
    window = undefined;
  });
}

async function start(): Promise<void> {
  await Promise.all([app.whenReady(), applyLoginEnvironment(process.env, log)]);
  restrictSession(session.defaultSession, log);
  serveContent(dirname(projectFile('out/renderer/index.html')));
  installMenu();
  const engine = await createEngine({
    stateDirectory,
    log,
    mode: 'desktop',
    secrets: openSecrets(join(stateDirectory, 'secrets')),
    chooseFile: (title) => chooseFile(window, title),
    // For fleets: set by whoever manages the workstation.
    denyLoginPrograms: process.env.FAIRLEAD_LOGIN_PROGRAMS === 'deny',
    // Beside the archive rather than in it: both are opened by path.
    ...(app.isPackaged
      ? {
          image: join(process.resourcesPath, 'fairlead-agent.tar'),
          recordings: [join(process.resourcesPath, 'recordings'), join(stateDirectory, 'recordings')],
        }
      : {}),
  });
  asksToOpen = engine.asksToOpen;
  handOutPorts(engine.implementation, () => window, log);
  let closed = false;
  app.on('before-quit', (event) => {
    if (closed) return;
    // Sessions and port-forwards are closed before the process goes.
    event.preventDefault();
    closed = true;
    void engine.close().finally(() => app.quit());
  });
  app.on('activate', show);
  show();
}

restrictApplication(log, (address) => asksToOpen(address));
registerScheme();
if (app.requestSingleInstanceLock()) {
  // Its arguments are not looked at: another instance can bring this one to the front and nothing else.
  app.on('second-instance', show);
  app.on('window-all-closed', () => {
    if (process.platform !== 'darwin') app.quit();
  });
  start().catch((error: unknown) => {
    log.error(
      'shell',
      `the console did not start: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
    );
    app.exit(1);
  });
} else app.quit();
