/// <reference types="vite/client" />
import '@fontsource-variable/inter/wght.css';
import '@fontsource-variable/jetbrains-mono/wght.css';
import '@mantine/core/styles.css';
import './ui/tokens.css';
import './ui/mantine.css';
import { MantineProvider } from '@mantine/core';
import { RouterProvider } from '@tanstack/react-router';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { config } from 'zod/mini';
import type { Connection } from '../contract/client.ts';
import { connectToEngine } from './app/connection.ts';
import { router } from './app/router.tsx';
import { ConnectionContext } from './app/streams.ts';
import { theme } from './ui/theme.ts';

// The content policy forbids compiled code; without this zod would try and the browser would report it.
config({ jitless: true });

/** The engine; or, in development and test builds only, data made up by `?fixture=NAME`. */
async function openConnection(): Promise<Connection> {
  if (import.meta.env.DEV || import.meta.env.MODE === 'fixture') {
    const preset = new URLSearchParams(location.search).get('fixture');
    if (preset !== null) return (await import('./dev/fixture-client.ts')).createFixtureConnection(preset);
  }
  return connectToEngine();
}

const connection = await openConnection();
const root = document.getElementById('root');
if (!root) throw new Error('the page has no root element');
createRoot(root).render(
  <StrictMode>
    <MantineProvider theme={theme} defaultColorScheme="auto">
      <ConnectionContext value={connection}>
        <RouterProvider router={router} />
      </ConnectionContext>
    </MantineProvider>
  </StrictMode>,
);
