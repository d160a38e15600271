package datapath_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/spacetest"
	"fairlead.dev/node-agent/policy"
)

// party sends and receives in a comparison of traffic with the engine.
type party struct {
	name  string
	space *space
	// on is where it is judged: the node of a pod, or itself. The world is judged nowhere.
	on *governed
	// endpoint is a pod's or HostEndpoint.
	endpoint  datapath.EndpointID
	pod       *pod
	addresses []netip.Addr
	// id of a pod; what others are depends on who looks.
	id     policy.NumericIdentity
	labels policy.Labels
	ports  policy.NamedPorts
}

func (p *party) at(v6 bool) (a netip.Addr, ok bool) {
	for _, a := range p.addresses {
		if a.Is6() == v6 {
			return a, true
		}
	}
	return a, false
}

// governed is a node with an engine of its own, since each has another host.
type governed struct {
	*node
	engine *policy.Engine
}

// identityOf is what this node takes somebody for.
func (g *governed) identityOf(p *party, a netip.Addr, ranges map[netip.Prefix]policy.NumericIdentity) policy.NumericIdentity {
	switch {
	case p.id != 0:
		return p.id
	case p.on == g:
		return policy.IdentityHost
	case p.on != nil:
		return policy.IdentityRemoteNode
	}
	id, longest := policy.WorldIdentity(a), -1
	for prefix, of := range ranges {
		if prefix.Contains(a) && prefix.Bits() > longest {
			id, longest = of, prefix.Bits()
		}
	}
	return id
}

// plugWorld gives the first node a second device, behind which all these addresses are.
func plugWorld(t *testing.T, c *cluster, addresses []netip.Addr, masquerade6 bool) *space {
	t.Helper()
	outside, n := newSpace(t), c.nodes[0]
	must(t, n.space.in(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(outside.File.Fd())})
	}))
	plug := func(s *space, device string, end int, others []netip.Prefix, own []netip.Addr) {
		must(t, s.in(func() error {
			l, err := netlink.LinkByName(device)
			if err != nil {
				return err
			}
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			// Nobody else has the link-local addresses.
			err = errors.Join(os.WriteFile("/proc/sys/net/ipv6/conf/"+device+"/accept_dad", []byte("0"), 0o644), netlink.LinkSetUp(l))
			for _, network := range []string{"198.18.5.%d/24", "2001:db8:5::%d/64"} {
				a, _ := netlink.ParseAddr(fmt.Sprintf(network, end))
				err = errors.Join(err, spacetest.AddAddress(l, a))
			}
			for _, a := range own {
				err = errors.Join(err, netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))}))
			}
			for _, p := range others {
				gateway := fmt.Sprintf("198.18.5.%d", 3-end)
				if p.Addr().Is6() {
					gateway = fmt.Sprintf("2001:db8:5::%d", 3-end)
				}
				err = errors.Join(err, netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(p), Gw: net.ParseIP(gateway)}))
			}
			return err
		}))
	}
	var world []netip.Prefix
	for _, a := range addresses {
		world = append(world, netip.PrefixFrom(a, a.BitLen()))
	}
	plug(n.space, "eth1", 1, world, nil)
	plug(outside, "eth0", 2, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}, addresses)
	for i, n := range c.nodes {
		must(t, n.datapath.Close())
		n.config.HostFirewall, n.config.Masquerade6 = true, masquerade6
		if i == 0 {
			n.config.Devices = append(n.config.Devices, "eth1")
		}
		n.open()
	}
	return outside
}

// Echo requests have numbers of their own, each of which is a connection.
var echoNumber atomic.Uint32

// reaches tells whether somebody is answered; network is tcp, udp or icmp.
func (s *space) reaches(network string, from netip.Addr, to netip.AddrPort, wait time.Duration) bool {
	answered := false
	_ = s.in(func() error {
		if network == "icmp" {
			answered = echoed(from, to.Addr(), wait)
			return nil
		}
		d := net.Dialer{Timeout: wait, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		if network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		c, err := d.Dial(network, to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		err = isAnswered(c, wait)
		answered = err == nil
		return err
	})
	return answered
}

// echoed sends an echo request in the calling thread's namespace, and waits for its answer.
func echoed(from, to netip.Addr, wait time.Duration) bool {
	network, request, reply := "ip4:icmp", uint8(8), uint8(0)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	c, err := net.ListenPacket(network, from.String())
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wait))
	packet, number := make([]byte, 16), uint16(echoNumber.Add(1))
	packet[0] = request
	binary.BigEndian.PutUint16(packet[4:], number)
	if to.Is4() {
		// Of ICMPv6 the kernel does it.
		sum := uint32(request)<<8 + uint32(number)
		binary.BigEndian.PutUint16(packet[2:], ^uint16(sum&0xffff+sum>>16))
	}
	if _, err := c.WriteTo(packet, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return false
	}
	for in := make([]byte, 256); ; {
		n, who, err := c.ReadFrom(in)
		if err != nil {
			return false
		}
		a, _ := netip.AddrFromSlice(who.(*net.IPAddr).IP)
		if a.Unmap() == to && n >= 6 && in[0] == reply && binary.BigEndian.Uint16(in[4:]) == number {
			return true
		}
	}
}

// judgedBy writes what the engines say in the place of what the nodes had before.
func judgedBy(t *testing.T, parties []*party) {
	t.Helper()
	for _, p := range parties {
		switch {
		case p.on == nil:
		case p.pod != nil:
			enforceAs(t, p.on.engine, policy.SubjectID(p.endpoint), p.pod)
		default:
			entries, enforced := p.on.engine.Entries(policy.SubjectID(p.endpoint))
			clearPolicy(t, p.on.node, p.endpoint)
			must(t, p.on.datapath.ApplyPolicy(ctx, linesOf(p.endpoint, entries), nil))
			must(t, p.on.datapath.UpsertHost(ctx, datapath.Host{PolicyIngress: enforced[policy.Ingress], PolicyEgress: enforced[policy.Egress]}))
		}
	}
}

// What the engine says of random policies is what real packets get: echo requests, connections and datagrams between pods, nodes
// and the world, whose addresses are in ranges and in what these except, of both families, by both routing modes.
func TestTrafficWithNodesAndTheWorldAgreesWithTheEngine(t *testing.T) {
	outside := []netip.Addr{addr("198.51.100.7"), addr("198.51.100.129"), addr("203.0.113.9"), addr("100.64.0.1"),
		addr("2001:db8::7"), addr("2001:db8:1::7"), addr("2001:4860::8888")}
	ports := []uint16{80, 443, 8080}
	eachRouting(t, func(t *testing.T, c *cluster) {
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 7))
		// Who is masqueraded is another one to other nodes.
		masquerade6 := random.IntN(2) == 1
		t.Logf("seed %d, version 6 is masqueraded: %v", seed, masquerade6)
		world := plugWorld(t, c, outside, masquerade6)
		var parties []*party
		nodes := [2]*governed{}
		for i, n := range c.nodes {
			nodes[i] = &governed{node: n}
			for _, p := range n.pods[:2-i] {
				parties = append(parties, &party{name: fmt.Sprintf("a pod of %s", n.name), space: p.space, on: nodes[i], endpoint: p.endpoint.ID, pod: p,
					addresses: p.endpoint.Addresses, id: policy.NumericIdentity(p.endpoint.Identity)})
			}
			parties = append(parties, &party{name: n.name, space: n.space, on: nodes[i], endpoint: datapath.HostEndpoint,
				addresses: []netip.Addr{n.config.NodeAddress, n.config.NodeAddress6}})
			for _, of := range c.nodes {
				id := policy.IdentityRemoteNode
				if of == n {
					id = policy.IdentityHost
				}
				for _, a := range []netip.Addr{of.config.NodeAddress, of.config.NodeAddress6} {
					must(t, n.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: uint32(id)}))
				}
			}
		}
		for _, a := range outside {
			parties = append(parties, &party{name: "the world", space: world, addresses: []netip.Addr{a}})
		}
		for _, p := range parties {
			for _, a := range p.addresses {
				for _, port := range ports {
					at := netip.AddrPortFrom(a, port).String()
					p.space.echoTCP(t, at)
					p.space.echoUDP(t, at)
				}
			}
		}
		var mu sync.Mutex
		seen := map[string]*[2]int{"icmp": {}, "world": {}, "host": {}, "remote node": {}}
		oneSided := func() bool {
			for _, n := range seen {
				if min(n[0], n[1]) < 10 {
					return true
				}
			}
			return false
		}
		for round := 0; round < 3 || round < 15 && oneSided(); round++ {
			var policies []policy.Policy
			for i := range 1 + random.IntN(4) {
				policies = append(policies, datapath.RandomPolicy(random, i))
			}
			for _, p := range parties {
				if p.pod != nil {
					p.labels = datapath.RandomLabels(random)
					p.ports = policy.NamedPorts{"web": {{Protocol: policy.ProtocolTCP, Port: ports[random.IntN(len(ports))]}}}
				} else if p.on != nil {
					p.labels = policy.NodeLabels(map[string]string{"zone": []string{"x", "y"}[random.IntN(2)], "app": "a"}, nil, "host")
				}
			}
			ranges, blocks := map[netip.Prefix]policy.NumericIdentity{}, map[netip.Prefix]policy.NumericIdentity{}
			for _, g := range nodes {
				g.govern(t, policies, parties, ranges, blocks)
			}
			judgedBy(t, parties)
			// Side by side, since waiting for what does not come takes longest.
			var asking errgroup.Group
			asking.SetLimit(24)
			for _, from := range parties {
				for _, to := range parties {
					for _, v6 := range []bool{false, true} {
						source, ok := from.at(v6)
						target, also := to.at(v6)
						// The world is behind the first node.
						second := from.on == nodes[1] || to.on == nodes[1]
						if !ok || !also || from == to || (from.on == nil || to.on == nil) && (second || from.on == to.on) {
							continue
						}
						for _, network := range []string{"icmp", []string{"tcp", "udp"}[random.IntN(2)]} {
							port, protocol := ports[random.IntN(len(ports))], map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "icmp": unix.IPPROTO_ICMP}[network]
							if network == "icmp" {
								if port = 8; v6 {
									port, protocol = 128, unix.IPPROTO_ICMPV6
								}
							}
							// What a party's node says about it and the other one, who has that address there.
							says := func(of, peer *party, a netip.Addr, d policy.Direction) policy.Decision {
								if of.on == nil {
									return policy.Decision{Allowed: true}
								}
								return of.on.engine.Verdict(policy.SubjectID(of.endpoint), d, of.on.identityOf(peer, a, ranges), a, protocol, port)
							}
							out := says(from, to, target, policy.Egress)
							sender, comesFrom := from, source
							if from.pod != nil && to.pod == nil && to.on != nil && to.on != from.on && c.nodes[0].config.Routing == datapath.RoutingTunnel && (!v6 || masquerade6) {
								// Another node sees the pod's node.
								sender = &party{on: from.on, addresses: []netip.Addr{from.on.config.NodeAddress, from.on.config.NodeAddress6}}
								comesFrom, _ = sender.at(v6)
							}
							in := says(to, sender, comesFrom, policy.Ingress)
							want, at := out.Allowed && in.Allowed, netip.AddrPortFrom(target, port)
							asking.Go(func() error {
								wait := 120 * time.Millisecond
								if want {
									wait = 3 * time.Second
								}
								came := from.space.reaches(network, source, at, wait)
								mu.Lock()
								defer mu.Unlock()
								if came != want {
									t.Errorf("round %d: %s of %s (%s) to %s (%s): the engine says %+v and %+v, but it is answered: %v", round, network, from.name, source, to.name, at, out, in, came)
								}
								for what, counts := range map[string]bool{"icmp": network == "icmp", "world": from.on == nil || to.on == nil,
									"host": from.on == to.on && (from.pod == nil) != (to.pod == nil), "remote node": from.on != nil && to.on != nil && from.on != to.on && (from.pod == nil || to.pod == nil)} {
									if counts {
										seen[what][map[bool]int{true: 1}[want]]++
									}
								}
								return nil
							})
						}
					}
				}
			}
			_ = asking.Wait()
			for _, g := range nodes {
				for prefix := range ranges {
					must(t, g.datapath.DeleteIP(ctx, prefix))
				}
				for prefix := range blocks {
					must(t, g.datapath.DeleteBlocks(ctx, prefix))
				}
			}
			if t.Failed() {
				for _, p := range policies {
					t.Log(p.Ref, p.Meaning())
				}
				break
			}
		}
		for what, n := range seen {
			t.Logf("%s: %d denied, %d allowed", what, n[0], n[1])
		}
		if oneSided() {
			t.Error("too one-sided to say much")
		}
	})
}

// govern gives the node an engine with these policies, and its datapath the ranges that they name.
func (g *governed) govern(t *testing.T, policies []policy.Policy, parties []*party, ranges, blocks map[netip.Prefix]policy.NumericIdentity) {
	t.Helper()
	e := policy.NewEngine()
	g.engine = e
	e.SetCIDRGroup(policy.CIDRGroup{Name: "partners", Prefixes: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/25"), netip.MustParsePrefix("198.51.100.0/25")}})
	number := func(in map[netip.Prefix]policy.NumericIdentity, first policy.NumericIdentity, prefix netip.Prefix) policy.NumericIdentity {
		if in[prefix] == 0 {
			in[prefix] = first + policy.NumericIdentity(len(in))
		}
		return in[prefix]
	}
	for _, p := range policies {
		for _, prefix := range e.Resolve(p).Prefixes() {
			// As in the agent, a pod's address stays the pod's.
			if slices.ContainsFunc(parties, func(p *party) bool {
				return p.on != nil && prefix.IsSingleIP() && slices.Contains(p.addresses, prefix.Addr())
			}) {
				continue
			}
			id := number(ranges, policy.IdentityLocalMin, prefix)
			e.AddIdentity(id, policy.LabelsForCIDR(prefix))
			must(t, g.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: prefix, Identity: uint32(id)}))
		}
		for _, prefix := range p.Blocks() {
			id := number(blocks, policy.IdentityBlockMin, prefix)
			e.AddIdentity(id, policy.LabelsForBlock(prefix))
			must(t, g.datapath.UpsertBlocks(ctx, datapath.Block{Prefix: prefix, Number: uint32(id)}))
		}
	}
	for _, p := range parties {
		if p.id != 0 {
			e.AddIdentity(p.id, p.labels)
			e.SetIdentityPorts(p.id, p.ports)
		}
		if p.on == g {
			e.AddSubject(policy.SubjectID(p.endpoint), p.labels, p.ports)
		}
	}
	for _, p := range policies {
		if _, err := e.Upsert(p); err != nil {
			t.Fatal(err)
		}
	}
}
