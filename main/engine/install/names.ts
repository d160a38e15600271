/** Namespace of everything that is namespaced. */
export const agentNamespace = 'kube-system';
/** Name of the DaemonSet, its account and its roles. */
export const agentName = 'fairlead-agent';
/** Name of the DaemonSet that undoes everything on the nodes. */
export const cleanupName = 'fairlead-cleanup';
/** Label by which the agent's pods are found. */
export const agentLabel = { key: 'app.kubernetes.io/name', value: agentName } as const;
/** Labels of every object of an installation. */
export const labels = {
  [agentLabel.key]: agentLabel.value,
  'app.kubernetes.io/part-of': 'fairlead',
  'app.kubernetes.io/managed-by': 'fairlead',
} as const;
export const agentSelector = `${agentLabel.key}=${agentLabel.value}`;
export const cleanupSelector = `${agentLabel.key}=${cleanupName}`;
export const configName = 'fairlead-config';
export const serverSecret = 'fairlead-tls';
export const clientSecret = 'fairlead-client-tls';
export const authoritySecret = 'fairlead-ca';
/** The relay has the names under which Hubble's own tools look for one. */
export const relayName = 'hubble-relay';
export const relayAccount = 'fairlead-relay';
export const relaySecret = 'fairlead-relay-tls';
export const relayPort = 4245;
/** Where the relay's pod answers Prometheus: the port that Hubble Relay has. */
export const relayMetricsPort = 9966;
export const relayLabels = {
  'k8s-app': relayName,
  'app.kubernetes.io/name': relayName,
  'app.kubernetes.io/part-of': 'fairlead',
  'app.kubernetes.io/managed-by': 'fairlead',
} as const;
export const relaySelector = `k8s-app=${relayName}`;
/** Port of the agent's API and of Hubble's, mutual TLS. */
export const agentPort = 4244;
/** Annotation on pods: a change of it rolls the DaemonSet. */
export const configDigestAnnotation = 'fairlead.dev/config-digest';
/** Annotations on pods by which a Prometheus that looks for them finds where to scrape; none where metrics are off. */
export const scrapeAnnotations = (enabled: boolean, port: number): Readonly<Record<string, string>> =>
  enabled ? { 'prometheus.io/scrape': 'true', 'prometheus.io/port': String(port) } : {};
/** Annotation on the configuration: the values as they were given, JSON. */
export const valuesAnnotation = 'fairlead.dev/values';
/** Annotation on secrets: cluster name that the certificates are for. */
export const clusterNameAnnotation = 'fairlead.dev/cluster-name';
export const fieldManager = 'fairlead';
/** Name of the ConfigMap that holds how far the last application of a plan has come. */
export const stateName = 'fairlead-install';
/** Label of nodes on which no agent is to be started yet. */
export const holdLabel = 'fairlead.dev/hold';
