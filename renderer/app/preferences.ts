import { create } from 'zustand';
import { persist } from 'zustand/middleware';

export type Density = 'compact' | 'comfortable';

interface Preferences {
  /** Cluster that views without `?cluster=` show. */
  readonly cluster: string;
  readonly density: Density;
  /** Columns that the flows table shows, by id. */
  readonly flowColumns: readonly string[];
  readonly set: (change: Partial<Omit<Preferences, 'set'>>) => void;
}

/** What this browser remembers of how the console is used; nothing of clusters' contents. */
export const usePreferences = create<Preferences>()(
  persist(
    (set) => ({
      cluster: '',
      density: 'compact',
      flowColumns: [
        'time',
        'node',
        'source',
        'destination',
        'protocol',
        'verdict',
        'reason',
        'direction',
        'event',
        'flags',
      ],
      set: (change) => set(change),
    }),
    { name: 'fairlead-preferences', version: 1 },
  ),
);
