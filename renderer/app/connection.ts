import { Packr } from 'msgpackr';
import type { Connection } from '../../contract/client.ts';
import { contract } from '../../contract/index.ts';
import { connect } from '../../contract/rpc/connection.ts';
import type { Wire } from '../../contract/rpc/frames.ts';
import { portWire } from '../../contract/rpc/message-port.ts';

/** What the preload of the desktop shell offers; absent in a browser. */
interface DesktopBridge {
  /** Asks the main process for a fresh port to the engine; it arrives as a window message. */
  readonly requestEnginePort: () => void;
}

declare global {
  interface Window {
    readonly fairlead?: DesktopBridge;
  }
}

function dialWebSocket(): Promise<Wire> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/rpc`);
    socket.binaryType = 'arraybuffer';
    // Records would be read by compiled code, which the content policy forbids.
    const packr = new Packr({ useRecords: false });
    socket.onerror = () => reject(new Error('The engine does not answer, or this browser has not been let in.'));
    socket.onopen = () =>
      resolve({
        send(frame) {
          if (socket.readyState === WebSocket.OPEN) socket.send(new Uint8Array(packr.pack(frame)));
        },
        onMessage(listener) {
          socket.onmessage = (event: MessageEvent<ArrayBuffer>) => listener(packr.unpack(new Uint8Array(event.data)));
        },
        onClose(listener) {
          socket.onclose = (event) => listener(event.reason);
        },
        close: () => socket.close(),
      });
  });
}

function dialDesktop(bridge: DesktopBridge): Promise<Wire> {
  return new Promise((resolve) => {
    const listener = (event: MessageEvent<unknown>) => {
      const port = event.ports[0];
      if (event.source !== window || event.data !== 'fairlead:engine-port' || !port) return;
      window.removeEventListener('message', listener);
      resolve(portWire(port));
    };
    window.addEventListener('message', listener);
    bridge.requestEnginePort();
  });
}

/** Connects to the engine: through the desktop shell's port, or through a WebSocket to where the page came from. */
export function connectToEngine(): Connection {
  const bridge = window.fairlead;
  return connect(contract, { dial: bridge ? () => dialDesktop(bridge) : dialWebSocket });
}
