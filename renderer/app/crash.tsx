import { Button } from '@mantine/core';
import { IconMapQuestion } from '@tabler/icons-react';
import { Link } from '@tanstack/react-router';
import { Empty, FailureCard } from '../ui/pieces.tsx';

/** A view threw: a mistake of ours. Said as every error, with the view's other parts still usable. */
export function CrashCard({ error, reset }: { readonly error: unknown; readonly reset?: () => void }) {
  const message = error instanceof Error ? error.message : String(error);
  return (
    <div style={{ padding: 16 }}>
      <FailureCard
        failure={{
          code: 'console.crashed',
          what: 'This view stopped working.',
          why: `A mistake in the console: ${message}`,
          fix: 'Try again. If it comes back, copy this error into a report.',
          ...(error instanceof Error && error.stack ? { details: error.stack } : {}),
        }}
        onRetry={reset}
      />
    </div>
  );
}

/** An address that leads nowhere. */
export function NotFound() {
  return (
    <Empty
      icon={IconMapQuestion}
      title="There is no such page"
      actions={
        <Button component={Link} to="/clusters">
          Go to Clusters
        </Button>
      }
    >
      The address does not belong to any view. It may come from another version.
    </Empty>
  );
}
