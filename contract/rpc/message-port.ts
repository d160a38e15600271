import type { Wire } from './frames.ts';

/** What a MessagePort of a page and of worker_threads have in common. */
export interface PortLike {
  postMessage(message: unknown): void;
  addEventListener(type: 'message', listener: (event: { readonly data: unknown }) => void): void;
  addEventListener(type: 'close', listener: () => void): void;
  start(): void;
  close(): void;
}

/** A wire over a MessagePort: structured clone, so byte arrays pass as they are. */
export function portWire(port: PortLike): Wire {
  let closed = false;
  let notify: (reason: string) => void = () => {};
  const close = (reason: string) => {
    if (closed) return;
    closed = true;
    notify(reason);
  };
  port.addEventListener('close', () => close('The other side closed the port.'));
  return {
    send: (frame) => {
      if (!closed) port.postMessage(frame);
    },
    onMessage(listener) {
      port.addEventListener('message', (event) => {
        if (!closed) listener(event.data);
      });
      port.start();
    },
    onClose(listener) {
      notify = listener;
    },
    close() {
      port.close();
      close('The port was closed.');
    },
  };
}
