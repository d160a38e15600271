package spec

// Rule is the `spec` of a CiliumNetworkPolicy or one element of its `specs`.
type Rule struct {
	// EndpointSelector selects the pods that the rule governs. Exactly one of endpointSelector and nodeSelector is set.
	// +optional
	EndpointSelector *LabelSelector `json:"endpointSelector,omitempty"`
	// NodeSelector selects nodes (CiliumClusterwideNetworkPolicy only).
	// +optional
	NodeSelector *LabelSelector `json:"nodeSelector,omitempty"`
	// Ingress lists what the selected pods may receive.
	// +optional
	Ingress []IngressRule `json:"ingress,omitzero"`
	// IngressDeny lists what the selected pods must not receive; it wins over every allow.
	// +optional
	IngressDeny []IngressDenyRule `json:"ingressDeny,omitzero"`
	// Egress lists what the selected pods may send.
	// +optional
	Egress []EgressRule `json:"egress,omitzero"`
	// EgressDeny lists what the selected pods must not send; it wins over every allow.
	// +optional
	EgressDeny []EgressDenyRule `json:"egressDeny,omitzero"`
	// EnableDefaultDeny says per direction whether whatever no rule allows is denied. Unset: yes where the rule has a
	// section of that direction.
	// +optional
	EnableDefaultDeny *DefaultDeny `json:"enableDefaultDeny,omitempty"`
	// Labels identify the rule; they do not select anything.
	// +optional
	Labels []RuleLabel `json:"labels,omitzero"`
	// Description is free text.
	// +optional
	Description string `json:"description,omitempty"`
	// Log adds a text to the flow events that the rule decides.
	// +optional
	Log *Log `json:"log,omitempty"`
}

// DefaultDeny switches default deny on or off per direction.
type DefaultDeny struct {
	// +optional
	Ingress *bool `json:"ingress,omitempty"`
	// +optional
	Egress *bool `json:"egress,omitempty"`
}

// RuleLabel is a label of the rule itself.
type RuleLabel struct {
	Key string `json:"key"`
	// +optional
	Value string `json:"value,omitempty"`
	// +optional
	Source string `json:"source,omitempty"`
}

// Log is the text that accompanies flow events of a rule.
type Log struct {
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Value string `json:"value,omitempty"`
}

// LabelSelector selects by labels. Keys may carry a source prefix: `k8s:`, `any:`, `reserved:`. All requirements hold at
// once; a selector without any selects everything in its scope.
type LabelSelector struct {
	// +optional
	MatchLabels map[string]string `json:"matchLabels,omitzero"`
	// +optional
	MatchExpressions []LabelSelectorRequirement `json:"matchExpressions,omitzero"`
}

// LabelSelectorRequirement is one requirement on a label.
type LabelSelectorRequirement struct {
	Key string `json:"key"`
	// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
	Operator string `json:"operator"`
	// +optional
	Values []string `json:"values,omitzero"`
}

// IngressRule is one element of `ingress`. Its L3 member (at most one) and its ports hold at once; several elements are
// alternatives.
type IngressRule struct {
	// FromEndpoints are pods by labels. `[{}]` is every pod of the namespace, `[]` is nobody.
	// +optional
	FromEndpoints []LabelSelector `json:"fromEndpoints,omitzero"`
	// FromRequires was removed from the API and must be absent.
	// +optional
	// +kubebuilder:validation:MaxItems=0
	FromRequires []LabelSelector `json:"fromRequires,omitzero"`
	// FromCIDR are addresses outside the cluster.
	// +optional
	FromCIDR []string `json:"fromCIDR,omitzero"`
	// FromCIDRSet are addresses outside the cluster with exceptions, or groups of them.
	// +optional
	FromCIDRSet []CIDRRule `json:"fromCIDRSet,omitzero"`
	// +optional
	FromEntities []Entity `json:"fromEntities,omitzero"`
	// +optional
	FromGroups []Group `json:"fromGroups,omitzero"`
	// +optional
	FromNodes []LabelSelector `json:"fromNodes,omitzero"`
	// +optional
	ToPorts []PortRule `json:"toPorts,omitzero"`
	// +optional
	ICMPs []ICMPRule `json:"icmps,omitzero"`
	// +optional
	Authentication *Authentication `json:"authentication,omitempty"`
}

// IngressDenyRule is one element of `ingressDeny`.
type IngressDenyRule struct {
	// +optional
	FromEndpoints []LabelSelector `json:"fromEndpoints,omitzero"`
	// FromRequires was removed from the API and must be absent.
	// +optional
	// +kubebuilder:validation:MaxItems=0
	FromRequires []LabelSelector `json:"fromRequires,omitzero"`
	// +optional
	FromCIDR []string `json:"fromCIDR,omitzero"`
	// +optional
	FromCIDRSet []CIDRRule `json:"fromCIDRSet,omitzero"`
	// +optional
	FromEntities []Entity `json:"fromEntities,omitzero"`
	// +optional
	FromGroups []Group `json:"fromGroups,omitzero"`
	// +optional
	FromNodes []LabelSelector `json:"fromNodes,omitzero"`
	// +optional
	ToPorts []PortDenyRule `json:"toPorts,omitzero"`
	// +optional
	ICMPs []ICMPRule `json:"icmps,omitzero"`
}

// EgressRule is one element of `egress`.
type EgressRule struct {
	// ToEndpoints are pods by labels. `[{}]` is every pod of the namespace, `[]` is nobody.
	// +optional
	ToEndpoints []LabelSelector `json:"toEndpoints,omitzero"`
	// ToRequires was removed from the API and must be absent.
	// +optional
	// +kubebuilder:validation:MaxItems=0
	ToRequires []LabelSelector `json:"toRequires,omitzero"`
	// +optional
	ToCIDR []string `json:"toCIDR,omitzero"`
	// +optional
	ToCIDRSet []CIDRRule `json:"toCIDRSet,omitzero"`
	// +optional
	ToEntities []Entity `json:"toEntities,omitzero"`
	// +optional
	ToServices []ServiceSelector `json:"toServices,omitzero"`
	// +optional
	ToGroups []Group `json:"toGroups,omitzero"`
	// +optional
	ToNodes []LabelSelector `json:"toNodes,omitzero"`
	// +optional
	ToFQDNs []FQDNSelector `json:"toFQDNs,omitzero"`
	// +optional
	ToPorts []PortRule `json:"toPorts,omitzero"`
	// +optional
	ICMPs []ICMPRule `json:"icmps,omitzero"`
	// +optional
	Authentication *Authentication `json:"authentication,omitempty"`
}

// EgressDenyRule is one element of `egressDeny`.
type EgressDenyRule struct {
	// +optional
	ToEndpoints []LabelSelector `json:"toEndpoints,omitzero"`
	// ToRequires was removed from the API and must be absent.
	// +optional
	// +kubebuilder:validation:MaxItems=0
	ToRequires []LabelSelector `json:"toRequires,omitzero"`
	// +optional
	ToCIDR []string `json:"toCIDR,omitzero"`
	// +optional
	ToCIDRSet []CIDRRule `json:"toCIDRSet,omitzero"`
	// +optional
	ToEntities []Entity `json:"toEntities,omitzero"`
	// +optional
	ToServices []ServiceSelector `json:"toServices,omitzero"`
	// +optional
	ToGroups []Group `json:"toGroups,omitzero"`
	// +optional
	ToNodes []LabelSelector `json:"toNodes,omitzero"`
	// +optional
	ToPorts []PortDenyRule `json:"toPorts,omitzero"`
	// +optional
	ICMPs []ICMPRule `json:"icmps,omitzero"`
}
