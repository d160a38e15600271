import { app, type Session, shell, type WebContents } from 'electron';
import type { Log } from '../engine/log.ts';
import { isOwn, mayOpenOutside, scheme } from './origin.ts';

/** Copying text out is all that the console asks of the system. */
const allowed = new Set(['clipboard-sanitized-write']);

/** Denies permissions, devices, and every request that does not go to the console's own scheme. */
export function restrictSession(session: Session, log: Log): void {
  session.setPermissionRequestHandler((contents, permission, decide) =>
    decide(allowed.has(permission) && isOwn(contents.getURL())),
  );
  session.setPermissionCheckHandler(
    (_contents, permission, requester) => allowed.has(permission) && isOwn(`${requester.replace(/\/$/, '')}/`),
  );
  session.setDevicePermissionHandler(() => false);
  session.setDisplayMediaRequestHandler((_request, decide) => decide({}));
  session.setSpellCheckerEnabled(false);
  session.webRequest.onBeforeRequest((details, decide) => {
    // blob: and data: carry what the page itself made (downloads, icons); devtools exist only where they are allowed.
    const own = isOwn(details.url) || /^(blob|data|devtools):/.test(details.url);
    if (!own) log.warn('shell', `a request to ${new URL(details.url).origin} was refused`);
    decide({ cancel: !own });
  });
}

/** Whether an address is one that a person was just asked to open: a login page that the engine shows. */
export type AskedToOpen = (address: string) => boolean;

/** Denies navigation, popups, frames of other origins and webviews to every page that is ever made. */
export function restrictContents(contents: WebContents, log: Log, asked: AskedToOpen): void {
  contents.on('will-attach-webview', (event) => event.preventDefault());
  const stay = (event: { readonly preventDefault: () => void; readonly url: string }) => {
    if (isOwn(event.url)) return;
    event.preventDefault();
    log.warn('shell', `a navigation to ${event.url.slice(0, 200)} was refused`);
  };
  contents.on('will-navigate', stay);
  contents.on('will-frame-navigate', stay);
  contents.on('will-redirect', stay);
  contents.setWindowOpenHandler(({ url }) => {
    if (mayOpenOutside(url) || (url.startsWith('https://') && asked(url))) void shell.openExternal(url);
    else log.warn('shell', `opening ${url.slice(0, 200)} was refused`);
    return { action: 'deny' };
  });
}

/** Puts the restrictions on everything that will be made; before the application is ready. */
export function restrictApplication(log: Log, asked: AskedToOpen): void {
  app.enableSandbox();
  app.on('web-contents-created', (_event, contents) => restrictContents(contents, log, asked));
  // Certificates of servers are the engine's affair; the page has no business with TLS at all.
  app.on('certificate-error', (event, _contents, _url, _error, _certificate, decide) => {
    event.preventDefault();
    decide(false);
  });
  app.on('login', (event) => event.preventDefault());
  app.on('select-client-certificate', (event) => event.preventDefault());
  app.removeAsDefaultProtocolClient(scheme);
}
