package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	ipv6ReceiveOriginal = 74 // IPV6_RECVORIGDSTADDR
	ipv6Original        = 74 // IPV6_ORIGDSTADDR
)

// ProxyPackets is a transparent socket for datagrams.
type ProxyPackets struct{ conn *net.UDPConn }

// ListenProxyPackets opens the sockets for datagrams of an egress proxy, of both families on a port of the loopback
// addresses. It works in the calling thread's network namespace.
func ListenProxyPackets(ctx context.Context, port uint16) ([]*ProxyPackets, error) {
	var out []*ProxyPackets
	for _, family := range []struct {
		network, address      string
		level, option, number int
	}{{"udp4", "127.0.0.1", unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1}, {"udp6", "::1", unix.SOL_IPV6, ipv6ReceiveOriginal, 1}} {
		original := func(fd int) error {
			if err := unix.SetsockoptInt(fd, family.level, family.option, family.number); err != nil {
				return fmt.Errorf("asking for the destinations of datagrams: %w", err)
			}
			return nil
		}
		config := net.ListenConfig{Control: control(Egress, original)}
		c, err := config.ListenPacket(ctx, family.network, netip.AddrPortFrom(netip.MustParseAddr(family.address), port).String())
		if err != nil {
			if len(out) > 0 && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
				break
			}
			for _, open := range out {
				open.Close()
			}
			return nil, fmt.Errorf("opening the socket of a proxy for datagrams: %w", err)
		}
		out = append(out, &ProxyPackets{c.(*net.UDPConn)})
	}
	return out, nil
}

// ReadFrom gives a datagram with its source and the destination that it was sent to.
func (p *ProxyPackets) ReadFrom(b []byte) (n int, client, server netip.AddrPort, err error) {
	var control [128]byte
	n, controlled, _, from, err := p.conn.ReadMsgUDPAddrPort(b, control[:])
	if err != nil {
		return 0, client, server, err
	}
	client = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	messages, err := unix.ParseSocketControlMessage(control[:controlled])
	if err != nil {
		return 0, client, server, fmt.Errorf("reading the destination of a datagram: %w", err)
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_ORIGDSTADDR && len(m.Data) >= 8:
			server = netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.Data[4:8])), binary.BigEndian.Uint16(m.Data[2:4]))
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == ipv6Original && len(m.Data) >= 24:
			server = netip.AddrPortFrom(netip.AddrFrom16([16]byte(m.Data[8:24])), binary.BigEndian.Uint16(m.Data[2:4]))
		}
	}
	if !server.IsValid() {
		return 0, client, server, errors.New("a datagram came without its destination")
	}
	return n, client, server, nil
}

// Close closes the socket.
func (p *ProxyPackets) Close() error { return p.conn.Close() }

// AnswerProxy opens a socket with a server's address, to answer a pod's datagrams with. It works in the calling thread's
// network namespace.
func AnswerProxy(ctx context.Context, server netip.AddrPort) (net.PacketConn, error) {
	network := "udp4"
	if server.Addr().Is6() {
		network = "udp6"
	}
	reuse := func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }
	config := net.ListenConfig{Control: control(Egress, reuse)}
	c, err := config.ListenPacket(ctx, network, server.String())
	if err != nil {
		return nil, fmt.Errorf("taking the address %s: %w", server, err)
	}
	return c, nil
}
