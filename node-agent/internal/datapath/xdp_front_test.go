package datapath

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestXDPTellsTheFront(t *testing.T) {
	x := newXDPRig(t, func(c *Config) { c.LoadBalancer.Mode = "dsr" })
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		x.serve(protocol, backend4, backend6)
	}
	eachService(t, func(t *testing.T, f flow) {
		packet := x.sent("opening", x.uplink, f, xdpRedirect, macNode2)
		plain := frontOf(t, packet, front4, front6)
		out := dissect(t, plain)
		if out.source != f.source || out.sourcePort != f.sourcePort || out.port != 7000 {
			t.Errorf("went on as %+v", out)
		}
		// tc writes the same.
		again := f
		again.sourcePort++
		_, frame := x.run("from_netdev", again.frame())
		if at := len(packet) - len(plain); !bytes.Equal(optionOf(frame[14:])[:at], optionOf(packet)[:at]) {
			t.Errorf("tc wrote % x, XDP % x", optionOf(frame[14:])[:at], optionOf(packet)[:at])
		}
		f.flags &^= syn
		f.flags |= ack
		packet = x.sent("going on", x.uplink, f, xdpRedirect, macNode2)
		if f.protocol == unix.IPPROTO_UDP {
			packet = frontOf(t, packet, front4, front6)
		}
		if out := dissect(t, packet); out.port != 7000 {
			t.Errorf("went on as %+v", out)
		}
	})
}

func optionOf(packet []byte) []byte {
	if packet[0]>>4 == 6 {
		return packet[40:]
	}
	return packet[20:]
}

// frontOf expects a packet to tell this service's address, and takes that out of it.
func frontOf(t *testing.T, packet []byte, v4, v6 string) []byte {
	t.Helper()
	plain := bytes.Clone(packet)
	if packet[0]>>4 == 6 {
		front := netip.MustParseAddr(v6).As16()
		want := slices.Concat([]byte{packet[40], 2, 0x1b, 20}, front[:], []byte{0, 80, 0, 0})
		if packet[6] != unix.IPPROTO_DSTOPTS || !bytes.Equal(packet[40:64], want) || int(binary.BigEndian.Uint16(packet[4:])) != len(packet)-40 {
			t.Fatalf("header % x, option % x, want % x", packet[:40], packet[40:64], want)
		}
		plain[6] = packet[40]
		binary.BigEndian.PutUint16(plain[4:], uint16(len(packet)-64))
		return slices.Concat(plain[:40], plain[64:])
	}
	front := netip.MustParseAddr(v4).As4()
	want := slices.Concat([]byte{0x9a, 8, 0, 80}, front[:])
	if packet[0] != 0x47 || !bytes.Equal(packet[20:28], want) || int(binary.BigEndian.Uint16(packet[2:])) != len(packet) || fold(wordSum(packet[:28])) != 0xffff {
		t.Fatalf("header % x, want the option % x", packet[:28], want)
	}
	plain[0] = 0x45
	binary.BigEndian.PutUint16(plain[2:], uint16(len(packet)-8))
	plain[10], plain[11] = 0, 0
	binary.BigEndian.PutUint16(plain[10:], ^fold(wordSum(plain[:20])))
	return slices.Concat(plain[:20], plain[28:])
}

// The other end: what a packet tells is believed of services only, and the pod's answer has that address.
func TestFrontIsHeard(t *testing.T) {
	x := newXDPRig(t, func(c *Config) { c.LoadBalancer.Mode = "dsr" })
	far := newTeller(x)
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		x.serve(protocol, backend4, backend6)
	}
	x.endpoint(1, podA, macA, func(e *Endpoint) { e.Addresses = append(e.Addresses, netip.MustParseAddr(podOfNode6)) })
	port := uint16(40000)
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for _, v6 := range []bool{false, true} {
			for front, believed := range map[string]bool{front4: true, "198.18.0.99": false, "10.96.0.10": false, front6: true, "2001:db8:18::99": false} {
				if netip.MustParseAddr(front).Is6() != v6 {
					continue
				}
				port++
				f := flow{source: client4, destination: podA, protocol: protocol, sourcePort: port, port: 7000}
				if v6 {
					f.source, f.destination = client6, podOfNode6
				}
				if protocol == unix.IPPROTO_TCP {
					f.flags = syn
				}
				if verdict, _ := x.run("from_netdev", far.tell(f, front)); verdict != verdictRedirect {
					t.Fatalf("%+v: verdict %d, counters %v", f, int32(verdict), x.counters())
				}
				answer := f.answer()
				if f.flags != 0 {
					answer.flags = syn | ack
				}
				frame := answer.frame()
				copy(frame[6:], macA[:])
				_, out := x.run("from_pod", frame)
				want := f.destination
				if believed {
					want = front
				}
				if got := dissect(t, out[14:]); got.source != want {
					t.Errorf("told %s by protocol %d: the pod's answer came from %s, want %s", front, protocol, got.source, want)
				}
			}
		}
	}
}

const podOfNode6 = "fd00:10:77:1::11"

// teller makes packets that tell a service's address, as another node does.
type teller struct{ x *xdpRig }

func newTeller(x *xdpRig) teller { return teller{x} }

func (teller) tell(f flow, front string) []byte {
	frame := f.frame()
	if f.v6() {
		a := netip.MustParseAddr(front).As16()
		option := slices.Concat([]byte{f.protocol, 2, 0x1b, 20}, a[:], []byte{0, 80, 0, 0})
		frame[14+6] = unix.IPPROTO_DSTOPTS
		binary.BigEndian.PutUint16(frame[14+4:], binary.BigEndian.Uint16(frame[14+4:])+24)
		return slices.Concat(frame[:54], option, frame[54:])
	}
	a := netip.MustParseAddr(front).As4()
	frame = slices.Concat(frame[:34], []byte{0x9a, 8, 0, 80}, a[:], frame[34:])
	frame[14] = 0x47
	binary.BigEndian.PutUint16(frame[14+2:], binary.BigEndian.Uint16(frame[14+2:])+8)
	frame[14+10], frame[14+11] = 0, 0
	binary.BigEndian.PutUint16(frame[14+10:], ^fold(wordSum(frame[14:42])))
	return frame
}

// A datagram that does not fit with the option is answered with what does, as the client sent it.
func TestFrontDoesNotFit(t *testing.T) {
	x := newXDPRig(t, func(c *Config) { c.LoadBalancer.Mode = "dsr" })
	x.serve(unix.IPPROTO_UDP, backend4, backend6)
	for _, test := range []struct {
		name     string
		flow     flow
		fits     int // octets of data that fit with the option: MTU 1450
		fragment bool
	}{
		{"v4", flow{source: client4, destination: front4}, 1450 - 28 - 8, false},
		{"v4, may be fragmented", flow{source: client4, destination: front4}, 1450 - 28 - 8, true},
		{"v6", flow{source: client6, destination: front6}, 1450 - 48 - 24, false},
	} {
		for _, more := range []int{0, 1} {
			f := test.flow
			f.protocol, f.sourcePort, f.port, f.payload = unix.IPPROTO_UDP, 40000, 80, test.fits+more
			frame := frameTo(x.wire, f)
			if !f.v6() && !test.fragment {
				frame[14+6] = 0x40
				frame[14+10], frame[14+11] = 0, 0
				binary.BigEndian.PutUint16(frame[14+10:], ^fold(wordSum(frame[14:34])))
			}
			before := x.counters()[157]
			verdict, out := x.run("from_netdev", frame)
			if answered := more > 0 && !test.fragment; !answered {
				if x.counters()[157] != before {
					t.Errorf("%d octets were refused", f.payload)
				}
				continue
			}
			if verdict != verdictRedirect || x.counters()[157] != before+1 || !bytes.Equal(out[:6], macClient) {
				t.Fatalf("%s: verdict %d, to %x, counters %v", test.name, int32(verdict), out[:6], x.counters())
			}
			packet, sent := out[14:], frame[14:]
			head, protocol, mtu, source, destination := 20, uint8(unix.IPPROTO_ICMP), uint32(1450-8), packet[12:16], packet[16:20]
			if f.v6() {
				head, protocol, mtu, source, destination = 40, unix.IPPROTO_ICMPV6, 1450-24, packet[8:24], packet[24:40]
			}
			icmp := packet[head:]
			if told := binary.BigEndian.Uint32(icmp[4:]); told != mtu || fold(wordSum(icmp)+pseudo(packet, protocol, len(icmp))) != 0xffff {
				t.Errorf("%s: told %d, want %d; or a wrong checksum: % x", test.name, told, mtu, packet)
			}
			if !bytes.Equal(source, netip.MustParseAddr(f.destination).AsSlice()) || !bytes.Equal(destination, netip.MustParseAddr(f.source).AsSlice()) || !bytes.Equal(icmp[8:56], sent[:48]) {
				t.Errorf("%s: answered % x to % x", test.name, packet[:96], sent[:48])
			}
		}
	}
}
