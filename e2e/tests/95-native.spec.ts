import { join } from 'node:path';
import { test } from '@playwright/test';
import { lab, must, root } from '../../lab/client.ts';
import { connectivity } from '../support/connectivity.ts';

test.describe('pods talk in native mode', () => {
  test.beforeAll(async () => {
    test.setTimeout(300_000);
    await lab(['down']);
    await lab(['up', '--nodes', '3', '--cni', 'fairlead']);
    const values = ['routingMode=native', 'autoDirectNodeRoutes=true', 'ipv4NativeRoutingCIDR=10.77.0.0/16'];
    const install = [join(root, 'scripts/install-agent.mjs'), '--lab', ...values.flatMap((value) => ['--set', value])];
    await must(process.execPath, install, { echo: true, seconds: 240 });
  });
  connectivity('native');
});
