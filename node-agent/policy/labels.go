package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unique"
)

// Sources of labels.
const (
	SourceK8s      = "k8s"
	SourceReserved = "reserved"
	SourceCIDR     = "cidr"
	// SourceFQDN labels addresses that a DNS name was resolved to; the key is the policy's name or pattern.
	SourceFQDN = "fqdn"
	// SourceBlock labels the number of a range that an ipBlock names; see LabelsForBlock.
	SourceBlock = "block"
	// SourceNode is of the labels of nodes, on the identities of nodes.
	SourceNode = "node"
	// SourceAny in a selector matches labels of every source but reserved, cidr, fqdn and block; no label carries it. (That a pod's
	// label `host` is never confused with the entity reserved:host depends on this exception.)
	SourceAny = "any"
)

// Keys of labels that say where a pod lives. They carry the source k8s.
const (
	LabelNamespace            = "io.kubernetes.pod.namespace"
	LabelNamespaceLabelPrefix = "io.cilium.k8s.namespace.labels."
	LabelCluster              = "io.cilium.k8s.policy.cluster"
	LabelServiceAccount       = "io.cilium.k8s.policy.serviceaccount"
)

// Label is one security-relevant label.
type Label struct {
	Source, Key, Value string
}

// String gives source:key=value, and source:key where the value is empty.
func (l Label) String() string {
	if l.Value == "" {
		return l.Source + ":" + l.Key
	}
	return l.Source + ":" + l.Key + "=" + l.Value
}

// ParseLabel reads source:key=value. Without a source it is k8s; without = the value is empty. The key of a cidr label may
// contain colons.
func ParseLabel(s string) (Label, error) {
	l := Label{Source: SourceK8s}
	name, value, _ := strings.Cut(s, "=")
	l.Value = value
	if source, key, ok := strings.Cut(name, ":"); ok {
		l.Source, l.Key = source, key
	} else {
		l.Key = name
	}
	if l.Key == "" || l.Source == "" {
		return Label{}, fmt.Errorf("parsing label %q: it has no key; the form is source:key=value", s)
	}
	return l, nil
}

func compareLabels(a, b Label) int {
	return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Value, b.Value))
}

// Labels is a sorted list without duplicates; two Labels of equal content are equal by slices.Equal and by String. Do not
// modify one after it was handed to an Engine.
type Labels []Label

// NewLabels sorts and removes duplicates. It does not keep its argument.
func NewLabels(labels ...Label) Labels {
	out := slices.Clone(labels)
	slices.SortFunc(out, compareLabels)
	return slices.Compact(out)
}

// NodeLabels gives the labels of a node's identity: entity is host for the own node and remote-node for others (kube-apiserver
// beside it where the API server runs there), addresses are given where CIDR rules are to match nodes.
func NodeLabels(labels map[string]string, addresses []netip.Addr, entities ...string) Labels {
	out := make([]Label, 0, len(labels)+len(addresses)+len(entities))
	for _, entity := range entities {
		out = append(out, Label{Source: SourceReserved, Key: entity})
	}
	for key, value := range labels {
		out = append(out, Label{Source: SourceNode, Key: key, Value: value})
	}
	for _, a := range addresses {
		a = a.Unmap()
		out = append(out, Label{Source: SourceCIDR, Key: netip.PrefixFrom(a, a.BitLen()).String()})
	}
	return NewLabels(out...)
}

// ParseLabels reads a list of source:key=value.
func ParseLabels(texts []string) (Labels, error) {
	out := make([]Label, 0, len(texts))
	for _, t := range texts {
		l, err := ParseLabel(t)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return NewLabels(out...), nil
}

// Strings gives every label as source:key=value, sorted: the form of CiliumEndpoint and of flow events.
func (ls Labels) Strings() []string {
	out := make([]string, len(ls))
	for i, l := range ls {
		out[i] = l.String()
	}
	return out
}

// String joins Strings with commas. Equal strings mean equal labels, so it serves as a key.
func (ls Labels) String() string { return strings.Join(ls.Strings(), ",") }

// Map gives source:key → value: the form of CiliumIdentity.security-labels.
func (ls Labels) Map() map[string]string {
	out := make(map[string]string, len(ls))
	for _, l := range ls {
		out[l.Source+":"+l.Key] = l.Value
	}
	return out
}

// LabelsFromMap reads the form of CiliumIdentity.security-labels.
func LabelsFromMap(m map[string]string) Labels {
	out := make([]Label, 0, len(m))
	for key, value := range m {
		source, name, ok := strings.Cut(key, ":")
		if !ok {
			source, name = SourceK8s, key
		}
		// A cluster has thousands of identities, and their labels few keys: each is kept once.
		out = append(out, Label{Source: unique.Make(source).Value(), Key: unique.Make(name).Value(), Value: value})
	}
	return NewLabels(out...)
}

// MarshalJSON writes the list of source:key=value.
func (l Label) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads source:key=value.
func (l *Label) UnmarshalText(text []byte) error {
	parsed, err := ParseLabel(string(text))
	if err != nil {
		return err
	}
	*l = parsed
	return nil
}

// Get gives the value of the k8s label of that key.
func (ls Labels) Get(key string) (string, bool) {
	for _, l := range ls {
		if l.Key == key && l.Source == SourceK8s {
			return l.Value, true
		}
	}
	return "", false
}

// HasReserved tells whether the reserved label of that name is among them.
func (ls Labels) HasReserved(name string) bool {
	for _, l := range ls {
		if l.Source == SourceReserved && l.Key == name {
			return true
		}
	}
	return false
}

// isBlock tells whether these are the labels of LabelsForBlock.
func (ls Labels) isBlock() bool { return len(ls) == 1 && ls[0].Source == SourceBlock }

// Labels that change per pod instance, or that the system writes, would give every pod its own identity. The list is the
// default label filter of Cilium; patterns are anchored at the start of the key. An inclusion only outweighs exclusions
// whose match is shorter.
var (
	includedLabels = compilePatterns(`app\.kubernetes\.io`)
	excludedLabels = compilePatterns(
		`io\.kubernetes`, `kubernetes\.io`, `statefulset\.kubernetes\.io/pod-name`, `apps\.kubernetes\.io/pod-index`,
		`batch\.kubernetes\.io/job-completion-index`, `batch\.kubernetes\.io/controller-uid`, `.*beta\.kubernetes\.io`,
		`k8s\.io`, `pod-template-generation`, `pod-template-hash`, `controller-revision-hash`, `controller-uid`,
		`annotation.*`, `etcd_node`, `topology\.kubernetes\.io`)
)

func compilePatterns(patterns ...string) []*regexp.Regexp {
	out := make([]*regexp.Regexp, len(patterns))
	for i, p := range patterns {
		out[i] = regexp.MustCompile("^" + p)
	}
	return out
}

func longestMatch(patterns []*regexp.Regexp, key string) int {
	longest := 0
	for _, p := range patterns {
		if loc := p.FindStringIndex(key); loc != nil && loc[1] > longest {
			longest = loc[1]
		}
	}
	return longest
}

// RelevantPodLabel tells whether a pod label takes part in the pod's identity.
func RelevantPodLabel(key string) bool {
	ignored := longestMatch(excludedLabels, key)
	return ignored == 0 || longestMatch(includedLabels, key) > ignored
}

// LabelsForPod gives the identity-relevant labels of a pod. cluster is the cluster's name, "default" where it has none;
// namespaceLabels are those of the namespace object; an empty serviceAccount adds none.
func LabelsForPod(namespace string, podLabels, namespaceLabels map[string]string, serviceAccount, cluster string) Labels {
	if cluster == "" {
		cluster = "default"
	}
	out := make([]Label, 0, len(podLabels)+len(namespaceLabels)+3)
	out = append(out,
		Label{Source: SourceK8s, Key: LabelNamespace, Value: namespace},
		Label{Source: SourceK8s, Key: LabelCluster, Value: cluster})
	if serviceAccount != "" {
		out = append(out, Label{Source: SourceK8s, Key: LabelServiceAccount, Value: serviceAccount})
	}
	for key, value := range namespaceLabels {
		out = append(out, Label{Source: SourceK8s, Key: LabelNamespaceLabelPrefix + key, Value: value})
	}
	for key, value := range podLabels {
		// A pod must not be able to claim another namespace or service account by labelling itself so.
		if strings.HasPrefix(key, "io.cilium.") || !RelevantPodLabel(key) {
			continue
		}
		out = append(out, Label{Source: SourceK8s, Key: key, Value: value})
	}
	return NewLabels(out...)
}
