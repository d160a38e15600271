package datapath_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/spacetest"
)

const (
	outsideAddress6 = "2001:db8:51::9"
	nodeOutside6    = "2001:db8:51::1"
	vip6            = "2001:db8:18::80"
	cluster6        = "fd00:96::10"
)

// withOutside6 gives the client outside and the node's device to it addresses of version 6.
func withOutside6(t *testing.T, c *cluster, adjust func(*datapath.Config)) *space {
	t.Helper()
	outside := withOutside(t, c, adjust)
	set := func(s *space, device, text string) {
		must(t, s.in(func() error {
			// An address that is still being checked cannot be used.
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+device+"/accept_dad", []byte("0"), 0o644); err != nil {
				return err
			}
			l, err := netlink.LinkByName(device)
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			return spacetest.AddAddress(l, a)
		}))
	}
	set(c.nodes[0].space, "eth1", nodeOutside6+"/64")
	set(outside, "eth0", outsideAddress6+"/64")
	must(t, outside.in(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(prefix("::/0")), Gw: net.ParseIP(nodeOutside6)})
	}))
	return outside
}

// echo6 answers each line with the client's address and the line, each datagram with itself.
func (s *space) echo6(t testing.TB, port int) {
	t.Helper()
	at := fmt.Sprintf("[::]:%d", port)
	s.serve(t, "tcp6", at, answerLines)
	var u net.PacketConn
	must(t, s.in(func() (err error) { u, err = net.ListenPacket("udp6", at); return err }))
	t.Cleanup(func() { u.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(b[:n], from)
		}
	}()
}

func echoService6(protocol uint8, backends ...datapath.Backend) datapath.Service {
	at := func(a string, port uint16, kind datapath.ServiceKind) datapath.Frontend {
		return datapath.Frontend{Address: addr(a), Port: port, Protocol: protocol, Kind: kind}
	}
	return datapath.Service{
		ServiceID: datapath.ServiceID{Namespace: "default", Name: "echo", Protocol: protocol, V6: true},
		Frontends: []datapath.Frontend{
			at(cluster6, 80, datapath.ServiceClusterIP), at(nodeOutside6, 30080, datapath.ServiceNodePort), at("::", 30080, datapath.ServiceNodePort),
			at(vip6, 80, datapath.ServiceLoadBalancer),
		},
		Backends: backends,
	}
}

func TestServicesOfVersion6(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		outside := withOutside6(t, c, nil)
		here, there := c.nodes[0].pods[0], c.nodes[1].pods[0]
		must(t, c.nodes[1].datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: prefix("2001:db8:77::1/128"), Identity: 6}))
		client := c.nodes[0].pods[1].space
		for _, p := range []*pod{here, there} {
			p.space.echo6(t, 7000)
		}
		for name, server := range map[string]*pod{"here": here, "elsewhere": there} {
			for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				c.publish(t, echoService6(protocol, backend6(server, 7000)))
			}
			for who, ask := range map[string]struct {
				space *space
				to    []string
			}{
				"pod":     {client, []string{"[" + cluster6 + "]:80", "[" + vip6 + "]:80"}},
				"outside": {outside, []string{"[" + nodeOutside6 + "]:30080", "[" + vip6 + "]:80"}},
			} {
				for _, to := range ask.to {
					for _, network := range []string{"tcp6", "udp6"} {
						got, err := ask.space.try(network, to)
						if err != nil {
							t.Errorf("backend %s: %s by %s to %s: %v; drops %v and %v", name, who, network, to, err, drops(t, c.nodes[0]), drops(t, c.nodes[1]))
						} else if who == "outside" && name == "here" && network == "tcp6" && !strings.HasPrefix(got, "["+outsideAddress6+"]:") {
							t.Errorf("the pod saw %q, not the client", got)
						}
					}
				}
			}
		}
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			c.publish(t, echoService6(protocol, backend6(here, 7000)))
		}
		if got, err := here.space.try("tcp6", "["+cluster6+"]:80"); err != nil || !strings.HasPrefix(got, "[100::2a01]:") {
			t.Errorf("a pod to itself: %q, %v; drops %v", got, err, drops(t, c.nodes[0]))
		}
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			c.publish(t, echoService6(protocol))
		}
		for _, network := range []string{"tcp6", "udp6"} {
			for who, s := range map[string]*space{"pod": client, "outside": outside} {
				if _, err := s.try(network, "["+vip6+"]:80"); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s by %s without endpoints: %v, want a refusal at once", who, network, err)
				}
			}
		}
	})
}

func TestSocketsOfVersion6(t *testing.T) {
	c := newCluster(t, datapath.RoutingNative)
	n := c.nodes[0]
	requireCgroup(t, n)
	server := c.nodes[1].pods[0]
	server.space.echo6(t, 7000)
	must(t, n.datapath.UpsertService(ctx, echoService6(unix.IPPROTO_TCP, backend6(server, 7000))))
	for name, s := range map[string]*space{"pod": n.pods[0].space, "node": n.space} {
		if _, line := n.talk(t, s, "tcp6", "["+cluster6+"]:80"); !strings.HasPrefix(line, "peer ["+cluster6+"]:80 answered ") {
			t.Errorf("%s: %s", name, line)
		}
	}
	if _, line := n.talk(t, n.space, "tcp6", "[::1]:30080"); !strings.HasPrefix(line, "peer [::1]:30080 answered ") {
		t.Errorf("the node's loopback: %s", line)
	}
}
