package datapath

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// flow is a packet of either family with checksums that are right.
type flow struct {
	source, destination string
	protocol            uint8
	sourcePort, port    uint16
	flags               uint8
	// kind of an ICMP message; its identifier is sourcePort. quoted makes it an error about that packet.
	kind    uint8
	quoted  *flow
	payload int
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

func wordSum(b []byte) (sum uint32) {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	return sum
}

func (f flow) v6() bool { return netip.MustParseAddr(f.source).Is6() }

// checksumOffset is the offset within the layer 4 header.
func checksumOffset(protocol uint8) int {
	switch protocol {
	case unix.IPPROTO_TCP:
		return 16
	case unix.IPPROTO_UDP:
		return 6
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return 2
	}
	return -1
}

func pseudo(packet []byte, protocol uint8, length int) uint32 {
	if protocol == unix.IPPROTO_ICMP {
		return 0
	}
	if packet[0]>>4 == 6 {
		return wordSum(packet[8:40]) + uint32(protocol) + uint32(length)
	}
	return wordSum(packet[12:20]) + uint32(protocol) + uint32(length)
}

// packet is the frame without its Ethernet header.
func (f flow) packet() []byte {
	var l4 []byte
	switch f.protocol {
	case unix.IPPROTO_TCP:
		l4 = make([]byte, 20)
		l4[12], l4[13] = 5<<4, f.flags
	case unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		l4 = make([]byte, 8)
	case unix.IPPROTO_SCTP:
		l4 = make([]byte, 16)
		l4[12] = sctpInit
		if f.flags != 0 {
			l4[12] = sctpChunks[f.flags]
		}
	}
	if f.protocol == unix.IPPROTO_ICMP || f.protocol == unix.IPPROTO_ICMPV6 {
		l4[0] = f.kind
		binary.BigEndian.PutUint16(l4[4:], f.sourcePort)
		if f.quoted != nil {
			l4[4], l4[5] = 0, 0
			l4 = append(l4, f.quoted.packet()...)
		}
	} else {
		binary.BigEndian.PutUint16(l4, f.sourcePort)
		binary.BigEndian.PutUint16(l4[2:], f.port)
	}
	for i := range f.payload {
		l4 = append(l4, byte(i))
	}
	if f.protocol == unix.IPPROTO_UDP {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
	if f.protocol == unix.IPPROTO_SCTP {
		binary.LittleEndian.PutUint32(l4[8:], sctpSum(l4))
	}
	var ip []byte
	s, d := netip.MustParseAddr(f.source).AsSlice(), netip.MustParseAddr(f.destination).AsSlice()
	if f.v6() {
		ip = append(append(make([]byte, 8, 40), s...), d...)
		ip[0], ip[6], ip[7] = 0x60, f.protocol, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
	} else {
		ip = append(append(make([]byte, 12, 20), s...), d...)
		ip[0], ip[8], ip[9] = 0x45, 64, f.protocol
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(l4)))
		binary.BigEndian.PutUint16(ip[10:], ^fold(wordSum(ip)))
	}
	if at := checksumOffset(f.protocol); at >= 0 {
		binary.BigEndian.PutUint16(l4[at:], ^fold(wordSum(l4)+pseudo(ip, f.protocol, len(l4))))
	}
	return append(ip, l4...)
}

func (f flow) frame() []byte {
	b := make([]byte, 14)
	binary.BigEndian.PutUint16(b[12:], 0x0800)
	if f.v6() {
		binary.BigEndian.PutUint16(b[12:], 0x86dd)
	}
	return append(b, f.packet()...)
}

// dissect takes a packet apart and complains about checksums that are wrong, those of what it quotes included.
func dissect(t testing.TB, packet []byte) flow {
	t.Helper()
	var f flow
	var l4 []byte
	if packet[0]>>4 == 6 {
		f.protocol, l4 = packet[6], packet[40:]
		s, _ := netip.AddrFromSlice(packet[8:24])
		d, _ := netip.AddrFromSlice(packet[24:40])
		f.source, f.destination = s.String(), d.String()
	} else {
		if fold(wordSum(packet[:20])) != 0xffff {
			t.Errorf("the header's checksum is wrong: % x", packet[:20])
		}
		f.protocol, l4 = packet[9], packet[20:]
		s, _ := netip.AddrFromSlice(packet[12:16])
		d, _ := netip.AddrFromSlice(packet[16:20])
		f.source, f.destination = s.String(), d.String()
	}
	if at := checksumOffset(f.protocol); at >= 0 && fold(wordSum(l4)+pseudo(packet, f.protocol, len(l4))) != 0xffff {
		t.Errorf("the checksum of protocol %d is wrong in % x", f.protocol, packet)
	}
	if f.protocol == unix.IPPROTO_ICMP || f.protocol == unix.IPPROTO_ICMPV6 {
		f.kind, f.sourcePort = l4[0], binary.BigEndian.Uint16(l4[4:])
		if isError := f.protocol == unix.IPPROTO_ICMP && (f.kind == 3 || f.kind == 11) || f.protocol == unix.IPPROTO_ICMPV6 && f.kind < 128; isError {
			q := dissect(t, l4[8:])
			f.quoted = &q
		}
		return f
	}
	if f.protocol == unix.IPPROTO_SCTP && len(l4) >= 16 && binary.LittleEndian.Uint32(l4[8:]) != sctpSum(l4) {
		t.Errorf("the checksum of SCTP is wrong in % x", packet)
	}
	f.sourcePort, f.port = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	return f
}

func (f flow) answer() flow {
	a := f
	a.source, a.destination, a.sourcePort, a.port = f.destination, f.source, f.port, f.sourcePort
	switch f.kind {
	case 8:
		a.kind = 0
	case 128:
		a.kind = 129
	}
	if f.protocol == unix.IPPROTO_ICMP || f.protocol == unix.IPPROTO_ICMPV6 {
		a.sourcePort, a.port = f.sourcePort, 0
	}
	return a
}
