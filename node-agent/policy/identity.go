package policy

import (
	"net/netip"
	"strconv"
)

// NumericIdentity stands for a set of labels in the datapath. 0 is "anybody" in a Key and "unknown" elsewhere.
type NumericIdentity uint32

// Reserved identities, numbered as Cilium numbers them.
const (
	IdentityUnknown       NumericIdentity = 0
	IdentityHost          NumericIdentity = 1
	IdentityWorld         NumericIdentity = 2
	IdentityUnmanaged     NumericIdentity = 3
	IdentityHealth        NumericIdentity = 4
	IdentityInit          NumericIdentity = 5
	IdentityRemoteNode    NumericIdentity = 6
	IdentityKubeAPIServer NumericIdentity = 7
	IdentityIngress       NumericIdentity = 8
	IdentityWorldIPv4     NumericIdentity = 9
	IdentityWorldIPv6     NumericIdentity = 10

	// IdentityUserMin and IdentityUserMax bound what is allocated in the cluster as CiliumIdentity.
	IdentityUserMin NumericIdentity = 256
	IdentityUserMax NumericIdentity = 65535
	// IdentityLocalMin is the first identity of the node-local scope, in which CIDR identities are allocated. They never
	// travel: the tunnel carries IdentityWorld in their place.
	IdentityLocalMin NumericIdentity = 1 << 24
	// IdentityLocalMax is the last one of that scope.
	IdentityLocalMax NumericIdentity = 2<<24 - 1
	// IdentityNodeMin is the first identity of other nodes, where each has one of its own; node-local too, and never on the
	// wire: the tunnel carries IdentityHost in the sender's place.
	IdentityNodeMin NumericIdentity = 2 << 24
	// IdentityNodeMax is the last one of that scope.
	IdentityNodeMax NumericIdentity = 3<<24 - 1
	// IdentityBlockMin is the first number of the ranges that an ipBlock names. They stand in lines only, and no packet has
	// one: the kernel finds them by the peer's address.
	IdentityBlockMin NumericIdentity = 3 << 24
	// IdentityBlockMax is the last one of that scope.
	IdentityBlockMax NumericIdentity = 4<<24 - 1
)

// AnyPeer in Key.Peer matches every identity.
const AnyPeer NumericIdentity = 0

var reservedNames = map[NumericIdentity]string{
	IdentityUnknown:       "unknown",
	IdentityHost:          "host",
	IdentityWorld:         "world",
	IdentityUnmanaged:     "unmanaged",
	IdentityHealth:        "health",
	IdentityInit:          "init",
	IdentityRemoteNode:    "remote-node",
	IdentityKubeAPIServer: "kube-apiserver",
	IdentityIngress:       "ingress",
	IdentityWorldIPv4:     "world-ipv4",
	IdentityWorldIPv6:     "world-ipv6",
}

// String gives the name of a reserved identity, and the number of any other.
func (id NumericIdentity) String() string {
	if name, ok := reservedNames[id]; ok {
		return name
	}
	return strconv.FormatUint(uint64(id), 10)
}

// IsReserved tells whether id is one of the well-known entities.
func (id NumericIdentity) IsReserved() bool { return id < IdentityUserMin }

// IsLocal tells whether id means something on this node only (CIDR identities).
func (id NumericIdentity) IsLocal() bool { return id >= IdentityLocalMin && id <= IdentityLocalMax }

// IsBlock tells whether id is the number of a range that an ipBlock names.
func (id NumericIdentity) IsBlock() bool { return id >= IdentityBlockMin && id <= IdentityBlockMax }

// WorldIdentity is that of an address outside of the cluster that no policy names: IPv6 has one of its own, so that 0.0.0.0/0
// and ::/0 mean two things.
func WorldIdentity(a netip.Addr) NumericIdentity {
	if a.Unmap().Is6() {
		return IdentityWorldIPv6
	}
	return IdentityWorld
}

// IsNode tells whether id stands for another node of the cluster.
func (id NumericIdentity) IsNode() bool {
	return id == IdentityRemoteNode || id == IdentityKubeAPIServer || (id >= IdentityNodeMin && id <= IdentityNodeMax)
}

// ReservedIdentities lists the well-known identities with their labels, in ascending order, without unknown. NewEngine
// knows them from the start; AddIdentity replaces the labels of one (a node that is also the API server's gives identity
// host the additional label reserved:kube-apiserver).
func ReservedIdentities() []Identity {
	ids := []NumericIdentity{IdentityHost, IdentityWorld, IdentityUnmanaged, IdentityHealth, IdentityInit,
		IdentityRemoteNode, IdentityKubeAPIServer, IdentityIngress, IdentityWorldIPv4, IdentityWorldIPv6}
	out := make([]Identity, 0, len(ids))
	for _, id := range ids {
		labels := []Label{{Source: SourceReserved, Key: reservedNames[id]}}
		if id == IdentityKubeAPIServer {
			labels = append(labels, Label{Source: SourceReserved, Key: "remote-node"})
		}
		out = append(out, Identity{ID: id, Labels: NewLabels(labels...)})
	}
	return out
}

// Identity is a numeric identity with the labels that it stands for.
type Identity struct {
	ID     NumericIdentity `json:"id"`
	Labels Labels          `json:"labels"`
}

// LabelsForCIDR gives the labels of the node-local identity of an address range: `cidr:10.0.0.0/8` and `reserved:world`.
// The prefix is masked first.
func LabelsForCIDR(prefix netip.Prefix) Labels {
	return NewLabels(
		Label{Source: SourceCIDR, Key: prefix.Masked().String()},
		Label{Source: SourceReserved, Key: "world"},
	)
}

// LabelsForBlock gives the label of a range as an ipBlock of a Kubernetes NetworkPolicy means it: all addresses, those of
// pods and nodes too. Nothing else selects it. The prefix is masked first.
func LabelsForBlock(prefix netip.Prefix) Labels {
	return NewLabels(Label{Source: SourceBlock, Key: prefix.Masked().String()})
}

// LabelForName gives the label of addresses that a name of a toFQDNs rule was resolved to; text is NameRule.Text.
func LabelForName(text string) Label { return Label{Source: SourceFQDN, Key: text} }
