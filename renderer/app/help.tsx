import { Modal } from '@mantine/core';
import { Keys } from '../ui/pieces.tsx';
import { useOverlays } from './overlays.ts';
import { shortcuts } from './shortcuts.ts';

const groups = ['Go to', 'Everywhere', 'View', 'Tables'] as const;

/** All shortcuts, in one overlay. */
export function Help() {
  const { help, show } = useOverlays();
  return (
    <Modal
      opened={help}
      onClose={() => show('none')}
      title="Keyboard shortcuts"
      size="lg"
      closeButtonProps={{ 'aria-label': 'Close' }}
    >
      <div style={{ display: 'grid', gridTemplateColumns: '1fr 1fr', gap: '18px 32px' }}>
        {groups.map((group) => (
          <section key={group}>
            <h3 className="muted" style={{ marginBottom: 6 }}>
              {group}
            </h3>
            {shortcuts
              .filter((shortcut) => shortcut.group === group)
              .map((shortcut) => (
                <div
                  key={shortcut.keys}
                  style={{ display: 'flex', justifyContent: 'space-between', gap: 12, padding: '3px 0' }}
                >
                  <span>{shortcut.text}</span>
                  <Keys keys={shortcut.keys} />
                </div>
              ))}
          </section>
        ))}
      </div>
    </Modal>
  );
}
