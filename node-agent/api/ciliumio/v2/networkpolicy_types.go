package v2

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fairlead.dev/node-agent/policy/spec"
)

// CiliumNetworkPolicy governs pods of its namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={cilium,ciliumpolicy},singular="ciliumnetworkpolicy",path="ciliumnetworkpolicies",scope="Namespaced",shortName={cnp,ciliumnp}
// +kubebuilder:printcolumn:JSONPath=".metadata.creationTimestamp",name="Age",type=date
// +kubebuilder:printcolumn:JSONPath=".status.conditions[?(@.type=='Valid')].status",name="Valid",type=string
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:validation:XValidation:rule="has(self.spec) || has(self.specs)",message="spec or specs must be provided"
type CiliumNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	// Spec is the rule; a policy has spec, or specs, or both.
	// +optional
	Spec *spec.Rule `json:"spec,omitempty"`
	// Specs are further rules.
	// +optional
	Specs []*spec.Rule `json:"specs,omitzero"`
	// +optional
	Status CiliumNetworkPolicyStatus `json:"status,omitzero"`
}

// CiliumNetworkPolicyStatus says whether the policy is enforced.
type CiliumNetworkPolicyStatus struct {
	// DerivativePolicies are policies derived from this one (groups of cloud machines).
	// +optional
	DerivativePolicies map[string]CiliumNetworkPolicyNodeStatus `json:"derivativePolicies,omitempty"`
	// Conditions has one of type Valid; False carries why the policy is not enforced.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []NetworkPolicyCondition `json:"conditions,omitempty"`
}

// ConditionValid is the type of the condition that says whether a policy is enforced.
const ConditionValid = "Valid"

// NetworkPolicyCondition is one condition of a policy.
type NetworkPolicyCondition struct {
	Type string `json:"type"`
	// Status is True, False or Unknown.
	Status string `json:"status"`
	// +optional
	LastTransitionTime metav1.Time `json:"lastTransitionTime,omitzero"`
	// +optional
	Reason string `json:"reason,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
}

// CiliumNetworkPolicyNodeStatus is the state of a policy on one node.
type CiliumNetworkPolicyNodeStatus struct {
	// +optional
	OK bool `json:"ok,omitempty"`
	// +optional
	Error string `json:"error,omitempty"`
	// +optional
	LastUpdated metav1.Time `json:"lastUpdated,omitzero"`
	// +optional
	Revision uint64 `json:"localPolicyRevision,omitempty"`
	// +optional
	Enforcing bool `json:"enforcing,omitempty"`
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}

// CiliumNetworkPolicyList is a list of CiliumNetworkPolicy.
//
// +kubebuilder:object:root=true
type CiliumNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []CiliumNetworkPolicy `json:"items"`
}

// CiliumClusterwideNetworkPolicy governs pods of all namespaces.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={cilium,ciliumpolicy},singular="ciliumclusterwidenetworkpolicy",path="ciliumclusterwidenetworkpolicies",scope="Cluster",shortName={ccnp}
// +kubebuilder:printcolumn:JSONPath=".metadata.creationTimestamp",name="Age",type=date
// +kubebuilder:printcolumn:JSONPath=".status.conditions[?(@.type=='Valid')].status",name="Valid",type=string
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:validation:XValidation:rule="has(self.spec) || has(self.specs)",message="spec or specs must be provided"
type CiliumClusterwideNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	// +optional
	Spec *spec.Rule `json:"spec,omitempty"`
	// +optional
	Specs []*spec.Rule `json:"specs,omitzero"`
	// +optional
	Status CiliumNetworkPolicyStatus `json:"status,omitzero"`
}

// CiliumClusterwideNetworkPolicyList is a list of CiliumClusterwideNetworkPolicy.
//
// +kubebuilder:object:root=true
type CiliumClusterwideNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []CiliumClusterwideNetworkPolicy `json:"items"`
}
