package datapath_test

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// A pod that believes in a larger MTU than the tunnel's is told, by ICMP of its packet's family; a datagram that must not be
// fragmented is refused, or sent in pieces, from then on.
func TestTooLargeForTheTunnel(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	a, b := c.nodes[0].pods[0], c.nodes[1].pods[0]
	b.space.echoUDP(t, ":7000")
	e := a.endpoint
	// Default deny: what answers a pod's own packet is not the node knocking.
	e.PolicyIngress = true
	must(t, c.nodes[0].datapath.UpsertEndpoint(ctx, e))
	for _, test := range []struct {
		network, flag string
		router, to    netip.Addr
	}{
		{"udp4", "-4", c.nodes[0].config.RouterAddress, b.address},
		{"udp6", "-6", c.nodes[0].config.RouterAddress6, b.address6},
	} {
		t.Run(test.network, func(t *testing.T) {
			must(t, a.space.in(func() error {
				return exec.Command("ip", test.flag, "route", "change", "default", "via", test.router.String(), "dev", "eth0", "mtu", "1500").Run()
			}))
			conn, err := a.space.dial(test.network, netip.AddrPortFrom(test.to, 7000).String())
			must(t, err)
			defer conn.Close()
			if test.network == "udp6" {
				raw, err := conn.(*net.UDPConn).SyscallConn()
				must(t, err)
				must(t, raw.Control(func(fd uintptr) {
					if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1); err != nil {
						t.Error(err)
					}
				}))
			}
			large := strings.Repeat("x", 1440)
			if answer, err := ask(conn, large); err == nil {
				t.Fatalf("%d bytes came back", len(answer))
			}
			// The kernel of the pod knows the way's MTU now.
			deadline := time.Now().Add(2 * time.Second)
			for {
				_, err := conn.Write([]byte(large))
				if errors.Is(err, unix.EMSGSIZE) {
					break
				}
				if test.network == "udp4" && err == nil && knownMTU(t, a, test.to) == c.nodes[0].datapath.MTU() {
					break // sent in fragments that fit
				}
				if time.Now().After(deadline) {
					t.Fatalf("still sent as it is: %v, the route's MTU is %d", err, knownMTU(t, a, test.to))
				}
			}
			if mtu := knownMTU(t, a, test.to); mtu != c.nodes[0].datapath.MTU() {
				t.Errorf("the pod was told %d, want %d", mtu, c.nodes[0].datapath.MTU())
			}
		})
	}
	counts, err := c.nodes[0].datapath.Drops()
	must(t, err)
	var told uint64
	for _, d := range counts {
		if d.Reason == 157 {
			told += d.Packets
		}
	}
	if told < 2 {
		t.Errorf("counted %d times", told)
	}
}

// knownMTU is that of the pod's route to an address.
func knownMTU(t *testing.T, p *pod, to netip.Addr) (mtu int) {
	t.Helper()
	must(t, p.space.in(func() error {
		out, err := exec.Command("ip", "route", "get", to.String()).Output()
		fields := strings.Fields(string(out))
		for i, f := range fields {
			if f == "mtu" && i+1 < len(fields) {
				mtu, err = strconv.Atoi(fields[i+1])
			}
		}
		return err
	}))
	return mtu
}
