/** A text to begin a new policy with. */
export interface Template {
  readonly id: string;
  readonly title: string;
  /** Can it be written for any namespace? */
  readonly namespaced: boolean;
  /** What it does, in a sentence. */
  readonly text: string;
  /** The policy's text; the demo stands in its own namespace whatever is asked for. */
  readonly yaml: (namespace: string) => string;
}

export const templates: readonly Template[] = [
  {
    id: 'deny-all',
    namespaced: true,
    title: 'Deny all ingress in a namespace',
    text: 'Pods of a namespace receive nothing until other policies admit it.',
    yaml: (namespace) => `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: deny-all-ingress
  namespace: ${namespace}
spec:
  description: Nothing is admitted unless another policy admits it
  endpointSelector: {}
  # One empty rule puts default deny on and admits nothing.
  ingress:
    - {}
`,
  },
  {
    id: 'same-namespace',
    namespaced: true,
    title: 'Allow within a namespace',
    text: 'Pods of a namespace may reach each other; nothing from elsewhere.',
    yaml: (namespace) => `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: allow-same-namespace
  namespace: ${namespace}
spec:
  description: Pods of this namespace may reach each other
  endpointSelector: {}
  ingress:
    - fromEndpoints:
        - {}
`,
  },
  {
    id: 'label-port',
    namespaced: true,
    title: 'Allow from a label on a port',
    text: 'Some pods may reach some others on one port.',
    yaml: (namespace) => `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: allow-frontend-to-backend
  namespace: ${namespace}
spec:
  description: The frontend may reach the backend on port 8080
  endpointSelector:
    matchLabels:
      app: backend
  ingress:
    - fromEndpoints:
        - matchLabels:
            app: frontend
      toPorts:
        - ports:
            - port: "8080"
              protocol: TCP
`,
  },
  {
    id: 'demo',
    namespaced: false,
    title: 'Demo: protect the deathstar',
    text: 'In galaxy, the deathstar admits ships with org=empire on TCP port 80. The xwing is denied.',
    // The lab's demo policy, word for word in what it means (lab/manifests/demo-policy.yaml).
    yaml: () => `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: rule1
  namespace: galaxy
spec:
  description: Only ships of the Empire may ask for landing
  endpointSelector:
    matchLabels:
      org: empire
      class: deathstar
  ingress:
    - fromEndpoints:
        - matchLabels:
            org: empire
      toPorts:
        - ports:
            - port: "80"
              protocol: TCP
`,
  },
  {
    id: 'demo-http',
    namespaced: false,
    title: 'Demo: only landing',
    text: 'In galaxy, the deathstar admits ships with org=empire, and of their requests only POST /v1/request-landing.',
    // The lab's demo policy, word for word in what it means (lab/manifests/demo-policy-l7.yaml).
    yaml: () => `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: rule1
  namespace: galaxy
spec:
  description: Ships of the Empire may ask for landing, and nothing else
  endpointSelector:
    matchLabels:
      org: empire
      class: deathstar
  ingress:
    - fromEndpoints:
        - matchLabels:
            org: empire
      toPorts:
        - ports:
            - port: "80"
              protocol: TCP
          rules:
            http:
              - method: POST
                path: /v1/request-landing
`,
  },
  {
    id: 'network-policy',
    namespaced: true,
    title: 'Kubernetes NetworkPolicy',
    text: 'The same idea in the API that every Kubernetes network knows.',
    yaml: (namespace) => `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: allow-from-frontend
  namespace: ${namespace}
spec:
  podSelector:
    matchLabels:
      app: backend
  policyTypes:
    - Ingress
  ingress:
    - from:
        - podSelector:
            matchLabels:
              app: frontend
      ports:
        - protocol: TCP
          port: 8080
`,
  },
];
