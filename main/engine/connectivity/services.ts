import type { KubeObject } from '../kube/cluster-connection.ts';
import { externalPort, serverPort } from './cases.ts';

interface Port {
  readonly name: string;
  readonly port: number;
  readonly protocol: 'TCP' | 'UDP';
  readonly targetPort: number;
}

const tcp: Port = { name: 'http', port: 80, protocol: 'TCP', targetPort: serverPort };
const both: readonly Port[] = [tcp, { ...tcp, name: 'udp', protocol: 'UDP' }];

function service(name: string, selector: object, spec: object, ports: readonly Port[] = [tcp]): KubeObject {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name },
    spec: { selector, ports, ...spec },
  } as KubeObject;
}

const web = { role: 'web' };

/** The services of the test. Both servers have the label role=web. `external` is an address of the client's node. */
export const testServices = (external: string): readonly KubeObject[] => [
  service('web', web, {}, both),
  service('web-headless', web, { clusterIP: 'None' }),
  service('web-sticky', web, { sessionAffinity: 'ClientIP' }),
  service('web-local', web, { internalTrafficPolicy: 'Local' }),
  service('web-external', web, { externalIPs: [external] }, [{ ...tcp, port: externalPort }]),
  service('web-nodeport', web, { type: 'NodePort' }),
  service('web-nodeport-udp', web, { type: 'NodePort' }, [{ ...tcp, name: 'udp', protocol: 'UDP' }]),
  service('web-nodeport-local', web, { type: 'NodePort', externalTrafficPolicy: 'Local' }),
  service('web-loadbalancer', web, { type: 'LoadBalancer', allocateLoadBalancerNodePorts: false }),
  service('self', { name: 'client' }, {}),
  service('nobody', { role: 'nobody' }, {}),
];
