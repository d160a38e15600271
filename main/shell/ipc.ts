import { type BrowserWindow, type IpcMainEvent, ipcMain, MessageChannelMain, type MessagePortMain } from 'electron';
import type { Implementation } from '../../contract/implementation.ts';
import { contract } from '../../contract/index.ts';
import type { Wire } from '../../contract/rpc/frames.ts';
import { serve } from '../../contract/rpc/server.ts';
import type { Log } from '../engine/log.ts';
import { enginePortChannel, isOwn } from './origin.ts';

/** A wire over the main process's end of a message channel. */
export function mainPortWire(port: MessagePortMain): Wire {
  let closed = false;
  return {
    send: (frame) => {
      if (!closed) port.postMessage(frame);
    },
    onMessage(listener) {
      port.on('message', (event) => {
        if (!closed) listener(event.data);
      });
      port.start();
    },
    onClose(listener) {
      port.once('close', () => {
        closed = true;
        listener('The page has gone.');
      });
    },
    close: () => port.close(),
  };
}

/** Why a sender may not have a port; undefined for the main frame of our own window, on our own page. */
export function refuseSender(
  event: Pick<IpcMainEvent, 'sender' | 'senderFrame'>,
  own: BrowserWindow | undefined,
): string | undefined {
  if (!own || own.isDestroyed() || event.sender !== own.webContents) return 'it is not our window';
  if (!event.senderFrame || event.senderFrame !== event.sender.mainFrame) return 'it is not the main frame';
  if (!isOwn(event.senderFrame.url)) return 'it is not our page';
  return undefined;
}

/** Hands the engine to the page: one message in, one port out. There is no other channel. */
export function handOutPorts(implementation: Implementation, window: () => BrowserWindow | undefined, log: Log): void {
  let count = 0;
  let current: MessagePortMain | undefined;
  ipcMain.on(enginePortChannel, (event) => {
    const refusal = refuseSender(event, window());
    if (refusal) {
      log.warn('shell', `a request for the engine was refused: ${refusal}`);
      return;
    }
    // A page has one port: asking again (after a reload) ends what the one before still ran.
    current?.close();
    const { port1, port2 } = new MessageChannelMain();
    current = port1;
    count += 1;
    serve(contract, implementation, mainPortWire(port1), {
      connection: `window-${count}`,
      log: ({ level, message, method }) => log[level]('rpc', method ? `${method}: ${message}` : message),
    });
    event.sender.postMessage(enginePortChannel, null, [port2]);
  });
}
