import { contextBridge, ipcRenderer } from 'electron';
import { enginePortChannel } from './origin.ts';

// The whole surface of the page: ask for a port. The port itself comes as a window message, since a port cannot cross
// the context bridge.
ipcRenderer.on(enginePortChannel, (event) => {
  window.postMessage(enginePortChannel, window.location.origin, [...event.ports]);
});
contextBridge.exposeInMainWorld('fairlead', {
  requestEnginePort: (): void => ipcRenderer.send(enginePortChannel),
});
