package v2

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// CiliumNode is what the network knows about a node.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={cilium},singular="ciliumnode",path="ciliumnodes",scope="Cluster",shortName={cn,ciliumn}
// +kubebuilder:printcolumn:JSONPath=".spec.addresses[?(@.type==\"CiliumInternalIP\")].ip",description="Cilium internal IP for this node",name="CiliumInternalIP",type=string
// +kubebuilder:printcolumn:JSONPath=".spec.addresses[?(@.type==\"InternalIP\")].ip",description="IP of the node",name="InternalIP",type=string
// +kubebuilder:printcolumn:JSONPath=".metadata.creationTimestamp",description="Time duration since creation of Ciliumnode",name="Age",type=date
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
type CiliumNode struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec NodeSpec `json:"spec"`
	// +optional
	Status NodeStatus `json:"status,omitzero"`
}

// NodeAddressType says what an address of a node is.
type NodeAddressType string

// The address types.
const (
	NodeInternalIP       NodeAddressType = "InternalIP"
	NodeExternalIP       NodeAddressType = "ExternalIP"
	NodeCiliumInternalIP NodeAddressType = "CiliumInternalIP"
)

// NodeAddress is one address of a node.
type NodeAddress struct {
	// +optional
	Type NodeAddressType `json:"type,omitempty"`
	// +optional
	IP string `json:"ip,omitempty"`
}

// NodeSpec is what other nodes need to know of a node.
type NodeSpec struct {
	// +optional
	InstanceID string `json:"instance-id,omitempty"`
	// +optional
	BootID string `json:"bootid,omitempty"`
	// +optional
	Addresses []NodeAddress `json:"addresses,omitempty"`
	// HealthAddressing is where the node answers health probes.
	// +optional
	HealthAddressing HealthAddressing `json:"health,omitzero"`
	// +optional
	IngressAddressing AddressPair `json:"ingress,omitzero"`
	// +optional
	Encryption EncryptionSpec `json:"encryption,omitzero"`
	// +optional
	IPAM IPAMSpec `json:"ipam,omitzero"`
	// ENI, Azure and AlibabaCloud are kept as they are for installations of Cilium that use them.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	ENI *runtime.RawExtension `json:"eni,omitempty"`
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	Azure *runtime.RawExtension `json:"azure,omitempty"`
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	AlibabaCloud *runtime.RawExtension `json:"alibaba-cloud,omitempty"`
}

// HealthAddressing is where a node answers health probes.
type HealthAddressing struct {
	// +optional
	IPv4 string `json:"ipv4,omitempty"`
	// +optional
	IPv6 string `json:"ipv6,omitempty"`
}

// IPAMSpec is where a node's pods get their addresses from.
type IPAMSpec struct {
	// +optional
	Pool map[string]AllocationIP `json:"pool,omitempty"`
	// +optional
	IPv6Pool map[string]AllocationIP `json:"ipv6-pool,omitempty"`
	// +optional
	Pools IPAMPoolSpec `json:"pools,omitzero"`
	// PodCIDRs are the node's ranges; with ipam.mode=kubernetes a mirror of Node.spec.podCIDRs.
	// +optional
	PodCIDRs []string `json:"podCIDRs,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=0
	MinAllocate int `json:"min-allocate,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=0
	MaxAllocate int `json:"max-allocate,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=0
	PreAllocate int `json:"pre-allocate,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=0
	MaxAboveWatermark int `json:"max-above-watermark,omitempty"`
	// +optional
	StaticIPTags map[string]string `json:"static-ip-tags,omitempty"`
}

// AllocationIP is one address of a pool.
type AllocationIP struct {
	// +optional
	Owner string `json:"owner,omitempty"`
	// +optional
	Resource string `json:"resource,omitempty"`
}

// IPAMPoolSpec are the pools that a node has, and asks for.
type IPAMPoolSpec struct {
	// +optional
	Requested []IPAMPoolRequest `json:"requested,omitempty"`
	// +optional
	Allocated []IPAMPoolAllocation `json:"allocated,omitempty"`
}

// IPAMPoolRequest asks for addresses of a pool.
type IPAMPoolRequest struct {
	// +kubebuilder:validation:MinLength=1
	Pool string `json:"pool"`
	// +optional
	Needed IPAMPoolDemand `json:"needed,omitzero"`
}

// IPAMPoolDemand is a number of addresses.
type IPAMPoolDemand struct {
	// +optional
	IPv4Addrs int `json:"ipv4-addrs,omitempty"`
	// +optional
	IPv6Addrs int `json:"ipv6-addrs,omitempty"`
}

// IPAMPoolAllocation are ranges out of a pool.
type IPAMPoolAllocation struct {
	// +kubebuilder:validation:MinLength=1
	Pool string `json:"pool"`
	// +optional
	CIDRs []string `json:"cidrs,omitempty"`
	// +optional
	AllowFirstIP bool `json:"allowFirstIP,omitempty"`
	// +optional
	AllowLastIP bool `json:"allowLastIP,omitempty"`
}

// NodeStatus is the state of a node's address management.
type NodeStatus struct {
	// +optional
	IPAM IPAMStatus `json:"ipam,omitzero"`
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	ENI *runtime.RawExtension `json:"eni,omitempty"`
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	Azure *runtime.RawExtension `json:"azure,omitempty"`
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	AlibabaCloud *runtime.RawExtension `json:"alibaba-cloud,omitempty"`
}

// IPAMStatus is what is used of a node's addresses.
type IPAMStatus struct {
	// +optional
	Used map[string]AllocationIP `json:"used,omitempty"`
	// +optional
	IPv6Used map[string]AllocationIP `json:"ipv6-used,omitempty"`
	// +optional
	PodCIDRs map[string]PodCIDRState `json:"pod-cidrs,omitempty"`
	// +optional
	OperatorStatus OperatorStatus `json:"operator-status,omitzero"`
	// +optional
	ReleaseIPs map[string]IPReleaseStatus `json:"release-ips,omitempty"`
	// +optional
	ReleaseIPv6s map[string]IPReleaseStatus `json:"release-ipv6s,omitempty"`
	// +optional
	AssignedStaticIP string `json:"assigned-static-ip,omitempty"`
}

// PodCIDRState is the state of one of a node's ranges.
type PodCIDRState struct {
	// +optional
	// +kubebuilder:validation:Enum=released;depleted;in-use
	Status string `json:"status,omitempty"`
}

// OperatorStatus is what went wrong with the allocation.
type OperatorStatus struct {
	// +optional
	Error string `json:"error,omitempty"`
}

// IPReleaseStatus is where an address is in its release.
// +kubebuilder:validation:Enum=marked-for-release;ready-for-release;do-not-release;released
type IPReleaseStatus string

// CiliumNodeList is a list of CiliumNode.
//
// +kubebuilder:object:root=true
type CiliumNodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []CiliumNode `json:"items"`
}
