package datapath_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// side is one family of the test's cluster, so that a test asks both the same.
type side struct {
	name                                  string
	tcp, udp                              string
	cluster, nodePort, balancer, external string
	otherNode, loopback, outside          string
	address                               func(*pod) netip.Addr
	service                               func(protocol uint8, backends ...datapath.Backend) datapath.Service
}

const external6 = "2001:db8:18::81"

func sides() []side {
	return []side{
		{"IPv4", "tcp4", "udp4", "10.96.0.10:80", nodeOutside + ":30080", vip + ":80", "198.18.0.81:80", "192.0.2.2:30080", "127.0.0.1:30080", outsideAddress + ":",
			func(p *pod) netip.Addr { return p.address }, echoService},
		{"IPv6", "tcp6", "udp6", "[" + cluster6 + "]:80", "[" + nodeOutside6 + "]:30080", "[" + vip6 + "]:80", "[" + external6 + "]:80", "[2001:db8:77::2]:30080", "[::1]:30080",
			"[" + outsideAddress6 + "]:", func(p *pod) netip.Addr { return p.address6 },
			func(protocol uint8, backends ...datapath.Backend) datapath.Service {
				s := echoService6(protocol, backends...)
				s.Frontends = append(s.Frontends,
					datapath.Frontend{Address: addr(external6), Port: 80, Protocol: protocol, Kind: datapath.ServiceExternalIP})
				return s
			}},
	}
}

func (s side) backend(p *pod) datapath.Backend {
	return datapath.Backend{Address: s.address(p), Port: 7000, Internal: true, External: true}
}

// answerBoth says its name to whoever asks by datagrams, and echoes lines.
func (p *pod) answerBoth(t testing.TB) {
	t.Helper()
	p.space.answer(t, ":7000", p.address.String())
	p.space.echoTCP(t, ":7000")
}

func TestSourceRanges(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	outside := withOutside6(t, c, nil)
	server := c.nodes[0].pods[0]
	server.answerBoth(t)
	for _, family := range sides() {
		t.Run(family.name, func(t *testing.T) {
			s := family.service(unix.IPPROTO_TCP, family.backend(server))
			// Of the range that lets the client in, and of one beside it, both families have the same.
			in, beside := prefix("198.51.100.0/28"), prefix("198.51.100.16/28")
			if s.V6 {
				in, beside = prefix("2001:db8:51::/124"), prefix("2001:db8:51::10/124")
			}
			s.SourceRanges = []netip.Prefix{beside}
			c.publish(t, s)
			before := drops(t, c.nodes[0])[177]
			if _, err := outside.dial(family.tcp, family.balancer); err == nil {
				t.Error("a client out of the ranges came in")
			}
			if drops(t, c.nodes[0])[177] == before {
				t.Errorf("no drop of reason 177: %v", drops(t, c.nodes[0]))
			}
			for name, ask := range map[string]struct {
				from *space
				to   string
			}{"the node port": {outside, family.nodePort}, "an external address": {outside, family.external}, "a client inside": {c.nodes[0].pods[1].space, family.balancer}} {
				if _, err := ask.from.try(family.tcp, ask.to); err != nil {
					t.Errorf("%s has no ranges: %v", name, err)
				}
			}
			s.SourceRanges = append(s.SourceRanges, in)
			c.publish(t, s)
			if got, err := outside.try(family.tcp, family.balancer); err != nil || !strings.HasPrefix(got, family.outside) {
				t.Errorf("a client in the ranges: %q, %v", got, err)
			}
		})
	}
}

// Affinity holds for clients inside and outside, by each of a service's addresses, until it has run out.
func TestAffinityOfBothFamilies(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	outside := withOutside6(t, c, nil)
	servers := []*pod{c.nodes[0].pods[0], c.nodes[1].pods[0], c.nodes[1].pods[1]}
	for _, p := range servers {
		p.answerBoth(t)
	}
	for _, n := range c.nodes {
		must(t, n.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: prefix("192.0.2.1/32"), Identity: 6}, datapath.IPEntry{Prefix: prefix("2001:db8:77::1/128"), Identity: 6}))
	}
	for _, family := range sides() {
		s := family.service(unix.IPPROTO_UDP)
		for _, p := range servers {
			s.Backends = append(s.Backends, family.backend(p))
		}
		s.AffinitySeconds = 60
		c.publish(t, s)
		for name, client := range map[string]struct {
			space *space
			to    []string
		}{"a pod": {c.nodes[0].pods[1].space, []string{family.cluster, family.balancer}}, "a client outside": {outside, []string{family.nodePort, family.balancer}}} {
			first, err := client.space.try(family.udp, client.to[0])
			must(t, err)
			for i := range 16 {
				if got, err := client.space.try(family.udp, client.to[i%2]); err != nil || got != first {
					t.Fatalf("%s by %s, try %d: %q after %q, %v", name, family.name, i, got, first, err)
				}
			}
		}
		// One second of affinity is over soon: with nobody asking for longer, others get their turn.
		s.AffinitySeconds = 1
		c.publish(t, s)
		client := c.nodes[0].pods[1].space
		seen := map[string]bool{}
		deadline := time.Now().Add(20 * time.Second)
		for len(seen) < 2 {
			got, err := client.try(family.udp, family.cluster)
			must(t, err)
			seen[got] = true
			if time.Now().After(deadline) {
				t.Fatalf("by %s: only %v was ever chosen, long after affinity ran out", family.name, seen)
			}
			time.Sleep(1100 * time.Millisecond)
		}
	}
}

// Clients whom a policy Local leaves nobody wait, those of the other side are served.
func TestLocalPoliciesOfBothFamilies(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	outside := withOutside6(t, c, nil)
	n, far := c.nodes[0], c.nodes[1].pods[0]
	far.answerBoth(t)
	must(t, c.nodes[1].datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: prefix("192.0.2.1/32"), Identity: 6}, datapath.IPEntry{Prefix: prefix("2001:db8:77::1/128"), Identity: 6}))
	for _, family := range sides() {
		for _, inside := range []bool{true, false} {
			s := family.service(unix.IPPROTO_TCP, datapath.Backend{Address: family.address(far), Port: 7000, Internal: !inside, External: inside})
			s.InternalLocal, s.DropInternal, s.ExternalLocal, s.DropExternal = inside, inside, !inside, !inside
			c.publish(t, s)
			for who, ask := range map[bool]struct {
				from *space
				to   string
			}{true: {n.pods[0].space, family.cluster}, false: {outside, family.balancer}} {
				before := drops(t, n)[158]
				_, err := ask.from.try(family.tcp, ask.to)
				switch {
				case who != inside:
					if err != nil {
						t.Errorf("%s, inside %v: who is not limited: %v; drops %v", family.name, inside, err, drops(t, n))
					}
				case err == nil || errors.Is(err, syscall.ECONNREFUSED):
					t.Errorf("%s, inside %v: %v, want silence", family.name, inside, err)
				case drops(t, n)[158] == before:
					t.Errorf("%s, inside %v: not counted: %v", family.name, inside, drops(t, n))
				}
			}
		}
	}
}

// External addresses serve clients outside, of both families; packets of pods go where the address is (CVE-2020-8554).
func TestExternalAddressesOfBothFamilies(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	outside := withOutside6(t, c, nil)
	server := c.nodes[0].pods[0]
	server.answerBoth(t)
	for _, family := range sides() {
		c.publish(t, family.service(unix.IPPROTO_UDP, family.backend(server)))
		if got, err := outside.try(family.udp, family.external); err != nil || got != server.address.String() {
			t.Errorf("%s: a client outside got %q, %v", family.name, got, err)
		}
		if got, err := c.nodes[0].pods[1].space.try(family.udp, family.external); err == nil {
			t.Errorf("%s: a pod was answered by %q", family.name, got)
		}
	}
}

// Node ports by sockets: of this node, of another, of loopback.
func TestNodePortsBySocketsOfVersion6(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	n := c.nodes[0]
	requireCgroup(t, n)
	family := sides()[1]
	c.nodes[1].pods[0].answerBoth(t)
	s := family.service(unix.IPPROTO_TCP, family.backend(c.nodes[1].pods[0]))
	must(t, n.datapath.UpsertService(ctx, s))
	must(t, n.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: prefix("2001:db8:77::2/128"), Identity: 6}))
	for name, test := range map[string]struct {
		space *space
		to    string
		works bool
	}{
		"pod to its node's":                    {n.pods[0].space, "[2001:db8:77::1]:30080", true},
		"pod to another node's":                {n.pods[0].space, family.otherNode, true},
		"pod to its own loopback":              {n.pods[0].space, family.loopback, false},
		"node to its loopback":                 {n.space, family.loopback, true},
		"pod to a load balancer's address":     {n.pods[0].space, family.balancer, true},
		"pod to an external address":           {n.pods[0].space, family.external, false},
		"pod to a port that is no node port":   {n.pods[0].space, "[2001:db8:77::2]:30081", false},
		"node to the world by a node's number": {n.space, "[2001:db8:ffff::99]:30080", false},
	} {
		out, err := n.inCgroupBy("tcp6", test.space, test.to)
		if (err == nil) != test.works || test.works && !strings.Contains(out, "peer "+test.to) {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	// Who names no address means itself.
	for at, works := range map[*space]bool{n.pods[0].space: false, n.space: true} {
		if out, err := n.inCgroupBy("mapped-tcp", at, "[::]:30080"); (err == nil) != works {
			t.Errorf("no address and a node port, connects %t: %v: %s", works, err, out)
		}
	}
}

// With hybrid, streams are answered by the backend's node, which the backend sees by the client's own address; datagrams come
// back by the node that the client asked.
func TestHybridOfBothFamilies(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	outside := withOutside6(t, c, func(config *datapath.Config) { config.LoadBalancer.Mode = "hybrid" })
	routeBack(t, c)
	must(t, c.nodes[1].space.in(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(prefix("2001:db8:51::/64")), Gw: net.ParseIP("2001:db8:77::1")})
	}))
	must(t, c.nodes[1].datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: prefix("192.0.2.1/32"), Identity: 6}, datapath.IPEntry{Prefix: prefix("2001:db8:77::1/128"), Identity: 6}))
	server := c.nodes[1].pods[0]
	server.space.echoTCP(t, ":7000")
	server.space.sender(t, ":7000")
	for _, family := range sides() {
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			c.publish(t, family.service(protocol, family.backend(server)))
		}
		got, err := outside.try(family.tcp, family.balancer)
		if err != nil || !strings.HasPrefix(got, family.outside) {
			t.Errorf("%s, a stream: the backend saw %q, %v; drops %v, %v", family.name, got, err, drops(t, c.nodes[0]), drops(t, c.nodes[1]))
		}
		by := "192.0.2.1:"
		if family.name == "IPv6" {
			by = "[2001:db8:77::1]:"
		}
		got, err = outside.try(family.udp, family.balancer)
		if err != nil || !strings.HasPrefix(got, by) {
			t.Errorf("%s, a datagram: the backend saw %q, %v, want %s; drops %v, %v", family.name, got, err, by, drops(t, c.nodes[0]), drops(t, c.nodes[1]))
		}
	}
}

// Host ports serve who comes from outside, pods, the node and its loopback; one of a certain address is at that alone.
func TestHostPortsOfBothFamilies(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	outside := withOutside6(t, c, nil)
	n := c.nodes[0]
	server, client := n.pods[0], n.pods[1]
	server.answerBoth(t)
	for _, family := range sides() {
		node, loopback, outsides, any := "192.0.2.1", "127.0.0.1", nodeOutside, "0.0.0.0"
		if family.name == "IPv6" {
			node, loopback, outsides, any = "2001:db8:77::1", "::1", nodeOutside6, "::"
		}
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			port := func(number uint16, addresses ...string) {
				s := datapath.Service{ServiceID: datapath.ServiceID{Namespace: "default", Name: fmt.Sprint("host-port-", number), Protocol: protocol, V6: family.name == "IPv6"},
					Backends: []datapath.Backend{family.backend(server)}}
				for _, a := range addresses {
					s.Frontends = append(s.Frontends, datapath.Frontend{Address: addr(a), Port: number, Protocol: protocol, Kind: datapath.ServiceHostPort})
				}
				must(t, n.datapath.UpsertService(ctx, s))
			}
			port(8888, node, outsides, any)
			port(8889, loopback)
		}
		at := func(a string, port uint16) string { return netip.AddrPortFrom(addr(a), port).String() }
		for _, network := range []string{family.tcp, family.udp} {
			for name, test := range map[string]struct {
				from  *space
				to    string
				works bool
			}{
				"outside":                 {outside, at(outsides, 8888), true},
				"outside, other address":  {outside, at(node, 8888), true},
				"pod":                     {client.space, at(node, 8888), true},
				"the pod itself":          {server.space, at(node, 8888), true},
				"outside, loopback alone": {outside, at(outsides, 8889), false},
			} {
				if got, err := test.from.try(network, test.to); (err == nil) != test.works {
					t.Errorf("%s by %s to %s: %q, %v; drops %v", name, network, test.to, got, err, drops(t, n))
				}
			}
			if n.cgroup == "" {
				t.Log("no cgroup2 is mounted: the node's sockets were not tried")
				continue
			}
			for to, works := range map[string]bool{at(node, 8888): true, at(loopback, 8888): true, at(loopback, 8889): true, at(node, 8889): false} {
				if out, err := n.inCgroupBy(network, n.space, to); (err == nil) != works {
					t.Errorf("the node by %s to %s: %v: %s", network, to, err, out)
				}
			}
		}
	}
}
