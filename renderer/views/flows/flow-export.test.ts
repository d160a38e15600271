import { expect, it } from 'vitest';
import type { Flow } from '../../../contract/flows.ts';
import { flowsToCsv, flowsToJson } from './flow-export.ts';

const side = {
  label: 'default/xwing',
  namespace: 'default',
  pod: 'xwing',
  workload: '',
  service: '',
  entity: '',
  address: '10.0.0.1',
  port: 1,
  identity: 2,
  labels: [],
  mac: '',
  names: [],
};
const flow: Flow = {
  sequence: 1,
  uuid: 'u',
  time: 0,
  node: 'node1',
  verdict: 'FORWARDED',
  dropReason: '',
  dropText: '',
  dropHelp: '',
  direction: 'INGRESS',
  reply: null,
  source: side,
  destination: side,
  protocol: 'TCP',
  tcpFlags: ['SYN'],
  event: 'trace',
  observationPoint: 'to-endpoint',
  policyMatch: '',
  allowedBy: [],
  deniedBy: [],
  interface: '',
  summary: '=HYPERLINK("x"), quoted',
  socketCookie: '',
};

it('writes CSV oldest first, quotes, and defuses formulas', () => {
  const lines = flowsToCsv([{ ...flow, sequence: 2, node: 'newest' }, flow])
    .trimEnd()
    .split('\n');
  expect(lines).toHaveLength(3);
  expect(lines[1]).toContain('node1');
  expect(lines[2]).toContain('newest');
  expect(lines[1]).toContain(`"'=HYPERLINK(""x""), quoted"`);
});

it('writes one JSON object per line', () => {
  const lines = flowsToJson([flow, flow]).trimEnd().split('\n');
  expect(lines.map((line) => JSON.parse(line).uuid)).toEqual(['u', 'u']);
});
