package datapath_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

func requireCgroup(t testing.TB, n *node) {
	t.Helper()
	if n.cgroup == "" {
		t.Skip("no cgroup2 file system is mounted, and socket programs attach to one")
	}
}

func TestNodePortBySocket(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	n := c.nodes[0]
	requireCgroup(t, n)
	server := c.nodes[1].pods[0]
	server.space.echoTCP(t, ":7000")
	s := echoService(unix.IPPROTO_TCP, backend(server, 7000))
	must(t, n.datapath.UpsertService(ctx, s))
	must(t, n.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: prefix("192.0.2.2/32"), Identity: 6}))
	for name, test := range map[string]struct {
		space *space
		to    string
		works bool
	}{
		"pod to a node port":                   {n.pods[0].space, "192.0.2.1:30080", true},
		"pod to another node's":                {n.pods[0].space, "192.0.2.2:30080", true},
		"pod to its own loopback":              {n.pods[0].space, "127.0.0.1:30080", false},
		"node to its loopback":                 {n.space, "127.0.0.1:30080", true},
		"pod to a load balancer's address":     {n.pods[0].space, vip + ":80", true},
		"pod to an external address":           {n.pods[0].space, "198.18.0.81:80", false},
		"pod to a port that is no node port":   {n.pods[0].space, "192.0.2.2:30081", false},
		"node to the world by a node's number": {n.space, "203.0.113.99:30080", false},
	} {
		out, err := n.inCgroup(test.space, test.to)
		if (err == nil) != test.works || test.works && !strings.Contains(out, "peer "+test.to) {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	// Who names no address means itself. Go's own sockets would not say so.
	for at, works := range map[*space]bool{n.pods[0].space: false, n.space: true} {
		if out, err := n.inCgroupBy("mapped-tcp", at, "0.0.0.0:30080"); (err == nil) != works {
			t.Errorf("no address and a node port, connects %t: %v: %s", works, err, out)
		}
	}
	// The other node knows whom it has.
	s.ExternalLocal = true
	must(t, n.datapath.UpsertService(ctx, s))
	if out, err := n.inCgroup(n.pods[0].space, "192.0.2.2:30080"); err == nil {
		t.Errorf("policy Local was decided on the wrong node: %s", out)
	}
	if out, err := n.inCgroup(n.pods[0].space, "192.0.2.1:30080"); err != nil {
		t.Errorf("a client inside is not limited: %v: %s", err, out)
	}
	// Nobody of the node gets a node port for itself.
	if out, err := n.inCgroup(n.space, "bind::30080"); err == nil || !strings.Contains(out, "address already in use") {
		t.Errorf("binding to a node port: %v: %s", err, out)
	}
	if out, err := n.inCgroup(n.pods[0].space, "bind::30080"); err != nil {
		t.Errorf("a pod's own ports: %v: %s", err, out)
	}
}

// What the socket programs let the node's own processes listen on, by family and address: a socket takes a node port where it
// would take clients of a family that has it. Of Go's networks those with a 6 take no clients of IPv4.
func TestNodePortsAreBoundByNobody(t *testing.T) {
	for kernel, options := range map[string][]datapath.Option{
		"that tells": nil, "that does not tell what a socket was told": {datapath.WithProbes(lacking{"read-kernel"})},
	} {
		t.Run("a kernel "+kernel, func(t *testing.T) { tryBinding(t, options == nil, options...) })
	}
}

func tryBinding(t *testing.T, tells bool, options ...datapath.Option) {
	c := newCluster(t, datapath.RoutingNative, options...)
	n := c.nodes[0]
	requireCgroup(t, n)
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		service6 := echoService6(protocol, backend6(c.nodes[1].pods[0], 7000))
		for i, f := range service6.Frontends {
			if f.Kind == datapath.ServiceNodePort {
				service6.Frontends[i].Port = 30086
			}
		}
		must(t, n.datapath.UpsertService(ctx, echoService(protocol, backend(c.nodes[1].pods[0], 7000))))
		must(t, n.datapath.UpsertService(ctx, service6))
	}
	for _, test := range []struct {
		family, at string
		refused    bool
	}{
		{"4", ":30080", true},
		{"", "[::]:30080", true},
		{"6", "[::]:30080", !tells},
		{"4", "192.0.2.1:30080", true},
		{"", "[2001:db8:77::1]:30080", false},
		{"4", ":30086", false},
		{"", "[::]:30086", true},
		{"6", "[::]:30086", true},
		{"6", "[2001:db8:77::1]:30086", true},
		{"", "[::]:30087", false},
		{"6", "[::]:30087", false},
	} {
		for _, protocol := range []string{"tcp", "udp"} {
			network := protocol + test.family
			out, err := n.inCgroupBy(network, n.space, "bind:"+test.at)
			if test.refused != (err != nil) || test.refused && !strings.Contains(out, "address already in use") {
				t.Errorf("%s %s: %v: %s; want it refused: %v", network, test.at, err, out, test.refused)
			}
		}
	}
	if out, err := n.inCgroupBy("tcp", n.pods[0].space, "bind:[::]:30080"); err != nil {
		t.Errorf("a pod's own ports: %v: %s", err, out)
	}
}

// A socket that is never connected reaches a service with each datagram, whoever else it talks to, and sees the service answer.
func TestUnconnectedDatagramsBySocket(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	n := c.nodes[0]
	requireCgroup(t, n)
	server, other := c.nodes[1].pods[0], c.nodes[1].pods[1]
	for _, p := range []*pod{server, other} {
		p.space.echo6(t, 7000)
		p.space.answer(t, ":7001", "server")
	}
	must(t, n.datapath.UpsertService(ctx, echoService(unix.IPPROTO_UDP, backend(server, 7001))))
	must(t, n.datapath.UpsertService(ctx, echoService6(unix.IPPROTO_UDP, backend6(server, 7000))))
	for name, s := range map[string]*space{"pod": n.pods[0].space, "node": n.space} {
		for _, test := range []struct{ network, service, direct, answer string }{
			{"udp4", "10.96.0.10:80", netip.AddrPortFrom(other.address, 7001).String(), "server"},
			{"udp6", "[" + cluster6 + "]:80", netip.AddrPortFrom(other.address6, 7000).String(), "hello"},
			// By a socket of both families.
			{"udp", "10.96.0.10:80", netip.AddrPortFrom(other.address, 7001).String(), "server"},
		} {
			before := socketCount(t, n)
			out, err := n.inCgroupBy(test.network, s, "unconnected:"+strings.Join([]string{test.service, test.direct, test.service}, ","))
			want := fmt.Sprintf("%s: %[1]s answered %s\n%s: %[3]s answered %[2]s\n%[1]s: %[1]s answered %[2]s\n", test.service, test.answer, test.direct)
			if err != nil || out != want {
				t.Errorf("%s by %s: %v: %q, want %q", name, test.network, err, out, want)
			}
			if got := socketCount(t, n) - before; got != 1 {
				t.Errorf("%s by %s: %d entries of sockets, want one", name, test.network, got)
			}
		}
	}
	for _, version6 := range []bool{false, true} {
		s, network, at := echoService(unix.IPPROTO_UDP), "udp4", "10.96.0.10:80"
		if version6 {
			s, network, at = echoService6(unix.IPPROTO_UDP), "udp6", "["+cluster6+"]:80"
		}
		must(t, n.datapath.UpsertService(ctx, s))
		if out, err := n.inCgroupBy(network, n.space, "unconnected:"+at); err != nil || !strings.Contains(out, "connection refused") {
			t.Errorf("%s to a service without backends: %v: %s", network, err, out)
		}
	}
}

func TestOnlyTheNodesSockets(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	n := c.nodes[0]
	requireCgroup(t, n)
	must(t, n.datapath.Close())
	n.config.LoadBalancer.HostNamespaceOnly = true
	n.open()
	server := c.nodes[1].pods[0]
	server.space.echoTCP(t, ":7000")
	must(t, n.datapath.UpsertService(ctx, echoService(unix.IPPROTO_TCP, backend(server, 7000))))
	before := socketCount(t, n)
	for _, s := range []*space{n.pods[0].space, n.space} {
		if _, line := n.talk(t, s, "tcp4", "10.96.0.10:80"); !strings.HasPrefix(line, "peer 10.96.0.10:80 answered ") {
			t.Error(line)
		}
	}
	if got := socketCount(t, n) - before; got != 1 {
		t.Errorf("%d sockets were translated, want the node's only", got)
	}
}

// socketCount is how many sockets the socket programs remember.
func socketCount(t testing.TB, n *node) (count int) {
	t.Helper()
	pins, err := filepath.Glob(n.config.BPFFS + "/fairlead/maps/sockets_v*")
	must(t, err)
	m, err := ebpf.LoadPinnedMap(pins[0], nil)
	must(t, err)
	defer m.Close()
	var key, value []byte
	all := m.Iterate()
	for all.Next(&key, &value) {
		count++
	}
	must(t, all.Err())
	return count
}

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

// A socket of a backend that is gone is ended: its client gets an error instead of silence.
func TestSocketsOfGoneBackendsEnd(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	n := c.nodes[0]
	requireCgroup(t, n)
	directory := t.TempDir()
	for i, p := range n.pods {
		must(t, os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.space.File.Fd()), filepath.Join(directory, fmt.Sprint(i))))
	}
	must(t, n.datapath.Close())
	n.config.NetnsDirectory = directory
	n.open()
	goes, stays := c.nodes[1].pods[0], c.nodes[1].pods[1]
	for _, p := range []*pod{goes, stays} {
		p.space.echoTCP(t, ":7000")
		p.space.answer(t, ":7000", p.address.String())
	}
	for _, kind := range []struct {
		datagrams, stream, unconnected, to string
		v6                                 bool
	}{
		{"udp4", "tcp4", "unconnected4", "10.96.0.10:80", false},
		{"udp6", "tcp6", "unconnected6", "[" + cluster6 + "]:80", true},
		{"mapped-udp", "mapped-tcp", "mapped-unconnected", "10.96.0.10:80", false},
	} {
		publish := func(p *pod) {
			for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
				s := echoService(protocol, backend(p, 7000))
				if kind.v6 {
					s = echoService6(protocol, backend6(p, 7000))
				}
				must(t, n.datapath.UpsertService(ctx, s))
			}
		}
		address := goes.address
		if kind.v6 {
			address = goes.address6
		}
		for name, where := range map[string]*space{"pod": n.pods[0].space, "node": n.space} {
			name += " by " + kind.datagrams
			publish(goes)
			datagrams, first := n.talk(t, where, kind.datagrams, kind.to)
			stream, _ := n.talk(t, where, kind.stream, kind.to)
			unconnected, _ := n.talk(t, where, kind.unconnected, kind.to)
			direct, _ := n.talk(t, where, kind.datagrams, netip.AddrPortFrom(address, 7000).String())
			if !strings.HasSuffix(first, goes.address.String()) {
				t.Fatalf("%s: %s", name, first)
			}
			publish(stays)
			within(t, name+": the datagram socket goes on", func() bool { return strings.HasPrefix(datagrams.ask(t), "error") })
			for what, k := range map[string]*talker{"the stream": stream, "a socket that never was a service's": direct} {
				if got := k.ask(t); strings.HasPrefix(got, "error") {
					t.Errorf("%s: %s ended too: %s", name, what, got)
				}
			}
			if got := unconnected.ask(t); got != "answer "+stays.address.String() {
				t.Errorf("%s: a socket that names whom it asks each time got %q, want the backend that is left", name, got)
			}
			must(t, n.datapath.DeleteIP(ctx, netip.PrefixFrom(address, address.BitLen())))
			within(t, name+": the stream goes on", func() bool { return strings.HasPrefix(stream.ask(t), "error") })
			must(t, n.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: netip.PrefixFrom(address, address.BitLen()), Identity: goes.endpoint.Identity}))
		}
	}
}

// Datagrams of a socket go to a backend and come back from the service, whatever the kind of the socket: connected, or naming
// the other side with each one; of either family, and of IPv6 to an address of IPv4.
func TestSocketsOfEveryKind(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	n := c.nodes[0]
	requireCgroup(t, n)
	var v4, v6 []datapath.Backend
	for _, p := range []*pod{n.pods[1], c.nodes[1].pods[0], c.nodes[1].pods[1]} {
		p.space.answer(t, ":7000", p.address.String())
		p.space.echoTCP(t, ":7000")
		v4, v6 = append(v4, backend(p, 7000)), append(v6, backend6(p, 7000))
	}
	for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		for _, s := range []datapath.Service{echoService(protocol, v4...), echoService6(protocol, v6...)} {
			s.AffinitySeconds = 60
			must(t, n.datapath.UpsertService(ctx, s))
		}
	}
	for who, where := range map[string]*space{"pod": n.pods[0].space, "node": n.space} {
		chosen := map[bool]string{}
		for _, network := range []string{"udp4", "unconnected4", "mapped-udp", "mapped-unconnected", "mapped-tcp", "udp6", "unconnected6"} {
			to := "10.96.0.10:80"
			v6 := strings.HasSuffix(network, "6")
			if v6 {
				to = "[" + cluster6 + "]:80"
			}
			before := socketCount(t, n)
			k, line := n.talk(t, where, network, to)
			if !strings.HasPrefix(line, "peer "+to+" answered ") {
				t.Errorf("%s by %s: %s", who, network, line)
				continue
			}
			if got := socketCount(t, n) - before; got != 1 {
				t.Errorf("%s by %s: %d sockets were translated, want this one", who, network, got)
			}
			if network == "mapped-tcp" {
				continue
			}
			// Affinity is a network namespace's: every socket of it has the same backend, each time.
			for range 6 {
				answer := strings.TrimPrefix(k.ask(t), "answer ")
				if chosen[v6] == "" {
					chosen[v6] = answer
				}
				if answer != chosen[v6] {
					t.Errorf("%s by %s: answered by %s after %s", who, network, answer, chosen[v6])
				}
			}
		}
	}
}

// What a socket believed to talk to is forgotten when it is closed, not when a table is full: streams and
// datagrams of either family. Only of a socket that names the other side each time it is left to the table.
func TestClosedSocketsAreForgotten(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	n, server := c.nodes[0], c.nodes[1].pods[0]
	requireCgroup(t, n)
	server.space.echoTCP(t, ":7000")
	server.space.answer(t, ":7000", "server")
	for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		must(t, n.datapath.UpsertService(ctx, echoService(protocol, backend(server, 7000))))
		must(t, n.datapath.UpsertService(ctx, echoService6(protocol, backend6(server, 7000))))
	}
	for _, test := range []struct {
		network, to string
		left        int
	}{
		{"tcp4", "10.96.0.10:80", 0},
		{"tcp6", "[" + cluster6 + "]:80", 0},
		{"mapped-tcp", "10.96.0.10:80", 0},
		{"udp4", "10.96.0.10:80", 0},
		{"udp6", "[" + cluster6 + "]:80", 0},
		{"mapped-udp", "10.96.0.10:80", 0},
		{"unconnected4", "10.96.0.10:80", 1},
	} {
		for who, where := range map[string]*space{"pod": n.pods[0].space, "node": n.space} {
			before := socketCount(t, n)
			other, _ := n.talk(t, where, test.network, test.to)
			k, line := n.talk(t, where, test.network, test.to)
			if !strings.HasPrefix(line, "peer "+test.to+" answered ") {
				t.Errorf("%s by %s: %s", who, test.network, line)
			}
			if got := socketCount(t, n) - before; got != 2 {
				t.Errorf("%s by %s: %d sockets are remembered, want both", who, test.network, got)
			}
			k.end()
			if got := socketCount(t, n) - before; got != 1+test.left {
				t.Errorf("%s by %s: with one of two closed %d are remembered", who, test.network, got)
			}
			other.end()
			if got := socketCount(t, n) - before; got != 2*test.left {
				t.Errorf("%s by %s: with both closed %d are remembered, want %d", who, test.network, got, 2*test.left)
			}
		}
	}
}

func within(t testing.TB, otherwise string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(otherwise)
		}
	}
}
