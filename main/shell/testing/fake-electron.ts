import { EventEmitter } from 'node:events';
import { vi } from 'vitest';

/** Stands in for the 'electron' module: records what the shell sets, and lets a test be the user and the page. */
export class FakeContents extends EventEmitter {
  url = 'app://console/';
  mainFrame: { url: string } = { url: 'app://console/' };
  readonly posted: { channel: string; ports: readonly unknown[] }[] = [];
  openHandler: ((details: { url: string }) => { action: string }) | undefined;
  getURL = () => this.url;
  setWindowOpenHandler = (handler: (details: { url: string }) => { action: string }) => {
    this.openHandler = handler;
  };
  postMessage = (channel: string, _message: unknown, ports: readonly unknown[]) => {
    this.posted.push({ channel, ports });
  };
}

export class FakePort extends EventEmitter {
  peer: FakePort | undefined;
  start = () => {};
  close = () => {
    this.emit('close');
    this.peer?.emit('close');
  };
  postMessage = (data: unknown) => {
    const copy: unknown = structuredClone(data);
    queueMicrotask(() => this.peer?.emit('message', { data: copy }));
  };
}

function makeFake() {
  const windows: {
    readonly options: Record<string, unknown>;
    readonly webContents: FakeContents;
    readonly loaded: string[];
  }[] = [];
  class BrowserWindow extends EventEmitter {
    readonly webContents = new FakeContents();
    readonly loaded: string[] = [];
    readonly options: Record<string, unknown>;
    focused = 0;
    constructor(options: Record<string, unknown>) {
      super();
      this.options = options;
      windows.push(this);
      app.emit('web-contents-created', {}, this.webContents);
    }
    loadURL = async (url: string) => {
      this.loaded.push(url);
    };
    show = () => {};
    focus = () => {
      this.focused += 1;
    };
    isDestroyed = () => false;
    isMinimized = () => false;
    restore = () => {};
  }
  const app = Object.assign(new EventEmitter(), {
    isPackaged: true,
    sandboxed: false,
    lock: true,
    enableSandbox() {
      app.sandboxed = true;
    },
    requestSingleInstanceLock: () => app.lock,
    removeAsDefaultProtocolClient: vi.fn(),
    whenReady: async () => {},
    getPath: () => process.env.FAIRLEAD_TEST_STATE ?? '/nonexistent',
    quit: vi.fn(),
    exit: vi.fn(),
  });
  const handlers: Record<string, unknown> = {};
  const session = {
    setPermissionRequestHandler: (handler: unknown) => (handlers.permissionRequest = handler),
    setPermissionCheckHandler: (handler: unknown) => (handlers.permissionCheck = handler),
    setDevicePermissionHandler: (handler: unknown) => (handlers.device = handler),
    setDisplayMediaRequestHandler: (handler: unknown) => (handlers.display = handler),
    setSpellCheckerEnabled: vi.fn(),
    webRequest: { onBeforeRequest: (handler: unknown) => (handlers.request = handler) },
  };
  const protocol = {
    schemes: [] as { scheme: string; privileges: Record<string, boolean> }[],
    handlers: new Map<string, (request: { method: string; url: string }) => Promise<Response>>(),
    registerSchemesAsPrivileged(schemes: { scheme: string; privileges: Record<string, boolean> }[]) {
      protocol.schemes = schemes;
    },
    handle(scheme: string, handler: (request: { method: string; url: string }) => Promise<Response>) {
      protocol.handlers.set(scheme, handler);
    },
  };
  class MessageChannelMain {
    readonly port1 = new FakePort();
    readonly port2 = new FakePort();
    constructor() {
      this.port1.peer = this.port2;
      this.port2.peer = this.port1;
    }
  }
  const exposed: Record<string, unknown> = {};
  return {
    windows,
    handlers,
    exposed,
    app,
    BrowserWindow,
    MessageChannelMain,
    protocol,
    session: { defaultSession: session },
    ipcMain: new EventEmitter(),
    ipcRenderer: Object.assign(new EventEmitter(), { send: vi.fn() }),
    contextBridge: {
      exposeInMainWorld: (name: string, api: unknown) => {
        exposed[name] = api;
      },
    },
    dialog: {
      /** What the person chooses next; undefined: Cancel. */
      chosen: undefined as string | undefined,
      shown: [] as { readonly title: string; readonly properties: readonly string[] }[],
      showOpenDialog: async (...args: readonly unknown[]) => {
        electron.dialog.shown.push(args.at(-1) as { title: string; properties: readonly string[] });
        const { chosen } = electron.dialog;
        return { canceled: chosen === undefined, filePaths: chosen === undefined ? [] : [chosen] };
      },
    },
    shell: { openExternal: vi.fn(async () => {}) },
    Menu: { setApplicationMenu: vi.fn(), buildFromTemplate: vi.fn((template: unknown) => template) },
    safeStorage: {
      backend: 'gnome_libsecret',
      isEncryptionAvailable: () => true,
      getSelectedStorageBackend: (): string => electron.safeStorage.backend,
      encryptString: (text: string) => Buffer.from(text).reverse(),
      decryptString: (data: Buffer) => Buffer.from(data).reverse().toString(),
    },
  };
}

export const electron = makeFake();
