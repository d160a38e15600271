/** A text to begin a new policy with. */
export interface Template {
  readonly id: string;
  readonly title: string;
  readonly text: string;
  readonly yaml: (namespace: string) => string;
}

export const templates: readonly Template[] = [
  {
    id: 'deny-all',
    title: 'Deny all ingress',
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
    title: 'Allow the same namespace',
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
    title: 'The demo: only the empire may land',
    text: 'The deathstar admits ships with org=empire on TCP port 80. The xwing is denied.',
    yaml: () => `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: rule1
  namespace: default
spec:
  description: L3-L4 policy to restrict deathstar access to empire ships only
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
    id: 'network-policy',
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
