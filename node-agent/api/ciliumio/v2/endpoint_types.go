package v2

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// CiliumEndpoint is what the network knows about a pod. It has the pod's name and is owned by it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={cilium},singular="ciliumendpoint",path="ciliumendpoints",scope="Namespaced",shortName={cep,ciliumep}
// +kubebuilder:printcolumn:JSONPath=".status.identity.id",description="Security Identity",name="Security Identity",type=integer
// +kubebuilder:printcolumn:JSONPath=".status.policy.ingress.state",description="Ingress enforcement in the endpoint",name="Ingress Enforcement",type=string,priority=1
// +kubebuilder:printcolumn:JSONPath=".status.policy.egress.state",description="Egress enforcement in the endpoint",name="Egress Enforcement",type=string,priority=1
// +kubebuilder:printcolumn:JSONPath=".status.state",description="Endpoint current state",name="Endpoint State",type=string
// +kubebuilder:printcolumn:JSONPath=".status.networking.addressing[0].ipv4",description="Endpoint IPv4 address",name="IPv4",type=string
// +kubebuilder:printcolumn:JSONPath=".status.networking.addressing[0].ipv6",description="Endpoint IPv6 address",name="IPv6",type=string
// +kubebuilder:storageversion
type CiliumEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	// +optional
	Status EndpointStatus `json:"status,omitzero"`
}

// EndpointState is where an endpoint is in its life.
// +kubebuilder:validation:Enum=creating;waiting-for-identity;not-ready;waiting-to-regenerate;regenerating;restoring;ready;disconnecting;disconnected;invalid
type EndpointState string

// The states of an endpoint that Fairlead writes.
const (
	EndpointStateCreating           EndpointState = "creating"
	EndpointStateWaitingForIdentity EndpointState = "waiting-for-identity"
	EndpointStateRestoring          EndpointState = "restoring"
	EndpointStateReady              EndpointState = "ready"
	EndpointStateDisconnecting      EndpointState = "disconnecting"
	EndpointStateInvalid            EndpointState = "invalid"
)

// EndpointStatus is the state of an endpoint.
type EndpointStatus struct {
	// ID is local to the node.
	// +optional
	ID int64 `json:"id,omitempty"`
	// +optional
	Controllers []ControllerStatus `json:"controllers,omitempty"`
	// +optional
	ExternalIdentifiers *EndpointIdentifiers `json:"external-identifiers,omitempty"`
	// +optional
	Health *EndpointHealth `json:"health,omitempty"`
	// +optional
	Identity *EndpointIdentity `json:"identity,omitempty"`
	// +optional
	Log []EndpointStatusChange `json:"log,omitempty"`
	// +optional
	Networking *EndpointNetworking `json:"networking,omitempty"`
	// +optional
	Encryption EncryptionSpec `json:"encryption,omitzero"`
	// +optional
	Policy *EndpointPolicy `json:"policy,omitempty"`
	// +optional
	State EndpointState `json:"state,omitempty"`
	// +optional
	NamedPorts []NamedPort `json:"named-ports,omitempty"`
	// +optional
	ServiceAccount string `json:"service-account,omitempty"`
}

// EndpointIdentifiers names the endpoint outside of the network.
type EndpointIdentifiers struct {
	// +optional
	CNIAttachmentID string `json:"cni-attachment-id,omitempty"`
	// +optional
	ContainerID string `json:"container-id,omitempty"`
	// +optional
	ContainerName string `json:"container-name,omitempty"`
	// +optional
	DockerEndpointID string `json:"docker-endpoint-id,omitempty"`
	// +optional
	DockerNetworkID string `json:"docker-network-id,omitempty"`
	// +optional
	K8sNamespace string `json:"k8s-namespace,omitempty"`
	// +optional
	K8sPodName string `json:"k8s-pod-name,omitempty"`
	// +optional
	PodName string `json:"pod-name,omitempty"`
}

// EndpointHealth is a summary; values are OK, Bootstrap, Pending, Warning, Failure, Disabled.
type EndpointHealth struct {
	// +optional
	BPF string `json:"bpf,omitempty"`
	// +optional
	Connected bool `json:"connected,omitempty"`
	// +optional
	OverallHealth string `json:"overallHealth,omitempty"`
	// +optional
	Policy string `json:"policy,omitempty"`
}

// EndpointIdentity is the identity of an endpoint.
type EndpointIdentity struct {
	// +optional
	ID int64 `json:"id,omitempty"`
	// Labels are source:key=value.
	// +optional
	Labels []string `json:"labels,omitempty"`
}

// EndpointStatusChange is one line of an endpoint's history.
type EndpointStatusChange struct {
	// +optional
	Code string `json:"code,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
	// +optional
	State string `json:"state,omitempty"`
	// +optional
	Timestamp string `json:"timestamp,omitempty"`
}

// EndpointNetworking is where an endpoint is.
type EndpointNetworking struct {
	Addressing []AddressPair `json:"addressing"`
	// NodeIP is the address of the endpoint's node.
	// +optional
	NodeIP string `json:"node,omitempty"`
}

// AddressPair is an IPv4 and an IPv6 address, either of which may be missing.
type AddressPair struct {
	// +optional
	IPV4 string `json:"ipv4,omitempty"`
	// +optional
	IPV6 string `json:"ipv6,omitempty"`
}

// EncryptionSpec is the index of the encryption key; 0 is none.
type EncryptionSpec struct {
	// +optional
	Key int `json:"key,omitempty"`
}

// EndpointPolicy is what an endpoint enforces.
type EndpointPolicy struct {
	// +optional
	Ingress *EndpointPolicyDirection `json:"ingress,omitempty"`
	// +optional
	Egress *EndpointPolicyDirection `json:"egress,omitempty"`
}

// EndpointPolicyDirection is what an endpoint enforces in one direction.
type EndpointPolicyDirection struct {
	Enforcing bool `json:"enforcing"`
	// +optional
	Allowed []IdentityTuple `json:"allowed,omitempty"`
	// +optional
	Denied []IdentityTuple `json:"denied,omitempty"`
	// +optional
	Removing []IdentityTuple `json:"removing,omitempty"`
	// +optional
	Adding []IdentityTuple `json:"adding,omitempty"`
	// State is enforcing, non-enforcing or disabled.
	// +optional
	State string `json:"state,omitempty"`
}

// IdentityTuple is a peer with a port and protocol.
type IdentityTuple struct {
	// +optional
	Identity uint64 `json:"identity,omitempty"`
	// +optional
	IdentityLabels map[string]string `json:"identity-labels,omitempty"`
	// +optional
	DestPort uint16 `json:"dest-port,omitempty"`
	// +optional
	Protocol uint8 `json:"protocol,omitempty"`
}

// NamedPort is a named container port.
type NamedPort struct {
	// +optional
	Name string `json:"name,omitempty"`
	// +optional
	Port uint16 `json:"port,omitempty"`
	// +optional
	Protocol string `json:"protocol,omitempty"`
}

// ControllerStatus is the state of a failing controller of the endpoint.
type ControllerStatus struct {
	// +optional
	Name string `json:"name,omitempty"`
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	Configuration *runtime.RawExtension `json:"configuration,omitempty"`
	// +optional
	Status ControllerStatusStatus `json:"status,omitzero"`
	// +optional
	UUID string `json:"uuid,omitempty"`
}

// ControllerStatusStatus counts a controller's runs.
type ControllerStatusStatus struct {
	// +optional
	ConsecutiveFailureCount int64 `json:"consecutive-failure-count,omitempty"`
	// +optional
	FailureCount int64 `json:"failure-count,omitempty"`
	// +optional
	LastFailureMsg string `json:"last-failure-msg,omitempty"`
	// +optional
	LastFailureTimestamp string `json:"last-failure-timestamp,omitempty"`
	// +optional
	LastSuccessTimestamp string `json:"last-success-timestamp,omitempty"`
	// +optional
	SuccessCount int64 `json:"success-count,omitempty"`
}

// CiliumEndpointList is a list of CiliumEndpoint.
//
// +kubebuilder:object:root=true
type CiliumEndpointList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []CiliumEndpoint `json:"items"`
}
