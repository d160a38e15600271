package datapath_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// overlayPacket is VXLAN with an inner datagram, as another node would send it.
func overlayPacket(vni uint32, source, destination [4]byte, port uint16) []byte {
	b := make([]byte, 8+14+20+8)
	b[0] = 8
	binary.BigEndian.PutUint32(b[4:], vni<<8)
	binary.BigEndian.PutUint16(b[8+12:], 0x0800)
	ip := b[22:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], 28)
	copy(ip[12:], source[:])
	copy(ip[16:], destination[:])
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(ip[20:], 40000)
	binary.BigEndian.PutUint16(ip[22:], port)
	binary.BigEndian.PutUint16(ip[24:], 8)
	return b
}

func TestIdentityOfTheOverlay(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	server, sender, far := c.nodes[0].pods[0], c.nodes[1], c.nodes[1].pods[0]
	d := c.nodes[0].datapath
	e := server.endpoint
	e.PolicyIngress = true
	must(t, d.UpsertEndpoint(ctx, e))
	must(t, d.ApplyPolicy(ctx, []datapath.PolicyEntry{
		line(server, far.endpoint.Identity, datapath.Ingress, unix.IPPROTO_UDP, 7000, false, 1),
		line(server, 6, datapath.Ingress, unix.IPPROTO_TCP, 7000, false, 2),
		line(server, 1, datapath.Ingress, unix.IPPROTO_UDP, 7000, false, 3),
	}, nil))
	var received net.PacketConn
	must(t, server.space.in(func() (err error) { received, err = net.ListenPacket("udp4", ":7000"); return err }))
	defer received.Close()
	from := "192.0.2.2"
	send := func(packet []byte) {
		must(t, sender.space.in(func() error {
			conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8472})
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write(packet)
			return err
		}))
	}
	drops := func(reason uint8) uint64 {
		counts, err := d.Drops()
		must(t, err)
		var n uint64
		for _, c := range counts {
			if c.Reason == reason {
				n += c.Packets
			}
		}
		return n
	}
	to := server.address.As4()
	for _, test := range []struct {
		name   string
		vni    uint32
		source [4]byte
		reason uint8
	}{
		{"the identity that policy allows", far.endpoint.Identity, [4]byte{10, 77, 2, 50}, 0},
		{"another identity", 4242, [4]byte{10, 77, 2, 51}, 133},
		{"one that claims to be our own host is a remote node", 1, [4]byte{10, 77, 2, 52}, 133},
		{"no identity", 0, [4]byte{10, 77, 2, 53}, 183},
		{"a reserved identity", 4, [4]byte{10, 77, 2, 54}, 171},
		{"the address of one of our own pods", far.endpoint.Identity, c.nodes[0].pods[1].address.As4(), 132},
		{"a node's identity from an address of no node", 6, [4]byte{10, 77, 2, 55}, 172},
		{"an allowed pod's identity from an address of no node", far.endpoint.Identity, [4]byte{10, 77, 2, 56}, 172},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.reason == 172 && from != "192.0.2.99" {
				must(t, sender.space.in(func() error {
					l, err := netlink.LinkByName("eth0")
					if err != nil {
						return err
					}
					a, _ := netlink.ParseAddr("192.0.2.99/24")
					return netlink.AddrAdd(l, a)
				}))
				from = "192.0.2.99"
			}
			before := drops(test.reason)
			send(overlayPacket(test.vni, test.source, to, 7000))
			if test.reason == 0 {
				_ = received.SetReadDeadline(time.Now().Add(time.Second))
				if _, _, err := received.ReadFrom(make([]byte, 10)); err != nil {
					t.Errorf("not delivered: %v", err)
				}
				return
			}
			for deadline := time.Now().Add(time.Second); drops(test.reason) == before; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("not dropped for reason %d", test.reason)
				}
			}
		})
	}
	// The other node's own processes are remote-node.
	server.space.echoTCP(t, ":7000")
	if _, err := sender.space.try("tcp4", fmt.Sprintf("%s:7000", server.address)); err != nil {
		t.Errorf("from the other node: %v", err)
	}
}
