package spec

// Entity is a well-known group of peers.
// +kubebuilder:validation:Enum=all;world;cluster;cluster-mesh;host;init;ingress;unmanaged;remote-node;health;none;kube-apiserver
type Entity string

// The entities of the API.
const (
	EntityAll           Entity = "all"
	EntityWorld         Entity = "world"
	EntityCluster       Entity = "cluster"
	EntityClusterMesh   Entity = "cluster-mesh"
	EntityHost          Entity = "host"
	EntityInit          Entity = "init"
	EntityIngress       Entity = "ingress"
	EntityUnmanaged     Entity = "unmanaged"
	EntityRemoteNode    Entity = "remote-node"
	EntityHealth        Entity = "health"
	EntityNone          Entity = "none"
	EntityKubeAPIServer Entity = "kube-apiserver"
)

// CIDRRule is a range of addresses with exceptions, or a reference to a CiliumCIDRGroup. Exactly one of cidr, cidrGroupRef
// and cidrGroupSelector is set.
type CIDRRule struct {
	// +optional
	CIDR string `json:"cidr,omitempty"`
	// Except lists ranges inside of cidr that are not meant.
	// +optional
	Except []string `json:"except,omitzero"`
	// +optional
	CIDRGroupRef string `json:"cidrGroupRef,omitempty"`
	// +optional
	CIDRGroupSelector *LabelSelector `json:"cidrGroupSelector,omitempty"`
}

// Group is a group of machines of a cloud provider.
type Group struct {
	// +optional
	AWS *AWSGroup `json:"aws,omitempty"`
}

// AWSGroup selects EC2 instances.
type AWSGroup struct {
	// +optional
	Labels map[string]string `json:"labels,omitzero"`
	// +optional
	Region string `json:"region,omitempty"`
	// +optional
	SecurityGroupsIds []string `json:"securityGroupsIds,omitzero"`
	// +optional
	SecurityGroupsNames []string `json:"securityGroupsNames,omitzero"`
}

// ServiceSelector selects Kubernetes services.
type ServiceSelector struct {
	// +optional
	K8sService *K8sServiceName `json:"k8sService,omitempty"`
	// +optional
	K8sServiceSelector *K8sServiceSelector `json:"k8sServiceSelector,omitempty"`
}

// K8sServiceName names one service.
type K8sServiceName struct {
	// +optional
	ServiceName string `json:"serviceName,omitempty"`
	// +optional
	Namespace string `json:"namespace,omitempty"`
}

// K8sServiceSelector selects services by their labels.
type K8sServiceSelector struct {
	Selector LabelSelector `json:"selector"`
	// +optional
	Namespace string `json:"namespace,omitempty"`
}

// FQDNSelector selects addresses by the DNS name that they were resolved from.
type FQDNSelector struct {
	// +optional
	// +kubebuilder:validation:MaxLength=255
	MatchName string `json:"matchName,omitempty"`
	// +optional
	// +kubebuilder:validation:MaxLength=255
	MatchPattern string `json:"matchPattern,omitempty"`
}

// Authentication asks for a mutually authenticated connection.
type Authentication struct {
	// +kubebuilder:validation:Enum=disabled;required;test-always-fail
	Mode string `json:"mode"`
}
