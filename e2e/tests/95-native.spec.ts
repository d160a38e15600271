import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import { apply, kubectl, lab, must, root } from '../../lab/client.ts';
import { podAddress, ready, traffic, trafficPod } from '../support/cluster.ts';
import { connectivity } from '../support/connectivity.ts';

const native = ['routingMode=native', 'autoDirectNodeRoutes=true', 'ipv4NativeRoutingCIDR=10.77.0.0/16'];

test.describe('pods talk in native mode', () => {
  test.beforeAll(async () => {
    test.setTimeout(300_000);
    await lab(['down']);
    await lab(['up', '--nodes', '3', '--cni', 'fairlead']);
    const install = [join(root, 'scripts/install-agent.mjs'), '--lab', ...native.flatMap((value) => ['--set', value])];
    await must(process.execPath, install, { echo: true, seconds: 240 });
  });
  connectivity('native');

  test('changing to the tunnel and back, node by node, interrupts nobody', async () => {
    test.setTimeout(420_000);
    await apply([trafficPod('harbour', 'node1', { app: 'harbour' }), trafficPod('fleet', 'node2', { app: 'fleet' })]);
    await ready(['harbour', 'fleet']);
    const ends = { fleet: await podAddress('harbour'), harbour: await podAddress('fleet') };
    const install = join(root, 'scripts/install-agent.mjs');
    const tunnel = ['routingMode=tunnel', 'autoDirectNodeRoutes=false', 'ipv4NativeRoutingCIDR='];
    for (const values of [tunnel, native]) {
      const seconds = '110';
      const switches = Object.entries(ends).map(([pod, to]) =>
        traffic(pod, ['switch', '--to', `${to}:9000`, '--seconds', seconds]),
      );
      const crowd = traffic('fleet', ['crowd', '--to', `${ends.fleet}:9000`, '--seconds', seconds]);
      await must(process.execPath, [install, '--lab', ...values.flatMap((value) => ['--set', value])], {
        seconds: 240,
      });
      for (const { changes = [] } of await Promise.all(switches)) {
        const gaps = changes.flatMap(({ passes, atMilliseconds }, i) =>
          passes ? [] : [(changes[i + 1]?.atMilliseconds ?? Number.POSITIVE_INFINITY) - atMilliseconds],
        );
        // None is expected, but a machine without a free core loses datagrams of its own. Nodes that do not understand each
        // other miss each other for more than three seconds.
        expect(Math.max(0, ...gaps)).toBeLessThan(2000);
      }
      const { broken, errors, firstError = '' } = await crowd;
      expect({ broken, errors, firstError }).toEqual({ broken: 0, errors: 0, firstError: '' });
    }
    await kubectl(['delete', 'pod', 'harbour', 'fleet', '--now']);
  });
});
