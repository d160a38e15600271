import { Tooltip, useMantineColorScheme } from '@mantine/core';
import {
  IconAffiliate,
  IconArrowsLeftRight,
  IconDeviceDesktop,
  IconFileText,
  IconHelp,
  IconHistory,
  IconMoon,
  IconRoute,
  IconServer2,
  IconShieldLock,
  IconSun,
  IconTerminal2,
  type TablerIcon,
} from '@tabler/icons-react';
import { Link, Outlet, useNavigate } from '@tanstack/react-router';
import { useEffect } from 'react';
import { Banner } from '../ui/pieces.tsx';
import { ClustersProvider } from './clusters.tsx';
import styles from './frame.module.css';
import { Help } from './help.tsx';
import { useOverlays } from './overlays.ts';
import { Palette } from './palette.tsx';
import { Questions } from './questions.tsx';
import { useShortcuts } from './shortcuts.ts';
import { useConnectionState } from './streams.ts';
import { TopBar } from './top-bar.tsx';

const places = [
  { to: '/clusters', text: 'Clusters', icon: IconServer2, keys: 'g c' },
  { to: '/topology', text: 'Topology', icon: IconAffiliate, keys: 'g t' },
  { to: '/flows', text: 'Flows', icon: IconArrowsLeftRight, keys: 'g f' },
  { to: '/policies', text: 'Policies', icon: IconShieldLock, keys: 'g p' },
  { to: '/terminal', text: 'Terminal', icon: IconTerminal2, keys: 'g s' },
  { to: '/explain', text: 'Explain', icon: IconRoute, keys: 'g e' },
  { to: '/logs', text: 'Logs', icon: IconFileText, keys: 'g l' },
  { to: '/audit', text: 'Audit', icon: IconHistory, keys: 'g a' },
] as const;

/** The frame around every view: rail, top bar, notices, palette and help. */
export function Frame() {
  return (
    <ClustersProvider>
      <FrameContent />
    </ClustersProvider>
  );
}

function FrameContent() {
  const navigate = useNavigate();
  const { palette, show } = useOverlays();
  const state = useConnectionState();
  useShortcuts({
    ...Object.fromEntries(places.map((place) => [place.keys, () => void navigate({ to: place.to })])),
    '?': () => show('help'),
  });
  useEffect(() => {
    const listen = (event: KeyboardEvent) => {
      if (event.key.toLowerCase() !== 'k' || !(event.ctrlKey || event.metaKey) || event.shiftKey || event.altKey)
        return;
      event.preventDefault();
      show(useOverlays.getState().palette ? 'none' : 'palette');
    };
    window.addEventListener('keydown', listen, true);
    return () => window.removeEventListener('keydown', listen, true);
  }, [show]);
  return (
    <div className={styles.frame}>
      <button type="button" className={styles.skip} onClick={() => document.getElementById('main')?.focus()}>
        Skip to content
      </button>
      <Rail />
      <TopBar />
      <div className={styles.notice}>
        {state === 'lost' ? (
          <Banner tone="bad">
            The connection to Fairlead’s engine is lost; trying again. What is shown may be out of date.
          </Banner>
        ) : null}
      </div>
      <main id="main" className={styles.main} tabIndex={-1}>
        <Outlet />
      </main>
      <Questions />
      {palette ? <Palette /> : null}
      <Help />
    </div>
  );
}

const schemes: Readonly<
  Record<'auto' | 'light' | 'dark', { text: string; icon: TablerIcon; next: 'auto' | 'light' | 'dark' }>
> = {
  auto: { text: 'Auto', icon: IconDeviceDesktop, next: 'light' },
  light: { text: 'Light', icon: IconSun, next: 'dark' },
  dark: { text: 'Dark', icon: IconMoon, next: 'auto' },
};

function Rail() {
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const show = useOverlays((state) => state.show);
  const scheme = schemes[colorScheme];
  const Icon = scheme.icon;
  return (
    <nav className={styles.rail} aria-label="Views">
      <div className={styles.logo}>
        <svg width="30" height="30" viewBox="0 0 32 32" role="img" aria-label="Fairlead">
          <path
            d="M3 22c6 0 6-12 13-12s7 12 13 12"
            fill="none"
            stroke="#4cc3c3"
            strokeWidth="3"
            strokeLinecap="round"
          />
          <circle cx="16" cy="10" r="3.6" fill="none" stroke="#fff" strokeWidth="2.4" />
        </svg>
      </div>
      {places.map((place) => (
        <Tooltip key={place.to} label={`${place.text} (${place.keys})`} position="right">
          <Link to={place.to} className={styles.link} activeOptions={{ exact: false, includeSearch: false }}>
            <place.icon size={20} stroke={1.7} aria-hidden />
            {place.text}
          </Link>
        </Tooltip>
      ))}
      <div className={styles.railEnd}>
        <Tooltip label={`Colours: ${scheme.text.toLowerCase()}. Click to change.`} position="right">
          <button
            type="button"
            className={styles.link}
            aria-label={`Colours: ${scheme.text.toLowerCase()}`}
            onClick={() => setColorScheme(scheme.next)}
          >
            <Icon size={18} stroke={1.7} aria-hidden />
            {scheme.text}
          </button>
        </Tooltip>
        <Tooltip label="Shortcuts (?)" position="right">
          <button type="button" className={styles.link} onClick={() => show('help')}>
            <IconHelp size={18} stroke={1.7} aria-hidden />
            Help
          </button>
        </Tooltip>
      </div>
    </nav>
  );
}
