import { create } from 'zustand';

interface Overlays {
  readonly palette: boolean;
  readonly help: boolean;
  readonly show: (which: 'palette' | 'help' | 'none') => void;
}

/** Which of the frame's overlays is open. */
export const useOverlays = create<Overlays>()((set) => ({
  palette: false,
  help: false,
  show: (which) => set({ palette: which === 'palette', help: which === 'help' }),
}));
