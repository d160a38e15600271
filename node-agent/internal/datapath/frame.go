package datapath

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	etherHeader = 14
	etherIPv4   = 0x0800
	etherIPv6   = 0x86dd
	tcpSyn      = 2
	sctpInit    = 1
)

// packetSpec is a packet to be made: its first segment of a connection, or an echo request.
type packetSpec struct {
	sourceMAC, destMAC   [6]byte
	source, destination  netip.Addr
	protocol             uint8
	sourcePort, destPort uint16
	payload              []byte
}

// frame is the packet as Ethernet with correct checksums.
func (p packetSpec) frame() []byte {
	l4 := p.layer4()
	b := make([]byte, etherHeader, etherHeader+40+len(l4))
	copy(b, p.destMAC[:])
	copy(b[6:], p.sourceMAC[:])
	source, destination := p.source.AsSlice(), p.destination.AsSlice()
	protocol := p.protocol
	pseudo := uint32(len(l4))
	if p.source.Is4() {
		binary.BigEndian.PutUint16(b[12:], etherIPv4)
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, protocol
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(l4)))
		copy(ip[12:], source)
		copy(ip[16:], destination)
		binary.BigEndian.PutUint16(ip[10:], checksum(0, ip))
		b = append(b, ip...)
	} else {
		if protocol == unix.IPPROTO_ICMP {
			protocol = unix.IPPROTO_ICMPV6
		}
		binary.BigEndian.PutUint16(b[12:], etherIPv6)
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, protocol, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
		copy(ip[8:], source)
		copy(ip[24:], destination)
		b = append(b, ip...)
	}
	sum := sumOf(sumOf(pseudo+uint32(protocol), source), destination)
	if protocol == unix.IPPROTO_ICMP {
		sum = 0
	}
	if protocol == unix.IPPROTO_SCTP {
		binary.LittleEndian.PutUint32(l4[8:], crc32.Checksum(l4, crc32.MakeTable(crc32.Castagnoli)))
	}
	if at := checksumAt(protocol); at > 0 {
		binary.BigEndian.PutUint16(l4[at:], checksum(sum, l4))
	}
	return append(b, l4...)
}

func checksumAt(protocol uint8) int {
	switch protocol {
	case unix.IPPROTO_TCP:
		return 16
	case unix.IPPROTO_UDP:
		return 6
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return 2
	}
	return 0
}

func (p packetSpec) layer4() []byte {
	var b []byte
	switch p.protocol {
	case unix.IPPROTO_TCP:
		b = make([]byte, 20)
		b[12], b[13] = 5<<4, tcpSyn
		binary.BigEndian.PutUint16(b[14:], 64240)
	case unix.IPPROTO_UDP:
		b = make([]byte, 8)
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(p.payload)))
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		b = make([]byte, 8)
		b[0] = 8
		if p.source.Is6() {
			b[0] = 128
		}
		binary.BigEndian.PutUint16(b[4:], p.sourcePort)
		return append(b, p.payload...)
	default:
		// SCTP, with a chunk that opens an association.
		b = make([]byte, 16)
		b[12] = sctpInit
		binary.BigEndian.PutUint16(b[14:], uint16(4+len(p.payload)))
	}
	binary.BigEndian.PutUint16(b, p.sourcePort)
	binary.BigEndian.PutUint16(b[2:], p.destPort)
	return append(b, p.payload...)
}

func sumOf(sum uint32, b []byte) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	return sum
}

func checksum(sum uint32, b []byte) uint16 {
	sum = sumOf(sum, b)
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// headers are what the walk needs to know of a frame.
type headers struct {
	source, destination  netip.Addr
	protocol             uint8
	sourcePort, destPort uint16
	// payload is the offset behind the layer 4 header of UDP.
	payload int
}

// parseFrame reads addresses and ports; false for what is no IP packet.
func parseFrame(b []byte) (h headers, ok bool) {
	if len(b) < etherHeader+20 {
		return h, false
	}
	l4 := etherHeader
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherIPv4:
		ip := b[etherHeader:]
		h.source, h.destination = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		h.protocol = ip[9]
		l4 += int(ip[0]&15) * 4
	case etherIPv6:
		ip := b[etherHeader:]
		if len(ip) < 40 {
			return h, false
		}
		h.source, h.destination = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		h.protocol = ip[6]
		l4 += 40
	default:
		return h, false
	}
	if len(b) >= l4+4 && (h.protocol == unix.IPPROTO_TCP || h.protocol == unix.IPPROTO_UDP || h.protocol == unix.IPPROTO_SCTP) {
		h.sourcePort, h.destPort = binary.BigEndian.Uint16(b[l4:]), binary.BigEndian.Uint16(b[l4+2:])
	}
	h.payload = l4 + 8
	return h, true
}

// inTunnel puts a frame into the tunnel's headers, as the tunnel device would.
func inTunnel(frame []byte, from, to netip.Addr, port uint16, vni uint32) []byte {
	payload := make([]byte, 8, 8+len(frame))
	payload[0] = 8
	binary.BigEndian.PutUint32(payload[4:], vni<<8)
	p := packetSpec{source: from, destination: to, protocol: unix.IPPROTO_UDP, sourcePort: 0xc000, destPort: port, payload: append(payload, frame...)}
	out := p.frame()
	// The programs take no packet with a checksum of its own out of the tunnel.
	l4 := etherHeader + 20
	if from.Is6() {
		l4 = etherHeader + 40
	}
	out[l4+6], out[l4+7] = 0, 0
	return out
}
