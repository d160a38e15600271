import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { contract } from '../../contract/index.ts';
import { createClient, createTransport } from '../../contract/rpc/client.ts';
import { refusingImplementation } from '../engine/testing.ts';
import { electron, FakeContents, type FakePort } from './testing/fake-electron.ts';

/** Addresses that the engine asks to open. */
const asked = vi.hoisted((): string[] => []);

vi.mock('electron', () => electron);

// The whole shell runs against the fake, its engine replaced by one that answers without doing anything.
vi.mock('../engine/engine.ts', () => ({
  createEngine: async () => ({
    implementation: refusingImplementation(),
    asksToOpen: (address: string) => asked.includes(address),
    close: async () => {},
  }),
}));
vi.mock('../engine/project.ts', () => ({
  projectFile: (path: string) => join(process.env.FAIRLEAD_TEST_STATE ?? '', path),
}));

const directory = mkdtempSync(join(tmpdir(), 'fairlead-shell-'));
beforeAll(async () => {
  process.env.FAIRLEAD_TEST_STATE = directory;
  mkdirSync(join(directory, 'out/renderer'), { recursive: true });
  writeFileSync(join(directory, 'out/renderer/index.html'), '<!doctype html><title>x</title>');
  writeFileSync(join(directory, 'secret.js'), 'outside');
  Object.defineProperty(process, 'resourcesPath', { value: directory, configurable: true });
  await import('./index.ts');
  await vi.waitFor(() => expect(electron.windows).toHaveLength(1));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function window() {
  const found = electron.windows[0];
  if (!found) throw new Error('no window');
  return found;
}

describe('the window', () => {
  it.each([
    ['sandbox', true],
    ['contextIsolation', true],
    ['nodeIntegration', false],
    ['nodeIntegrationInSubFrames', false],
    ['nodeIntegrationInWorker', false],
    ['webSecurity', true],
    ['allowRunningInsecureContent', false],
    ['experimentalFeatures', false],
    ['webviewTag', false],
    ['navigateOnDragDrop', false],
    ['devTools', false],
  ])('has %s %s', (name, value) => {
    expect((window().options.webPreferences as Record<string, unknown>)[name]).toBe(value);
  });
  it('sandboxes every renderer and loads only its own scheme', () => {
    expect(electron.app.sandboxed).toBe(true);
    expect((window() as unknown as { loaded: string[] }).loaded).toEqual(['app://console/']);
  });
  it('opens one instance only, and another one brings it to the front', () => {
    electron.app.emit('second-instance', {}, ['fairlead', 'app://evil']);
    expect(electron.windows).toHaveLength(1);
    expect((window() as unknown as { focused: number }).focused).toBe(1);
  });
});

describe('pages', () => {
  const event = (url: string) => ({ url, preventDefault: vi.fn() });
  it.each(['will-navigate', 'will-frame-navigate', 'will-redirect'])('may not leave by %s', (name) => {
    for (const url of [
      'https://evil.example/',
      'file:///etc/passwd',
      'app://other/',
      'javascript:alert(1)',
      'app://console.evil/',
      'data:text/html,x',
    ]) {
      const away = event(url);
      window().webContents.emit(name, away);
      expect(away.preventDefault, url).toHaveBeenCalledOnce();
    }
    const own = event('app://console/#/flows');
    window().webContents.emit(name, own);
    expect(own.preventDefault).not.toHaveBeenCalled();
  });
  it('may not open windows; documentation goes to the browser', () => {
    const open = (url: string) => window().webContents.openHandler?.({ url });
    for (const url of [
      'https://evil.example/',
      'file:///etc/passwd',
      'app://console/',
      'http://kubernetes.io/',
      'https://user@kubernetes.io/',
      'https://kubernetes.io:8443/',
      'smb://x/y',
    ]) {
      expect(open(url)).toEqual({ action: 'deny' });
    }
    expect(electron.shell.openExternal).not.toHaveBeenCalled();
    expect(open('https://kubernetes.io/docs/')).toEqual({ action: 'deny' });
    expect(electron.shell.openExternal).toHaveBeenCalledExactlyOnceWith('https://kubernetes.io/docs/');
  });
  it('may open a login page while the engine asks for it, over https only', () => {
    const open = (url: string) => window().webContents.openHandler?.({ url });
    electron.shell.openExternal.mockClear();
    const pages = ['https://login.example/authorize?state=x', 'http://login.example/', 'smb://login.example/'];
    asked.push(...pages);
    for (const url of pages) expect(open(url)).toEqual({ action: 'deny' });
    expect(electron.shell.openExternal).toHaveBeenCalledExactlyOnceWith(pages[0]);
    asked.length = 0;
    electron.shell.openExternal.mockClear();
    open(pages[0] ?? '');
    expect(electron.shell.openExternal).not.toHaveBeenCalled();
  });
  it('may not attach webviews, whoever makes the contents', () => {
    const contents = new FakeContents();
    electron.app.emit('web-contents-created', {}, contents);
    const attach = event('');
    contents.emit('will-attach-webview', attach);
    expect(attach.preventDefault).toHaveBeenCalledOnce();
    expect(contents.openHandler?.({ url: 'https://evil.example/' })).toEqual({ action: 'deny' });
  });
  it('get no permission but writing to the clipboard, and no device', () => {
    const ask = electron.handlers.permissionRequest as (
      contents: FakeContents,
      permission: string,
      decide: (allow: boolean) => void,
    ) => void;
    const decided = (permission: string, contents = new FakeContents()) => {
      let answer: boolean | undefined;
      ask(contents, permission, (allow) => {
        answer = allow;
      });
      return answer;
    };
    for (const permission of [
      'media',
      'geolocation',
      'notifications',
      'midi',
      'pointerLock',
      'fullscreen',
      'openExternal',
      'clipboard-read',
      'hid',
      'serial',
      'usb',
    ])
      expect(decided(permission), permission).toBe(false);
    expect(decided('clipboard-sanitized-write')).toBe(true);
    const other = new FakeContents();
    other.url = 'https://evil.example/';
    expect(decided('clipboard-sanitized-write', other)).toBe(false);
    const check = electron.handlers.permissionCheck as (contents: null, permission: string, origin: string) => boolean;
    expect(check(null, 'clipboard-sanitized-write', 'app://console')).toBe(true);
    expect(check(null, 'clipboard-sanitized-write', 'https://evil.example')).toBe(false);
    expect(check(null, 'media', 'app://console')).toBe(false);
    expect((electron.handlers.device as () => boolean)()).toBe(false);
  });
  it('may make no request but to their own scheme', () => {
    const decide = electron.handlers.request as (
      details: { url: string },
      decide: (answer: { cancel: boolean }) => void,
    ) => void;
    const cancelled = (url: string) => {
      let answer: boolean | undefined;
      decide({ url }, ({ cancel }) => {
        answer = cancel;
      });
      return answer;
    };
    for (const url of ['https://evil.example/x', 'http://127.0.0.1:7420/', 'file:///etc/passwd', 'ws://127.0.0.1:1/'])
      expect(cancelled(url), url).toBe(true);
    for (const url of ['app://console/assets/x.js', 'blob:app://console/1', 'data:image/png;base64,x'])
      expect(cancelled(url), url).toBe(false);
  });
  it('trust no certificate of their own', () => {
    const decide = vi.fn();
    electron.app.emit('certificate-error', { preventDefault: () => {} }, null, 'https://x/', 'e', {}, decide);
    expect(decide).toHaveBeenCalledExactlyOnceWith(false);
  });
});

describe('app://', () => {
  const get = async (url: string, method = 'GET') => {
    const handler = electron.protocol.handlers.get('app');
    if (!handler) throw new Error('no handler');
    return handler({ url, method });
  };
  it('is a secure standard scheme without bypassing the content policy', () => {
    expect(electron.protocol.schemes).toEqual([
      {
        scheme: 'app',
        privileges: expect.objectContaining({
          standard: true,
          secure: true,
          bypassCSP: false,
          corsEnabled: false,
          allowServiceWorkers: false,
        }),
      },
    ]);
  });
  it('serves the page with its content policy', async () => {
    const response = await get('app://console/');
    expect(response.status).toBe(200);
    const policy = response.headers.get('content-security-policy') ?? '';
    expect(policy).toContain("default-src 'none'");
    expect(policy).toMatch(/script-src 'self'(;|$)/);
    expect(policy).toContain("frame-ancestors 'none'");
    expect(policy).not.toContain('unsafe-eval');
    expect(response.headers.get('x-content-type-options')).toBe('nosniff');
  });
  it.each([
    'app://console/../../secret.js',
    'app://console/..%2f..%2fsecret.js',
    'app://console/%2e%2e/%2e%2e/secret.js',
    'app://console/nothing.js',
    'app://console/%00.html',
    'app://console/..%5c..%5csecret.js',
  ])('does not serve %s', async (url) => {
    expect((await get(url)).status).toBe(404);
  });
  it('serves no other host and no other method', async () => {
    expect((await get('app://other/')).status).toBe(403);
    expect((await get('app://console/', 'POST')).status).toBe(405);
  });
});

describe('the engine’s port', () => {
  const request = (sender: unknown, senderFrame: unknown) =>
    electron.ipcMain.emit('fairlead:engine-port', { sender, senderFrame });
  it('goes to the main frame of our own window only', () => {
    const { webContents } = window();
    request(new FakeContents(), webContents.mainFrame);
    request(webContents, { url: 'app://console/' });
    request(webContents, null);
    webContents.mainFrame.url = 'https://evil.example/';
    request(webContents, webContents.mainFrame);
    webContents.mainFrame.url = 'app://console/';
    expect(webContents.posted).toHaveLength(0);
  });
  it('speaks the contract, and a new one ends the one before', async () => {
    const { webContents } = window();
    request(webContents, webContents.mainFrame);
    const port = webContents.posted.at(-1)?.ports[0] as FakePort;
    let lost = false;
    const transport = createTransport({
      send: (frame) => port.postMessage(frame),
      onMessage: (listener) => port.on('message', (event: { data: unknown }) => listener(event.data)),
      onClose: (listener) => port.on('close', () => listener('closed')),
      close: () => port.close(),
    });
    transport.onClosed(() => {
      lost = true;
    });
    expect(await createClient(contract, transport).application.about({})).toMatchObject({
      ok: false,
      failure: { code: 'test.refused' },
    });
    request(webContents, webContents.mainFrame);
    expect(lost).toBe(true);
    expect(webContents.posted).toHaveLength(2);
  });
  it('is all that the preload offers', async () => {
    await import('./preload.ts');
    expect(Object.keys(electron.exposed)).toEqual(['fairlead']);
    const api = electron.exposed.fairlead as { requestEnginePort: () => void };
    expect(Object.keys(api)).toEqual(['requestEnginePort']);
    api.requestEnginePort();
    expect(electron.ipcRenderer.send).toHaveBeenCalledExactlyOnceWith('fairlead:engine-port');
    expect(electron.ipcMain.eventNames()).toEqual(['fairlead:engine-port']);
  });
});

describe('secrets', () => {
  it('are kept in the system’s store, and never where that is plain text', async () => {
    const { openSecrets } = await import('./secrets.ts');
    const store = openSecrets(join(directory, 'secrets'));
    expect(store.set('token', 'hush').ok).toBe(true);
    expect(store.get('token')).toEqual({ ok: true, value: 'hush' });
    expect(readFileSync(join(directory, 'secrets', 'token.secret')).includes('hush')).toBe(false);
    store.remove('token');
    expect(readdirSync(join(directory, 'secrets'))).toEqual([]);
    expect(() => store.set('../x', 'y')).toThrow();
    if (process.platform !== 'linux') return;
    for (const backend of ['basic_text', 'unknown']) {
      electron.safeStorage.backend = backend;
      expect(store.set('token', 'hush')).toMatchObject({ ok: false, failure: { code: 'secrets.no-store' } });
      expect(existsSync(join(directory, 'secrets', 'token.secret'))).toBe(false);
    }
  });
  it('hold a login over launches, or for one only, and say which before the login', async () => {
    electron.safeStorage.backend = 'gnome_libsecret';
    const { openSecrets } = await import('./secrets.ts');
    const { keptSecret } = await import('../engine/secrets.ts');
    const of = ['https://issuer.example', 'console', 'anna'];
    const open = () => openSecrets(join(directory, 'logins'));
    const first = keptSecret(open(), of);
    expect(first.load()).toBeUndefined();
    first.save('refresh-1');
    expect(keptSecret(open(), of).load()).toBe('refresh-1');
    expect(keptSecret(open(), [...of, 'another user']).load()).toBeUndefined();
    expect(first.where).toContain('operating system’s secret store');
    first.save(undefined);
    expect(keptSecret(open(), of).load()).toBeUndefined();
    if (process.platform === 'linux') {
      electron.safeStorage.backend = 'basic_text';
      const plain = keptSecret(open(), of);
      expect(plain.where).toContain('nothing of it is written anywhere');
      expect(plain.where).toContain('as good as plain text');
      plain.save('refresh-2');
      expect(plain.load()).toBe('refresh-2');
      expect(readdirSync(join(directory, 'logins'))).toEqual([]);
      electron.safeStorage.backend = 'gnome_libsecret';
      expect(keptSecret(open(), of).load()).toBeUndefined();
    }
    expect(keptSecret(undefined, of).where).toContain('nothing of it is written anywhere');
  });
});

describe('the file dialog', () => {
  it('gives a path to the engine, or nothing, and keeps it out of the system’s list of recent files', async () => {
    const { chooseFile } = await import('./dialogs.ts');
    expect(await chooseFile(undefined, 'Add a kubeconfig')).toBeUndefined();
    electron.dialog.chosen = '/home/anna/.kube/config';
    expect(await chooseFile(undefined, 'Add a kubeconfig')).toBe('/home/anna/.kube/config');
    expect(electron.dialog.shown.at(-1)).toMatchObject({ title: 'Add a kubeconfig' });
    expect(electron.dialog.shown.at(-1)?.properties).toEqual(['openFile', 'showHiddenFiles', 'dontAddToRecent']);
  });
});

describe('the package', () => {
  const root = join(import.meta.dirname, '..', '..');
  const require = createRequire(import.meta.url);
  it('has a configuration that electron-builder accepts, for all three systems', async () => {
    const { getConfig, validateConfiguration } = require('app-builder-lib/out/util/config/config') as {
      getConfig: (directory: string, file: string, extra: null) => Promise<Record<string, unknown>>;
      validateConfiguration: (config: unknown, logger: unknown) => Promise<void>;
    };
    const { DebugLogger } = require('builder-util') as { DebugLogger: new (enabled: boolean) => unknown };
    const config = await getConfig(root, 'electron-builder.yml', null);
    await validateConfiguration(config, new DebugLogger(false));
    expect(config).toMatchObject({ linux: {}, mac: { hardenedRuntime: true }, win: {} });
    await expect(validateConfiguration({ ...config, nonsense: 1 }, new DebugLogger(false))).rejects.toThrow();
    expect(config.electronFuses).toEqual({
      runAsNode: false,
      enableNodeOptionsEnvironmentVariable: false,
      enableNodeCliInspectArguments: false,
      enableCookieEncryption: true,
      enableEmbeddedAsarIntegrityValidation: true,
      onlyLoadAppFromAsar: true,
      grantFileProtocolExtraPrivileges: false,
    });
    expect(config.asar).toBe(true);
  });
});
