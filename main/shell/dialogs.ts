import { type BrowserWindow, dialog } from 'electron';

/** Lets the person choose one file that exists; undefined when nothing was chosen. The page never learns its path. */
export async function chooseFile(window: BrowserWindow | undefined, title: string): Promise<string | undefined> {
  const options = { title, properties: ['openFile', 'showHiddenFiles', 'dontAddToRecent'] } as const;
  const { canceled, filePaths } =
    window && !window.isDestroyed()
      ? await dialog.showOpenDialog(window, { ...options, properties: [...options.properties] })
      : await dialog.showOpenDialog({ ...options, properties: [...options.properties] });
  return canceled ? undefined : filePaths[0];
}
