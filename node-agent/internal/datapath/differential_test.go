package datapath

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/policy"
)

// party is somebody that packets are exchanged with, under an identity of its own.
type party struct {
	// address6 is the second one of a pod.
	address, address6 netip.Addr
	id                policy.NumericIdentity
	labels            policy.Labels
	ports             policy.NamedPorts
	// endpoint is set for the pods of this node.
	endpoint EndpointID
	mac      [6]byte
}

// dice makes random policies out of a small vocabulary, as JSON documents.
type dice struct{ *rand.Rand }

func oneOf[T any](d dice, of ...T) T { return of[d.IntN(len(of))] }

func (d dice) often(percent int) bool { return d.IntN(100) < percent }

type object = map[string]any

func (d dice) podLabels() policy.Labels {
	pod := map[string]string{"app": oneOf(d, "a", "b")}
	if d.often(50) {
		pod["tier"] = oneOf(d, "x", "y")
	}
	if d.often(20) {
		pod["host"] = "" // Must not be taken for the entity.
	}
	namespace := oneOf(d, "red", "blue")
	return policy.LabelsForPod(namespace, pod, map[string]string{"team": namespace}, "default", "")
}

func (d dice) selector() object {
	labels := object{}
	if d.often(60) {
		labels["app"] = oneOf(d, "a", "b")
	}
	if d.often(20) {
		labels["k8s:tier"] = oneOf(d, "x", "y")
	}
	if d.often(20) {
		labels["k8s:io.kubernetes.pod.namespace"] = oneOf(d, "red", "blue")
	}
	return object{"matchLabels": labels}
}

func (d dice) ports() []object {
	var out []object
	for range 1 + d.IntN(2) {
		p := object{"port": oneOf(d, "80", "443", "8080", "0", "web"), "protocol": oneOf(d, "TCP", "UDP", "ANY", "SCTP")}
		if d.often(30) {
			p["port"], p["endPort"] = "79", oneOf(d, 80, 1000, 8080, 65535)
		}
		out = append(out, p)
	}
	return []object{{"ports": out}}
}

func (d dice) element(direction string, deny bool) object {
	e := object{}
	side := map[string]string{"ingress": "from", "egress": "to"}[direction]
	switch d.IntN(6) {
	case 0, 1:
		e[side+"Endpoints"] = []object{d.selector()}
	case 2:
		e[side+"Entities"] = []string{oneOf(d, "all", "world", "cluster", "host", "remote-node", "kube-apiserver", "none")}
	case 3:
		e[side+"CIDRSet"] = []object{oneOf(d, object{"cidr": "::/0", "except": []string{"2001:db8:1::/48"}}, object{"cidr": "2001:db8::/32"},
			object{"cidr": "2001:db8::/32", "except": []string{"2001:db8:1::/48"}}, object{"cidr": "198.51.100.0/24", "except": []string{"198.51.100.128/25"}}, object{"cidr": "0.0.0.0/0"},
			object{"cidrGroupRef": "partners"}, object{"cidr": "198.0.0.0/8", "except": []string{"198.51.100.0/24"}})}
	case 4:
		e[side+"CIDR"] = []string{oneOf(d, "2001:db8:1::/48", "::/0", "198.51.100.129/32", "198.51.100.128/25", "203.0.113.0/24")}
	}
	switch {
	case d.often(60):
		e["toPorts"] = d.ports()
	case d.often(20):
		e["icmps"] = []object{{"fields": []object{oneOf(d, object{"type": 8}, object{"type": 0}, object{"family": "IPv6", "type": "EchoRequest"})}}}
	}
	return e
}

// ipBlocks mean whoever has the address: pods of this node and of others, other nodes, and what is outside.
func (d dice) ipBlock() object {
	return object{"ipBlock": oneOf(d, object{"cidr": "10.77.0.0/16"}, object{"cidr": "10.77.0.0/16", "except": []string{"10.77.2.0/24"}},
		object{"cidr": "10.77.1.12/32"}, object{"cidr": "0.0.0.0/0", "except": []string{"10.0.0.0/8", "198.51.100.128/25"}}, object{"cidr": "192.0.2.0/24"},
		object{"cidr": "fd00::/8"}, object{"cidr": "::/0", "except": []string{"2001:db8:1::/48", "fd00:10:77:2::/64"}}, object{"cidr": "198.51.100.0/24"})}
}

func (d dice) networkPolicy(number int) policy.Policy {
	elements := func(member string) []object {
		out := []object{}
		for range d.IntN(3) {
			peers := []object{d.ipBlock()}
			if d.often(30) {
				peers = append(peers, object{"podSelector": object{"matchLabels": object{"app": oneOf(d, "a", "b")}}})
			}
			e := object{member: peers}
			if d.often(50) {
				e["ports"] = []object{oneOf(d, object{"port": 80}, object{"port": 79, "endPort": 1000}, object{"protocol": "UDP"}, object{"port": "web"}, object{"protocol": "SCTP", "port": 443})}
			}
			out = append(out, e)
		}
		return out
	}
	document, err := json.Marshal(object{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
		"metadata": object{"name": fmt.Sprintf("n%d", number), "namespace": oneOf(d, "red", "blue")}, "spec": object{
			"podSelector": oneOf(d, object{}, object{"matchLabels": object{"app": oneOf(d, "a", "b")}}), "ingress": elements("from"), "egress": elements("to"),
			"policyTypes": oneOf(d, []string{"Ingress"}, []string{"Egress"}, []string{"Ingress", "Egress"})}})
	if err != nil {
		panic(err)
	}
	p, problems := policy.Parse(policy.KindAuto, document)
	if !p.Valid() {
		panic(fmt.Sprint(problems))
	}
	return p
}

func (d dice) policy(number int) policy.Policy {
	if d.often(35) {
		return d.networkPolicy(number)
	}
	for {
		spec := object{"endpointSelector": d.selector()}
		if d.often(25) {
			spec = object{"nodeSelector": oneOf(d, object{}, object{"matchLabels": object{"zone": oneOf(d, "x", "y")}})}
		}
		for range 1 + d.IntN(3) {
			section := oneOf(d, "ingress", "egress", "ingress", "egress", "ingressDeny", "egressDeny")
			direction := map[bool]string{true: "ingress", false: "egress"}[section == "ingress" || section == "ingressDeny"]
			list, _ := spec[section].([]object)
			spec[section] = append(list, d.element(direction, section != direction))
		}
		if d.often(20) {
			spec["enableDefaultDeny"] = object{"ingress": d.often(50), "egress": d.often(50)}
		}
		document, err := json.Marshal(object{"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
			"metadata": object{"name": fmt.Sprintf("p%d", number)}, "spec": spec})
		if err != nil {
			panic(err)
		}
		if p, _ := policy.Parse(policy.KindAuto, document); p.Valid() {
			return p
		}
	}
}

// publish writes everything that the engine says about the pods of this node.
func (r *rig) publish(e *policy.Engine, parties []party) {
	r.t.Helper()
	ctx := context.Background()
	for _, p := range parties {
		if p.endpoint == 0 {
			continue
		}
		var adds []PolicyEntry
		var removes []PolicyKey
		entries, enforced := e.Entries(policy.SubjectID(p.endpoint))
		wanted := map[PolicyKey]bool{}
		for _, l := range entries {
			key := PolicyKey{Endpoint: p.endpoint, Identity: uint32(l.Peer), Direction: Direction(l.Direction), Protocol: l.Protocol, Port: l.Port, PortPrefix: l.PortPrefix}
			wanted[key] = true
			adds = append(adds, PolicyEntry{PolicyKey: key, PolicyValue: PolicyValue{Deny: l.Deny, Rule: uint32(l.Rule)}})
		}
		present, err := r.Policy(p.endpoint)
		r.must(err)
		for _, l := range present {
			if !wanted[l.PolicyKey] {
				removes = append(removes, l.PolicyKey)
			}
		}
		r.must(r.ApplyPolicy(ctx, adds, removes))
		if p.endpoint == HostEndpoint {
			r.must(r.UpsertHost(ctx, Host{PolicyIngress: enforced[policy.Ingress], PolicyEgress: enforced[policy.Egress]}))
			continue
		}
		r.endpoint(p.endpoint, p.address.String(), p.mac, func(x *Endpoint) {
			if p.address6.IsValid() {
				x.Addresses = append(x.Addresses, p.address6)
			}
			x.Identity, x.PolicyIngress, x.PolicyEgress = uint32(p.id), enforced[policy.Ingress], enforced[policy.Egress]
		})
	}
}

// packet from one party to another; the source port makes each a connection of its own.
func packetOf(from, to party, protocol uint8, port, source uint16) []byte {
	f := frame{mac: from.mac, source: from.address.String(), destination: to.address.String(), protocol: protocol, sourcePort: source, destPort: port, flags: syn}
	if protocol == unix.IPPROTO_ICMP || protocol == unix.IPPROTO_ICMPV6 {
		f.icmpType = uint8(port)
	}
	return f.bytes()
}

// policyDrops counts what policy dropped so far.
func (r *rig) policyDrops() uint64 {
	c := r.counters()
	return c[133] + c[181]
}

// denied tells whether policy dropped the packet; dropped is the count so far, and is kept.
func (r *rig) denied(program string, data []byte, dropped *uint64) bool {
	r.t.Helper()
	verdict, _ := r.run(program, data)
	if verdict != verdictShot {
		return false
	}
	after := r.policyDrops()
	if after != *dropped+1 {
		r.t.Fatalf("%s dropped the packet, but not for policy's sake: %v", program, r.counters())
	}
	*dropped = after
	return true
}

// TestProgramsAgreeWithTheEngine makes random policies and label sets, and asks the programs themselves, packet by packet,
// about what the engine says of the rules: out of pods, into pods from the wire, from the node and from each other, and into
// and out of the node itself.
func TestProgramsAgreeWithTheEngine(t *testing.T) {
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	ctx := context.Background()
	denied, allowed := 0, 0
	r := newOwnRig(t, RoutingNative, func(c *Config) { c.KubeProxyReplacement = false }, withHostFirewall)
	r.must(r.objects.maps["devices"].Put(r.ifindex, deviceLayout{Address: toWire(r.config.NodeAddress), Address6: toWire(r.config.NodeAddress6)}))
	source, dropped := uint16(1), uint64(0)
	for seed := range uint64(rounds) {
		d := dice{rand.New(rand.NewPCG(seed, 77))}
		former, err := r.IPs()
		r.must(err)
		for _, entry := range former {
			r.must(r.DeleteIP(ctx, entry.Prefix))
		}
		blocks, err := r.Blocks()
		r.must(err)
		for _, block := range blocks {
			r.must(r.DeleteBlocks(ctx, block.Prefix))
		}
		e := policy.NewEngine()
		e.SetCIDRGroup(policy.CIDRGroup{Name: "partners", Prefixes: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/25"), netip.MustParsePrefix("198.51.100.0/25")}})
		web := policy.NamedPorts{"web": {{Protocol: policy.ProtocolTCP, Port: oneOf[uint16](d, 80, 8080)}}}
		parties := []party{
			{address: netip.MustParseAddr("10.77.1.11"), id: 1001, labels: d.podLabels(), endpoint: 1, mac: macA, ports: web, address6: netip.MustParseAddr("fd00:10:77:1::11")},
			{address: netip.MustParseAddr("10.77.1.12"), id: 1002, labels: d.podLabels(), endpoint: 2, mac: macB, address6: netip.MustParseAddr("fd00:10:77:1::12")},
			{address: netip.MustParseAddr("10.77.2.5"), id: 1003, labels: d.podLabels(), ports: web},
			{address: netip.MustParseAddr("198.51.100.7")}, {address: netip.MustParseAddr("198.51.100.129")}, {address: netip.MustParseAddr("203.0.113.9")},
			{address: netip.MustParseAddr("100.64.0.1")},
			{address: netip.MustParseAddr("2001:db8::7")}, {address: netip.MustParseAddr("2001:db8:1::7")}, {address: netip.MustParseAddr("2001:4860::8888")},
			{address: netip.MustParseAddr("fd00:10:77:2::5"), id: 1004, labels: d.podLabels(), ports: web},
			{address: netip.MustParseAddr("192.0.2.2"), id: policy.IdentityRemoteNode},
			{address: r.config.NodeAddress, address6: r.config.NodeAddress6, id: policy.IdentityHost, endpoint: HostEndpoint, mac: macA,
				labels: policy.NodeLabels(map[string]string{"zone": oneOf(d, "x", "y"), "app": "a"}, nil, "host")},
		}
		policies := []policy.Policy{}
		for i := range 1 + d.IntN(4) {
			policies = append(policies, d.policy(i))
		}
		// Ranges first, as the manager does.
		number := policy.IdentityLocalMin
		ranges := map[netip.Prefix]policy.NumericIdentity{}
		for _, p := range policies {
			for _, prefix := range e.Resolve(p).Prefixes() {
				if _, known := ranges[prefix]; !known {
					ranges[prefix] = number
					e.AddIdentity(number, policy.LabelsForCIDR(prefix))
					r.must(r.UpsertIP(ctx, IPEntry{Prefix: prefix, Identity: uint32(number)}))
					number++
				}
			}
		}
		number = policy.IdentityBlockMin
		blockNumbers := map[netip.Prefix]policy.NumericIdentity{}
		for _, p := range policies {
			for _, prefix := range p.Blocks() {
				if _, known := blockNumbers[prefix]; !known {
					blockNumbers[prefix] = number
					e.AddIdentity(number, policy.LabelsForBlock(prefix))
					r.must(r.UpsertBlocks(ctx, Block{Prefix: prefix, Number: uint32(number)}))
					number++
				}
			}
		}
		for i := range parties {
			p := &parties[i]
			switch {
			case p.id == policy.IdentityHost:
			case p.labels != nil:
				e.AddIdentity(p.id, p.labels)
				e.SetIdentityPorts(p.id, p.ports)
				r.must(r.UpsertIP(ctx, IPEntry{Prefix: netip.PrefixFrom(p.address, p.address.BitLen()), Identity: uint32(p.id)}))
			case p.id == policy.IdentityRemoteNode:
				r.must(r.UpsertIP(ctx, IPEntry{Prefix: netip.PrefixFrom(p.address, 32), Identity: uint32(p.id)}))
			case p.id == 0:
				p.id = policy.WorldIdentity(p.address)
				longest := -1
				for prefix, id := range ranges {
					if prefix.Contains(p.address) && prefix.Bits() > longest {
						p.id, longest = id, prefix.Bits()
					}
				}
			}
			if p.endpoint != 0 {
				e.AddSubject(policy.SubjectID(p.endpoint), p.labels, p.ports)
			}
		}
		for _, p := range policies {
			if _, err := e.Upsert(p); err != nil {
				t.Fatal(err)
			}
		}
		r.publish(e, parties)
		host := parties[len(parties)-1]
		for _, subject := range []party{parties[0], parties[1], host} {
			for _, peer := range parties {
				for _, packet := range []struct {
					protocol uint8
					port     uint16
				}{{unix.IPPROTO_TCP, 80}, {unix.IPPROTO_TCP, 443}, {unix.IPPROTO_TCP, 8080}, {unix.IPPROTO_TCP, 22}, {unix.IPPROTO_UDP, 80},
					{unix.IPPROTO_UDP, 999}, {unix.IPPROTO_SCTP, 443}, {unix.IPPROTO_ICMP, 8}} {
					if peer.address.Is6() && packet.protocol == unix.IPPROTO_ICMP {
						packet.protocol, packet.port = unix.IPPROTO_ICMPV6, 128
					}
					if peer.endpoint == subject.endpoint {
						continue // Nobody judges what a pod sends to itself.
					}
					for _, direction := range []policy.Direction{policy.Egress, policy.Ingress} {
						source++
						ask := func(subject, peer party, direction policy.Direction) policy.Decision {
							return e.Verdict(policy.SubjectID(subject.endpoint), direction, peer.id, peer.address, packet.protocol, packet.port)
						}
						self := subject
						if peer.address.Is6() {
							self.address = subject.address6
						}
						want := ask(self, peer, direction)
						from, to, program := self, peer, "from_pod"
						if direction == policy.Ingress {
							from, to, program = peer, self, "from_netdev"
						}
						if peer.endpoint != 0 {
							// Between pods of the node, and between a pod and the node, one program asks both sides.
							program = "from_pod"
							other := ask(peer, self, 1-direction)
							want.Allowed = want.Allowed && other.Allowed
						}
						if from.endpoint == HostEndpoint {
							program = map[bool]string{true: "to_pod", false: "to_netdev"}[to.endpoint != 0]
						}
						got := !r.denied(program, packetOf(from, to, packet.protocol, packet.port, source), &dropped)
						if got != want.Allowed {
							for _, p := range policies {
								t.Log(p.Ref, p.Meaning())
							}
							t.Fatalf("seed %d: %s of %s (%s), peer %s (identity %d), %s/%d: %s says allowed=%v, the rules say %+v", seed, direction, subject.address,
								subject.labels, peer.address, peer.id, policy.ProtocolName(packet.protocol), packet.port, program, got, want)
						}
						if got {
							allowed++
						} else {
							denied++
						}
					}
				}
			}
		}
	}
	t.Logf("the programs allowed %d packets and denied %d, as the rules say", allowed, denied)
	if allowed < denied/10 || denied < allowed/10 {
		t.Errorf("one-sided: %d allowed, %d denied", allowed, denied)
	}
}
