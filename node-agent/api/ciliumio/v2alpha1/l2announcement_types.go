package v2alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of the resources of this package.
var GroupVersion = schema.GroupVersion{Group: "cilium.io", Version: "v2alpha1"}

var schemeBuilder = runtime.NewSchemeBuilder(func(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &CiliumL2AnnouncementPolicy{}, &CiliumL2AnnouncementPolicyList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
})

// AddToScheme makes a scheme know the types of this package.
var AddToScheme = schemeBuilder.AddToScheme

// L2AnnouncementPolicies is the resource's name for dynamic clients and informers.
var L2AnnouncementPolicies = GroupVersion.WithResource("ciliuml2announcementpolicies")

// CiliumL2AnnouncementPolicy says which nodes answer ARP for which services' addresses.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={cilium},singular="ciliuml2announcementpolicy",path="ciliuml2announcementpolicies",scope="Cluster",shortName={l2announcement}
// +kubebuilder:printcolumn:JSONPath=".metadata.creationTimestamp",name="Age",type=date
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
type CiliumL2AnnouncementPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	// +optional
	Spec CiliumL2AnnouncementPolicySpec `json:"spec,omitzero"`
	// +optional
	Status CiliumL2AnnouncementPolicyStatus `json:"status,omitzero"`
}

// CiliumL2AnnouncementPolicySpec selects nodes, services and interfaces.
type CiliumL2AnnouncementPolicySpec struct {
	// NodeSelector selects the nodes that may announce; nil is all of them.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	// ServiceSelector selects the services that are announced; nil is all of them.
	// +optional
	ServiceSelector *metav1.LabelSelector `json:"serviceSelector,omitempty"`
	// LoadBalancerIPs announces the services' load-balancer addresses.
	// +optional
	LoadBalancerIPs bool `json:"loadBalancerIPs,omitempty"`
	// ExternalIPs announces the services' external addresses.
	// +optional
	ExternalIPs bool `json:"externalIPs,omitempty"`
	// Interfaces are regular expressions on interface names; none is every device of the agent.
	// +optional
	Interfaces []string `json:"interfaces,omitempty"`
}

// CiliumL2AnnouncementPolicyStatus has the conditions, such as io.cilium/bad-service-selector.
type CiliumL2AnnouncementPolicyStatus struct {
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// CiliumL2AnnouncementPolicyList is a list of CiliumL2AnnouncementPolicy.
//
// +kubebuilder:object:root=true
type CiliumL2AnnouncementPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []CiliumL2AnnouncementPolicy `json:"items"`
}
