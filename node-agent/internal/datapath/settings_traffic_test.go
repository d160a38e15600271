package datapath_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

func (s *space) sysctl(t testing.TB, name, value string) string {
	t.Helper()
	var out string
	must(t, s.in(func() error {
		if value != "" {
			if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644); err != nil {
				return err
			}
		}
		raw, err := os.ReadFile("/proc/sys/" + name)
		out = strings.TrimSpace(string(raw))
		return err
	}))
	return out
}

// A distribution's reverse path filter drops what is masqueraded by netfilter and answered by other ways; the stricter of `all`
// and the interface's counts. It is off for our interfaces and stays what it was for others, also when somebody sets it again
// while the agent runs, as systemd-sysctl does, and takes forwarding away with it.
func TestReversePathFilterOfTheDistribution(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingTunnel, func(config *datapath.Config) { config.BPFMasquerade = false })
	n := c.nodes[0]
	must(t, n.space.in(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "foreign0"}, PeerName: "foreign1"})
	}))
	must(t, n.datapath.Close())
	c.nodes[1].space.echoTCP(t, world+":7000")
	n.space.sysctl(t, "net/ipv4/conf/all/rp_filter", "1")
	n.space.sysctl(t, "net/ipv4/conf/foreign0/rp_filter", "0")
	n.open()
	look := func(when string) {
		t.Helper()
		pod := n.pods[0].endpoint.Interface
		for name, want := range map[string]string{"conf/all/rp_filter": "0", "conf/foreign0/rp_filter": "1", "conf/" + pod + "/rp_filter": "0", "ip_forward": "1"} {
			if got := n.space.sysctl(t, "net/ipv4/"+name, ""); got != want {
				t.Errorf("%s: %s is %s, want %s", when, name, got, want)
			}
		}
		if _, err := n.pods[0].space.try("tcp4", world+":7000"); err != nil {
			t.Errorf("%s: a pod to the world: %v", when, err)
		}
	}
	look("after the start")
	n.space.sysctl(t, "net/ipv4/conf/all/rp_filter", "1")
	n.space.sysctl(t, "net/ipv4/ip_forward", "0")
	for deadline := time.Now().Add(20 * time.Second); n.space.sysctl(t, "net/ipv4/conf/all/rp_filter", "") != "0" || n.space.sysctl(t, "net/ipv4/ip_forward", "") != "1"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the settings were not put back")
		}
	}
	look("after somebody set them")
}

// Pods' packets fit through the narrowest of the node's devices, less what the tunnel adds.
func TestMTUOfTheNarrowestDevice(t *testing.T) {
	for routing, want := range map[datapath.RoutingMode]int{datapath.RoutingTunnel: 1350, datapath.RoutingNative: 1400} {
		c := newCluster(t, routing)
		n := c.nodes[0]
		must(t, n.space.in(func() error {
			if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth1", MTU: 1400}, PeerName: "other", PeerMTU: 1400}); err != nil {
				return err
			}
			l, err := netlink.LinkByName("eth1")
			if err != nil {
				return err
			}
			return netlink.LinkSetUp(l)
		}))
		must(t, n.datapath.Close())
		n.config.Devices = []string{"eth0", "eth1"}
		n.open()
		if got := n.datapath.MTU(); got != want {
			t.Errorf("%s: MTU %d, want %d", routing, got, want)
		}
	}
}

// What a tunnel by IPv6 adds is more than one by IPv4.
func TestMTUOfATunnelByVersion6(t *testing.T) {
	for want, change := range map[int]func(*datapath.Config){1430: only6, 1450: func(*datapath.Config) {}} {
		if got := newClusterWith(t, datapath.RoutingTunnel, change).nodes[0].datapath.MTU(); got != want {
			t.Errorf("MTU %d, want %d", got, want)
		}
	}
}

// Where the ports of the node's own connections and the cluster's node ports overlap, no connection gets a node port: its
// answers would be taken for a client's packets.
func TestConnectionsGetNoNodePorts(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	n := c.nodes[0]
	const name = "net/ipv4/ip_local_reserved_ports"
	if got := n.space.sysctl(t, name, ""); got != "" {
		t.Errorf("the ranges do not overlap, and %q is reserved", got)
	}
	must(t, n.datapath.Close())
	n.space.sysctl(t, "net/ipv4/ip_local_port_range", "30000 30020")
	n.space.sysctl(t, name, "8080")
	n.open()
	if got := n.space.sysctl(t, name, ""); got != "8080,30000-32767" {
		t.Errorf("reserved are %q", got)
	}
	n.space.sysctl(t, "net/ipv4/ip_local_port_range", "30000 32777")
	c.nodes[1].space.echoTCP(t, ":7000")
	for i := range 5 {
		conn, err := n.space.dial("tcp4", c.nodes[1].config.NodeAddress.String()+":7000")
		must(t, err)
		defer conn.Close()
		port := conn.LocalAddr().String()
		var at int
		if _, err := fmt.Sscanf(port[strings.LastIndexByte(port, ':')+1:], "%d", &at); err != nil || at <= 32767 {
			t.Errorf("connection %d has %s", i, port)
		}
	}
}

// CVE-2020-8554: who may make a service could name any address of the world in externalIPs and so get the pods' traffic to
// it. Packets of pods go where the address is; clients outside, for whom it is meant, are served.
func TestExternalAddressesCatchNoPods(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		outside := withOutside(t, c, nil)
		thief, victim := c.nodes[0].pods[0], c.nodes[0].pods[1]
		thief.space.answer(t, ":7000", "thief")
		c.nodes[1].space.answer(t, world+":80", "world")
		// The second node stands for the world here, and knows no services.
		must(t, c.nodes[0].datapath.UpsertService(ctx, datapath.Service{
			ServiceID: datapath.ServiceID{Namespace: "default", Name: "mitm", Protocol: unix.IPPROTO_UDP},
			Frontends: []datapath.Frontend{{Address: addr(world), Port: 80, Protocol: unix.IPPROTO_UDP, Kind: datapath.ServiceExternalIP}},
			Backends:  []datapath.Backend{backend(thief, 7000)},
		}))
		if got, err := victim.space.try("udp4", world+":80"); err != nil || got != "world" {
			t.Errorf("a pod that asked the world was answered by %q, %v", got, err)
		}
		if got, err := outside.try("udp4", world+":80"); err != nil || got != "thief" {
			t.Errorf("a client outside was answered by %q, %v", got, err)
		}
	})
}

// Where it was asked for, pods and the node are served at external addresses as by kube-proxy, by packet and by socket, and only there.
func TestExternalAddressesForPods(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		n, client, server := c.nodes[0], c.nodes[0].pods[1], c.nodes[1].pods[0]
		server.space.answer(t, ":7000", "service")
		server.space.echoTCP(t, ":7000")
		publish := func(inside bool) {
			for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
				must(t, n.datapath.UpsertService(ctx, datapath.Service{
					ServiceID: datapath.ServiceID{Namespace: "default", Name: "external", Protocol: protocol}, ExternalInside: inside,
					Frontends: []datapath.Frontend{{Address: addr(world), Port: 80, Protocol: protocol, Kind: datapath.ServiceExternalIP}},
					Backends:  []datapath.Backend{backend(server, 7000)},
				}))
			}
		}
		publish(true)
		served := func(when string) {
			if got, err := client.space.try("udp4", world+":80"); err != nil || got != "service" {
				t.Errorf("%s a pod's packet was answered by %q, %v", when, got, err)
			}
			if n.cgroup == "" {
				t.Log("no cgroup2 is mounted: sockets were not tried")
				return
			}
			for who, from := range map[string]*space{"pod": client.space, "node": n.space} {
				if out, err := n.inCgroup(from, world+":80"); err != nil || !strings.Contains(out, "peer "+world+":80") {
					t.Errorf("%s the %s's socket got %v: %s", when, who, err, out)
				}
			}
		}
		served("at first")
		// The agent that comes back reads the services from the kernel.
		must(t, n.datapath.Close())
		n.open()
		served("after a restart")
		publish(false)
		if got, err := client.space.try("udp4", world+":80"); err == nil {
			t.Errorf("it is not asked for any more, and a pod was answered by %q", got)
		}
	})
}

// What the journal does not take is not done: an uninstall would not know how it was.
func TestNothingIsDoneUnrecorded(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	n := c.nodes[0]
	must(t, n.datapath.Close())
	set := func(value string) {
		must(t, n.space.in(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(value), 0o644) }))
	}
	set("0")
	full := errors.New("no space left on device")
	options := append(slices.Clone(n.options), datapath.WithJournal(func(kind, subject, _, _, _ string) error { return fmt.Errorf("%s %s: %w", kind, subject, full) }))
	must(t, n.space.in(func() error {
		k, err := datapath.Open(ctx, n.config, options...)
		if err == nil {
			k.Close()
		}
		if !errors.Is(err, full) || !strings.Contains(err.Error(), "sysctl net/ipv4/ip_forward") {
			t.Errorf("got %v", err)
		}
		if now, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || strings.TrimSpace(string(now)) != "0" {
			t.Errorf("forwarding is %s, %v", now, err)
		}
		return nil
	}))
	set("1")
	n.open()
}
