package v2

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CiliumLoadBalancerIPPool is a supply of addresses for services of type LoadBalancer.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={cilium},singular="ciliumloadbalancerippool",path="ciliumloadbalancerippools",scope="Cluster",shortName={ippools,ippool,lbippool,lbippools}
// +kubebuilder:printcolumn:JSONPath=".spec.disabled",name="Disabled",type=boolean
// +kubebuilder:printcolumn:name="Conflicting",type=string,JSONPath=`.status.conditions[?(@.type=="cilium.io/PoolConflict")].status`
// +kubebuilder:printcolumn:name="IPs Available",type=string,JSONPath=`.status.conditions[?(@.type=="cilium.io/IPsAvailable")].message`
// +kubebuilder:printcolumn:JSONPath=".metadata.creationTimestamp",name="Age",type=date
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
type CiliumLoadBalancerIPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec CiliumLoadBalancerIPPoolSpec `json:"spec"`
	// +optional
	Status ConditionsStatus `json:"status,omitzero"`
}

// ConditionsStatus is a status that consists of conditions.
type ConditionsStatus struct {
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// CiliumLoadBalancerIPPoolSpec says which addresses there are, and for which services.
type CiliumLoadBalancerIPPoolSpec struct {
	// ServiceSelector selects the services that may get addresses; nil is all of them.
	// +optional
	ServiceSelector *metav1.LabelSelector `json:"serviceSelector,omitempty"`
	// AllowFirstLastIPs No keeps the first and the last address of each CIDR out of use; unset is Yes.
	// +optional
	// +kubebuilder:validation:Enum=Yes;No
	AllowFirstLastIPs string `json:"allowFirstLastIPs,omitempty"`
	// +optional
	Blocks []IPPoolBlock `json:"blocks,omitempty"`
	// Disabled keeps what is allocated and allocates nothing new.
	// +optional
	// +kubebuilder:default=false
	Disabled bool `json:"disabled,omitempty"`
}

// IPPoolBlock is a CIDR, or a range from start to stop.
type IPPoolBlock struct {
	// +optional
	// +kubebuilder:validation:Format=cidr
	CIDR string `json:"cidr,omitempty"`
	// +optional
	Start string `json:"start,omitempty"`
	// +optional
	Stop string `json:"stop,omitempty"`
}

// CiliumLoadBalancerIPPoolList is a list of CiliumLoadBalancerIPPool.
//
// +kubebuilder:object:root=true
type CiliumLoadBalancerIPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []CiliumLoadBalancerIPPool `json:"items"`
}

// CiliumCIDRGroup is a named list of address ranges.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={cilium},singular="ciliumcidrgroup",path="ciliumcidrgroups",scope="Cluster",shortName={ccg}
// +kubebuilder:storageversion
type CiliumCIDRGroup struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	Spec CiliumCIDRGroupSpec `json:"spec"`
}

// CiliumCIDRGroupSpec is the list; it may be empty.
type CiliumCIDRGroupSpec struct {
	// +kubebuilder:validation:MinItems=0
	ExternalCIDRs []string `json:"externalCIDRs"`
}

// CiliumCIDRGroupList is a list of CiliumCIDRGroup.
//
// +kubebuilder:object:root=true
type CiliumCIDRGroupList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []CiliumCIDRGroup `json:"items"`
}
