import { lab } from '../../lab/client.ts';

/** Takes the lab down and lets the run fail when it leaves anything behind. */
export default async function teardown(): Promise<void> {
  if (process.env.FAIRLEAD_E2E_KEEP === '1') return;
  await lab(['down'], { echo: true });
}
