package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Pod is a pod as far as policy is concerned.
type Pod struct {
	Namespace       string            `json:"namespace"`
	Name            string            `json:"name"`
	Labels          map[string]string `json:"labels"`
	NamespaceLabels map[string]string `json:"namespaceLabels"`
	ServiceAccount  string            `json:"serviceAccount"`
	// Node that the pod runs on; only needed to tell the own node from others for pods with HostNetwork.
	Node string `json:"node"`
	// HostNetwork pods have no identity of their own: they are the node, and no selector ever selects them.
	HostNetwork bool `json:"hostNetwork"`
	// Ports are the named container ports; names in lower case.
	Ports NamedPorts `json:"ports"`
	// Addresses of the pod, the primary one first; ipBlocks of Kubernetes NetworkPolicies look at them.
	Addresses []netip.Addr `json:"addresses"`
}

// Identity gives the labels of the pod as governed pod, and as peer that is not on the same node.
func (p Pod) Identity() Labels {
	if p.HostNetwork {
		return NewLabels(Label{Source: SourceReserved, Key: "remote-node"})
	}
	return LabelsForPod(p.Namespace, p.Labels, p.NamespaceLabels, p.ServiceAccount, "")
}

func (p Pod) seenFrom(other Pod) Labels {
	if p.HostNetwork && p.Node != "" && p.Node == other.Node {
		return NewLabels(Label{Source: SourceReserved, Key: "host"})
	}
	return p.Identity()
}

// Party is one end of a connection: a pod (index into the pods at hand), an entity such as world, host or remote-node, or
// an address outside of the cluster. Exactly one is set.
type Party struct {
	Pod     *int   `json:"pod,omitempty"`
	Entity  string `json:"entity,omitempty"`
	Address string `json:"address,omitempty"`
}

// Query asks whether From may open a connection to To.
type Query struct {
	From Party `json:"from"`
	To   Party `json:"to"`
	// Protocol is an IP protocol number; Port the destination port after service translation, of ICMP the type.
	Protocol uint8  `json:"protocol"`
	Port     uint16 `json:"port"`
}

// Connection is the answer to a Query. A connection needs the leave of both sides; a side that is not a governed pod is nil.
type Connection struct {
	Allowed bool      `json:"allowed"`
	Egress  *Decision `json:"egress"`
	Ingress *Decision `json:"ingress"`
}

// Connect evaluates both sides of a query. Replies need no leave of their own: connections are tracked.
func Connect(policies []Policy, pods []Pod, q Query) (Connection, error) {
	from, err := resolveParty(policies, pods, q.From)
	if err != nil {
		return Connection{}, fmt.Errorf("reading from: %w", err)
	}
	to, err := resolveParty(policies, pods, q.To)
	if err != nil {
		return Connection{}, fmt.Errorf("reading to: %w", err)
	}
	out := Connection{Allowed: true}
	if from.governed() {
		d := Decide(policies, question(from, to, Egress, q.Protocol, q.Port))
		out.Egress, out.Allowed = &d, d.Allowed
	}
	if to.governed() {
		d := Decide(policies, question(to, from, Ingress, q.Protocol, q.Port))
		out.Ingress, out.Allowed = &d, out.Allowed && d.Allowed
	}
	return out, nil
}

// end is a Party with what policy sees of it.
type end struct {
	pod    *Pod
	labels Labels
	// addresses are empty where they are not known, or not one but many.
	addresses []netip.Addr
}

func (e end) governed() bool { return e.pod != nil && !e.pod.HostNetwork }

func (e end) ports() NamedPorts {
	if e.pod == nil {
		return nil
	}
	return e.pod.Ports
}

func question(subject, peer end, direction Direction, protocol uint8, port uint16) Question {
	q := Question{Subject: subject.labels, SubjectPorts: subject.ports(), Direction: direction, Peer: peer.labels, PeerKnown: true,
		PeerPorts: peer.ports(), Protocol: protocol, Port: port}
	if peer.pod != nil && subject.pod != nil {
		q.Peer = peer.pod.seenFrom(*subject.pod)
	}
	q.PeerAddress = peer.addressFor(subject)
	return q
}

// addressFor gives the address by which e is met: of the first family that both ends have. Invalid: it is not known.
func (e end) addressFor(other end) netip.Addr {
	for _, own := range e.addresses {
		if len(other.addresses) == 0 || slices.ContainsFunc(other.addresses, func(a netip.Addr) bool { return a.Is4() == own.Is4() }) {
			return own
		}
	}
	return netip.Addr{}
}

func (p *Pod) end() end {
	out := end{pod: p, labels: p.Identity()}
	for _, a := range p.Addresses {
		out.addresses = append(out.addresses, a.Unmap())
	}
	return out
}

func resolveParty(policies []Policy, pods []Pod, p Party) (end, error) {
	switch {
	case p.Pod != nil:
		if *p.Pod < 0 || *p.Pod >= len(pods) {
			return end{}, fmt.Errorf("there is no pod %d, only %d pods", *p.Pod, len(pods))
		}
		return pods[*p.Pod].end(), nil
	case p.Entity != "":
		for _, identity := range ReservedIdentities() {
			if identity.ID.String() == p.Entity {
				return end{labels: identity.Labels}, nil
			}
		}
		return end{}, fmt.Errorf("%q is not an entity that packets come from", p.Entity)
	default:
		address, err := netip.ParseAddr(p.Address)
		if err != nil {
			return end{}, fmt.Errorf("neither pod nor entity nor address: %w", err)
		}
		return end{labels: labelsForAddress(policies, address.Unmap()), addresses: []netip.Addr{address.Unmap()}}, nil
	}
}

// labelsForAddress gives the identity that an agent enforcing these policies would give to an address of the world: that of
// the longest range that any of the policies names.
func labelsForAddress(policies []Policy, address netip.Addr) Labels {
	var ranges []netip.Prefix
	for _, p := range policies {
		ranges = append(ranges, p.Prefixes()...)
	}
	if best, found := longestAround(ranges, address); found {
		return LabelsForCIDR(best)
	}
	return NewLabels(Label{Source: SourceReserved, Key: WorldIdentity(address).String()})
}

// Selected lists the indexes of the pods that a policy governs, ascending.
func Selected(p Policy, pods []Pod) []int {
	out := []int{}
	for i, pod := range pods {
		if !pod.HostNetwork && p.Selects(pod.Identity()) {
			out = append(out, i)
		}
	}
	return out
}

// Group is a set of pods that policy cannot tell apart.
type Group struct {
	// Pods are indexes, ascending.
	Pods   []int  `json:"pods"`
	Labels Labels `json:"labels"`
}

// PairChange is one thing that a policy changes: what may pass between a governed group and a peer, on one port.
type PairChange struct {
	// Subject is the index of the governed group; Direction is as that group sees it.
	Subject   int    `json:"subject"`
	Direction string `json:"direction"`
	// Peer is the index of the other group, or an entity, or a range of addresses.
	Peer   *int   `json:"peer,omitempty"`
	Entity string `json:"entity,omitempty"`
	CIDR   string `json:"cidr,omitempty"`
	// Protocol and Port; Other is true for the port that stands for all that no policy mentions.
	Protocol uint8    `json:"protocol"`
	Port     uint16   `json:"port"`
	Other    bool     `json:"other"`
	Before   Decision `json:"before"`
	After    Decision `json:"after"`
}

// Explanation is what a policy does to a set of pods.
type Explanation struct {
	Groups []Group `json:"groups"`
	// Selected are the pods that the policy governs.
	Selected []int `json:"selected"`
	// Changes has what passes or not otherwise than before, and nothing else.
	Changes []PairChange `json:"changes"`
	// Examined counts the (group, peer, port) that were looked at; Truncated tells that Changes stops at the limit, or that
	// there were more to look at than examineLimit.
	Examined  int  `json:"examined"`
	Truncated bool `json:"truncated"`
}

// examineLimit bounds the time that Explain takes, to about a second where the console runs it.
const examineLimit = 200_000

type groupEnd struct {
	end
	change PairChange
}

// Explain compares what passes with the policies in force (present, which may hold an earlier edition of the candidate) and
// with the candidate in its place. limit bounds the number of changes listed.
func Explain(present []Policy, candidate Policy, pods []Pod, limit int) Explanation {
	after := slices.DeleteFunc(slices.Clone(present), func(p Policy) bool { return p.Ref.Key() == candidate.Ref.Key() })
	editions := []Policy{candidate}
	for _, p := range present {
		if p.Ref.Key() == candidate.Ref.Key() {
			editions = append(editions, p)
		}
	}
	after = append(after, candidate)
	blocks := blocksOf(after, editions)
	out := Explanation{Groups: groupPods(pods, blocks), Selected: Selected(candidate, pods), Changes: []PairChange{}}
	var peers []groupEnd
	for i, g := range out.Groups {
		peers = append(peers, groupEnd{pods[g.Pods[0]].end(), PairChange{Peer: new(i)}})
	}
	for _, id := range []NumericIdentity{IdentityHost, IdentityRemoteNode, IdentityKubeAPIServer, IdentityWorld} {
		for _, identity := range ReservedIdentities() {
			if identity.ID == id {
				peers = append(peers, groupEnd{end{labels: identity.Labels}, PairChange{Entity: id.String()}})
			}
		}
	}
	for _, prefix := range candidate.Prefixes() {
		peers = append(peers, groupEnd{end{labels: LabelsForCIDR(prefix)}, PairChange{CIDR: prefix.String()}})
	}
	for i, g := range out.Groups {
		subject := pods[g.Pods[0]].end()
		if !subject.governed() {
			continue
		}
		if !slices.ContainsFunc(editions, func(p Policy) bool { return p.Selects(g.Labels) }) {
			continue
		}
		before, now := selecting(present, g.Labels), selecting(after, g.Labels)
		packets := samplePackets(append(slices.Clone(before), now...), pods)
		for _, direction := range []Direction{Ingress, Egress} {
			// What neither edition takes part in cannot change.
			if !slices.ContainsFunc(editions, func(p Policy) bool { return p.governs(g.Labels, direction) }) {
				continue
			}
			for _, peer := range peers {
				for _, packet := range packets {
					if out.Examined == examineLimit {
						out.Truncated = true
						return out
					}
					out.Examined++
					q := question(subject, peer.end, direction, packet.protocol, packet.port)
					c := peer.change
					c.Before, c.After = Decide(before, q), Decide(now, q)
					if c.Before.Allowed == c.After.Allowed {
						continue
					}
					if len(out.Changes) == limit {
						out.Truncated = true
						return out
					}
					c.Subject, c.Direction, c.Protocol, c.Port, c.Other = i, direction.String(), packet.protocol, packet.port, packet.other
					out.Changes = append(out.Changes, c)
				}
			}
		}
	}
	return out
}

func selecting(policies []Policy, labels Labels) []Policy {
	return slices.DeleteFunc(slices.Clone(policies), func(p Policy) bool { return !p.Selects(labels) })
}

// blocksOf lists the ranges that ipBlocks of policies name: they tell pods of the same labels apart.
func blocksOf(policies ...[]Policy) []netip.Prefix {
	var out []netip.Prefix
	for _, list := range policies {
		for _, p := range list {
			if p.Valid() {
				out = append(out, p.Blocks()...)
			}
		}
	}
	return sortPrefixes(out)
}

// longestAround gives the longest of the ranges around an address; false where there is none.
func longestAround(ranges []netip.Prefix, address netip.Addr) (best netip.Prefix, found bool) {
	for _, r := range ranges {
		if r.Contains(address) && (!found || r.Bits() > best.Bits()) {
			best, found = r, true
		}
	}
	return best, found
}

func groupPods(pods []Pod, blocks []netip.Prefix) []Group {
	out := []Group{}
	index := map[string]int{}
	for i, pod := range pods {
		labels := pod.Identity()
		key := profileKey(labels, pod.Ports)
		if pod.HostNetwork {
			key += "\x00" + pod.Node
		}
		for _, a := range pod.Addresses {
			if block, ok := longestAround(blocks, a.Unmap()); ok {
				key += "\x00" + block.String()
			}
		}
		at, ok := index[key]
		if !ok {
			at = len(out)
			index[key] = at
			out = append(out, Group{Labels: labels})
		}
		out[at].Pods = append(out[at].Pods, i)
	}
	return out
}

type samplePacket struct {
	protocol uint8
	port     uint16
	other    bool
}

// samplePackets gives one packet for every port that the policies tell apart: each border of each range, each named port,
// DNS, echo request, and for TCP and UDP one port that nobody mentions.
func samplePackets(policies []Policy, pods []Pod) []samplePacket {
	set := map[samplePacket]bool{{protocol: ProtocolUDP, port: 53}: true, {protocol: ProtocolICMP, port: 8}: true}
	for _, p := range policies {
		for _, r := range p.rules {
			for _, e := range r.elements {
				for _, m := range e.ports {
					addSamples(set, m, pods)
				}
			}
		}
	}
	for _, protocol := range []uint8{ProtocolTCP, ProtocolUDP} {
		port := uint16(47808)
		for set[samplePacket{protocol: protocol, port: port}] {
			port++
		}
		set[samplePacket{protocol: protocol, port: port, other: true}] = true
	}
	out := make([]samplePacket, 0, len(set))
	for p := range set {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b samplePacket) int {
		return compareLines(line{protocol: a.protocol, port: a.port}, line{protocol: b.protocol, port: b.port})
	})
	return out
}

func addSamples(set map[samplePacket]bool, m portMatch, pods []Pod) {
	if m.name == "" {
		if m.last-m.first < 65535 {
			set[samplePacket{protocol: m.protocol, port: m.first}] = true
			set[samplePacket{protocol: m.protocol, port: m.last}] = true
		}
		return
	}
	for _, pod := range pods {
		m.each(pod.Ports, func(protocol uint8, port uint16, _ uint8) {
			set[samplePacket{protocol: protocol, port: port}] = true
		})
	}
}
