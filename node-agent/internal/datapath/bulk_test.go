package datapath_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// deviceSent is how many packets the node's tunnel device has sent.
func (n *node) deviceSent() (sent uint64) {
	n.t.Helper()
	must(n.t, n.space.in(func() error {
		l, err := netlink.LinkByName("fairlead_vxlan")
		if err == nil {
			sent = l.Attrs().Statistics.TxPackets
		}
		return err
	}))
	return sent
}

// download has the server send the data and compares what arrives.
func download(t *testing.T, client, server *space, address string, data []byte) {
	t.Helper()
	var l net.Listener
	must(t, server.in(func() (err error) { l, err = net.Listen("tcp", ":0"); return err }))
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = c.Write(data)
			c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	c, err := client.dial("tcp", net.JoinHostPort(address, port))
	must(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d of %d bytes, the same: %v, %v", len(got), len(data), bytes.Equal(got, data), err)
	}
}

// Large transfers by the tunnel, with the kernel's segmentation and without; packets for which the way's MTU is too
// small; and that only those are left to the tunnel device.
func TestBulkThroughTunnel(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	a, b := c.nodes[0].pods[0], c.nodes[1].pods[0]
	if err := a.space.ping(b.address.String()); err != nil {
		t.Fatal(err) // The nodes know each other's hardware addresses from here on.
	}
	if err := b.space.ping(a.address.String()); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	switchOffloads := func(state string) {
		for _, s := range []*space{a.space, b.space, c.nodes[0].space, c.nodes[1].space} {
			must(t, s.in(func() error {
				return exec.Command("ethtool", "-K", "eth0", "tso", state, "gso", state, "gro", state).Run()
			}))
		}
	}
	before := c.nodes[1].deviceSent()
	for _, state := range []string{"as they come", "off", "on"} {
		t.Run("offloads "+state, func(t *testing.T) {
			if state != "as they come" {
				if _, err := exec.LookPath("ethtool"); err != nil {
					t.Skip("no ethtool on this machine")
				}
				switchOffloads(state)
			}
			download(t, a.space, b.space, b.address.String(), data)
		})
	}
	if sent := c.nodes[1].deviceSent() - before; sent > 0 {
		t.Errorf("%d packets went by the tunnel device", sent)
	}
	t.Run("host to another node's pod", func(t *testing.T) {
		download(t, c.nodes[0].space, b.space, b.address.String(), data)
	})
	t.Run("larger than the way's MTU", func(t *testing.T) {
		b.space.echoUDP(t, ":7000")
		must(t, a.space.in(func() error {
			return exec.Command("ip", "route", "change", "default", "via", a.node.config.RouterAddress.String(), "dev", "eth0", "mtu", "1500").Run()
		}))
		before := c.nodes[0].deviceSent()
		conn, err := a.space.dial("udp4", b.address.String()+":7000")
		must(t, err)
		defer conn.Close()
		raw, err := conn.(*net.UDPConn).SyscallConn()
		must(t, err)
		// May be fragmented; what must not be is answered, see pmtu_test.go.
		must(t, raw.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT); err != nil {
				t.Error(err)
			}
		}))
		if answer, err := ask(conn, strings.Repeat("x", 1460)); err != nil || len(answer) != 1460 {
			t.Errorf("%d bytes, %v", len(answer), err)
		}
		if c.nodes[0].deviceSent() == before {
			t.Error("the tunnel device, which fragments, was not used")
		}
		download(t, a.space, b.space, b.address.String(), data)
	})
}
