import { spawn } from 'node:child_process';
import { expect, test } from '@playwright/test';
import { apply, eventually, kubectl, lab, on, run } from '../../lab/client.ts';
import { agentJSON, inPod, nodes, podAddress, ready, toolPod, traffic, trafficPod } from './cluster.ts';

/** The walk of every routing mode: pods of one node and of different nodes, names, services, the way out, and kubectl's own streams. */
export function connectivity(mode: 'tunnel' | 'native'): void {
  const names = ['tools-1', 'tools-2', 'tools-3', 'near', 'far'];

  test.beforeAll(async () => {
    test.setTimeout(240_000);
    await apply([
      toolPod('tools-1', 'node1', { app: 'tools' }),
      toolPod('tools-2', 'node2', { app: 'tools' }),
      toolPod('tools-3', 'node3', { app: 'tools' }),
      trafficPod('near', 'node1', { app: 'traffic' }),
      trafficPod('far', 'node2', { app: 'traffic' }),
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: 'traffic' },
        spec: {
          selector: { app: 'traffic' },
          ports: [
            { name: 'tcp', port: 9000, protocol: 'TCP' },
            { name: 'udp', port: 9000, protocol: 'UDP' },
          ],
        },
      },
    ]);
    await ready(names, 'default', 90);
  });

  test.afterAll(async () => {
    await kubectl(['delete', 'pod', ...names, '--now', '--ignore-not-found']);
    await kubectl(['delete', 'service', 'traffic', '--ignore-not-found']);
  });

  test('every node runs in this mode', async () => {
    for (const node of nodes) {
      const status = await agentJSON<{ routing_mode?: string; routingMode?: string }>(node, ['status']);
      expect(status.routing_mode ?? status.routingMode).toBe(mode);
    }
  });

  test('ping between nodes, and on one node', async () => {
    for (const to of ['tools-2', 'tools-3', 'near']) {
      const output = await inPod('tools-1', ['ping', '-c', '3', '-i', '0.2', '-W', '2', await podAddress(to)]);
      expect(output).toContain(' 0% packet loss');
    }
  });

  test('a packet as large as the route allows arrives whole', async () => {
    const far = await podAddress('tools-2');
    const route = await inPod('tools-1', ['ip', 'route', 'get', far]);
    const link = await inPod('tools-1', ['ip', '-o', 'link', 'show', 'eth0']);
    const mtu = Number(/mtu (\d+)/.exec(route)?.[1] ?? /mtu (\d+)/.exec(link)?.[1]);
    expect(mtu).toBeGreaterThan(1300);
    const output = await inPod('tools-1', [
      'ping',
      '-c',
      '2',
      '-i',
      '0.2',
      '-W',
      '2',
      '-M',
      'do',
      '-s',
      String(mtu - 28),
      far,
    ]);
    expect(output).toContain(' 0% packet loss');
  });

  test('TCP between nodes carries data both ways', async () => {
    const result = await traffic('far', ['rr', '--to', `${await podAddress('near')}:9000`, '--seconds', '1']);
    expect(result.errors).toBe(0);
    expect(result.count).toBeGreaterThan(100);
    const bulk = await traffic('far', ['stream', '--to', `${await podAddress('near')}:9000`, '--seconds', '1']);
    expect(bulk.errors).toBe(0);
    expect(bulk.count).toBeGreaterThan(10_000_000);
  });

  test('UDP between nodes, to a pod and to a service', async () => {
    for (const to of [await podAddress('near'), 'traffic.default.svc.cluster.local']) {
      const result = await traffic('far', ['udp', '--to', `${to}:9000`]);
      expect(result.firstError ?? '').toBe('');
      expect(result.count).toBe(10);
    }
  });

  test('a closed port refuses', async () => {
    const far = await podAddress('far');
    const output = await inPod('tools-1', ['sh', '-c', `curl -sS -m 5 http://${far}:81/ 2>&1 || true`]);
    expect(output).toMatch(/refused|Failed to connect|Couldn't connect/i);
  });

  test('names resolve through the cluster DNS service', async () => {
    const output = await inPod('tools-3', ['nslookup', 'traffic.default.svc.cluster.local']);
    const service = (await kubectl(['get', 'service', 'traffic', '-o', 'jsonpath={.spec.clusterIP}'])).trim();
    expect(output).toContain(service);
  });

  test('a ClusterIP balances over its backends, from pods and from a node', async () => {
    const service = (await kubectl(['get', 'service', 'traffic', '-o', 'jsonpath={.spec.clusterIP}'])).trim();
    const result = await traffic('far', ['crr', '--to', `${service}:9000`, '--seconds', '1']);
    expect(result.errors).toBe(0);
    expect(result.count).toBeGreaterThan(20);
    // It ends by its time limit, connected or not; how long connecting took is 0 where it did not.
    const connected = `curl -s -m 3 -o /dev/null -w '%{time_connect}' telnet://${service}:9000 </dev/null || true`;
    expect(Number(await on('node3', ['sh', '-c', connected])), 'from a node').toBeGreaterThan(0);
  });

  test('the client sees backend addresses on the wire, never the service address', async () => {
    const service = (await kubectl(['get', 'service', 'traffic', '-o', 'jsonpath={.spec.clusterIP}'])).trim();
    const capture = inPod('tools-1', [
      'timeout',
      '8',
      'tcpdump',
      '-nn',
      '-i',
      'eth0',
      '-c',
      '4',
      'tcp',
      'port',
      '9000',
    ]);
    await eventually('the capture sees packets', 15, async () => {
      await inPod('tools-1', ['sh', '-c', `curl -s -m 1 telnet://${service}:9000 </dev/null || true`]);
      return Promise.race([
        capture.then(() => true),
        new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), 50)),
      ]);
    });
    const output = await capture;
    expect(output).toContain('.9000');
    expect(output).not.toContain(`${service}.9000`);
  });

  test('what leaves the cluster carries the node address', async () => {
    const output = await inPod('tools-1', ['curl', '-sS', '-m', '5', 'http://198.51.100.10/']);
    expect(output).toContain('172.31.77.11');
    expect(output).not.toContain(await podAddress('tools-1'));
  });

  test('no KUBE-SVC chains and no kube-proxy', async () => {
    for (const node of nodes) {
      const rules = await on(node, [
        'sh',
        '-c',
        'iptables-save 2>/dev/null; nft list ruleset 2>/dev/null; pgrep -x kube-proxy || true',
      ]);
      expect(rules).not.toContain('KUBE-SVC');
      expect(rules).not.toMatch(/^\d+$/m);
    }
  });

  test('kubectl exec, logs and port-forward work', async () => {
    expect(await inPod('tools-2', ['hostname'])).toContain('tools-2');
    await kubectl(['logs', 'near', '--tail=1']);
    const status = JSON.parse(await lab(['status', '-o', 'json'])) as { kubectl: string; kubeconfig: string };
    const forward = spawn(status.kubectl, [
      '--kubeconfig',
      status.kubeconfig,
      'port-forward',
      'pod/near',
      ':9000',
      '--address',
      '127.0.0.1',
    ]);
    try {
      const port = await new Promise<string>((resolve, reject) => {
        let text = '';
        const read = (data: Buffer): void => {
          text += data.toString();
          const found = /127\.0\.0\.1:(\d+)/.exec(text);
          if (found?.[1]) resolve(found[1]);
        };
        forward.stdout.on('data', read);
        forward.stderr.on('data', read);
        forward.once('exit', () => reject(new Error(`port-forward ended: ${text}`)));
      });
      const result = await run((await lab(['traffic'])).trim(), [
        'rr',
        '--to',
        `127.0.0.1:${port}`,
        '--seconds',
        '0.5',
      ]);
      expect((JSON.parse(result.stdout) as { errors: number; count: number }).count).toBeGreaterThan(10);
    } finally {
      forward.kill('SIGTERM');
    }
  });
}
