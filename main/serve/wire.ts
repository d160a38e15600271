import { Packr } from 'msgpackr';
import type { WebSocket } from 'ws';
import type { Wire } from '../../contract/rpc/frames.ts';

/** A wire over an accepted WebSocket: one MessagePack message per frame, so byte arrays pass as they are. */
export function webSocketWire(socket: WebSocket): Wire {
  // Records would compile code for each shape on the reading side, which the page's content policy forbids.
  const packr = new Packr({ useRecords: false });
  let alive = true;
  // A browser answers pings by itself: two missed ones mean that it is gone without having said so.
  const heartbeat = setInterval(() => {
    if (!alive) return socket.terminate();
    alive = false;
    socket.ping();
  }, 20_000);
  heartbeat.unref();
  socket.on('pong', () => {
    alive = true;
  });
  socket.on('close', () => clearInterval(heartbeat));
  return {
    send(frame) {
      if (socket.readyState === socket.OPEN) socket.send(packr.pack(frame));
    },
    onMessage(listener) {
      socket.on('message', (data, binary) => {
        if (!binary || !Buffer.isBuffer(data)) return socket.close(1003, 'binary messages only');
        let frame: unknown;
        try {
          frame = packr.unpack(data);
        } catch {
          return socket.close(1007, 'not MessagePack');
        }
        listener(frame);
      });
    },
    onClose(listener) {
      socket.on('close', (code, reason) => listener(reason.toString() || `The page closed the connection (${code}).`));
      socket.on('error', () => socket.terminate());
    },
    close() {
      socket.close(1008, 'protocol error');
    },
  };
}
