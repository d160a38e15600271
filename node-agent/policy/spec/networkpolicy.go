package spec

// NetworkPolicy is the `spec` of a networking.k8s.io/v1 NetworkPolicy.
type NetworkPolicy struct {
	// PodSelector selects the governed pods of the policy's namespace; empty is all of them.
	PodSelector LabelSelector          `json:"podSelector,omitzero"`
	Ingress     []NetworkPolicyIngress `json:"ingress,omitzero"`
	Egress      []NetworkPolicyEgress  `json:"egress,omitzero"`
	// PolicyTypes are Ingress and Egress. Unset: Ingress, and Egress where the policy has an egress section.
	PolicyTypes []string `json:"policyTypes,omitzero"`
}

// NetworkPolicyIngress is one element of `ingress`. Unlike in a CiliumNetworkPolicy an empty element allows everything.
type NetworkPolicyIngress struct {
	Ports []NetworkPolicyPort `json:"ports,omitzero"`
	From  []NetworkPolicyPeer `json:"from,omitzero"`
}

// NetworkPolicyEgress is one element of `egress`.
type NetworkPolicyEgress struct {
	Ports []NetworkPolicyPort `json:"ports,omitzero"`
	To    []NetworkPolicyPeer `json:"to,omitzero"`
}

// NetworkPolicyPort is a port, a named port or a range of ports; protocol TCP unless said otherwise.
type NetworkPolicyPort struct {
	Protocol *string      `json:"protocol,omitempty"`
	Port     *IntOrString `json:"port,omitempty"`
	EndPort  *int32       `json:"endPort,omitempty"`
}

// NetworkPolicyPeer is pods (by their labels, their namespace's labels, or both) or a range of addresses.
type NetworkPolicyPeer struct {
	PodSelector       *LabelSelector `json:"podSelector,omitempty"`
	NamespaceSelector *LabelSelector `json:"namespaceSelector,omitempty"`
	IPBlock           *IPBlock       `json:"ipBlock,omitempty"`
}

// IPBlock is a range of addresses with exceptions.
type IPBlock struct {
	CIDR   string   `json:"cidr"`
	Except []string `json:"except,omitzero"`
}
