package datapath

import (
	"context"
	"encoding/binary"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

type frame struct {
	mac                  [6]byte
	source, destination  string
	protocol             uint8
	sourcePort, destPort uint16
	flags, icmpType      uint8
	payload              []byte
	// extensions of version 6, of which the last names the protocol; and the first one's number.
	extensions     []byte
	firstExtension uint8
}

// sctpChunks are the chunks of SCTP that do what these flags do in TCP.
var sctpChunks = map[uint8]uint8{syn: 1, syn | ack: 2, ack: 3, rst: 6, fin: 7, fin | ack: 8}

func (f frame) bytes() []byte {
	b := make([]byte, 14, 128)
	copy(b[6:], f.mac[:])
	binary.BigEndian.PutUint16(b[12:], 0x0800)
	var l4 []byte
	switch f.protocol {
	case unix.IPPROTO_TCP:
		l4 = make([]byte, 20)
		binary.BigEndian.PutUint16(l4, f.sourcePort)
		binary.BigEndian.PutUint16(l4[2:], f.destPort)
		l4[12], l4[13] = 5<<4, f.flags
	case unix.IPPROTO_UDP:
		l4 = make([]byte, 8)
		binary.BigEndian.PutUint16(l4, f.sourcePort)
		binary.BigEndian.PutUint16(l4[2:], f.destPort)
		binary.BigEndian.PutUint16(l4[4:], 8)
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		l4 = make([]byte, 8)
		l4[0] = f.icmpType
		binary.BigEndian.PutUint16(l4[4:], f.sourcePort)
	case unix.IPPROTO_SCTP:
		l4 = make([]byte, 16)
		binary.BigEndian.PutUint16(l4, f.sourcePort)
		binary.BigEndian.PutUint16(l4[2:], f.destPort)
		l4[12] = sctpChunks[f.flags]
	default:
		l4 = make([]byte, 8)
	}
	l4 = append(l4, f.payload...)
	if f.protocol == unix.IPPROTO_SCTP {
		binary.LittleEndian.PutUint32(l4[8:], sctpSum(l4))
	}
	source, destination := netip.MustParseAddr(f.source), netip.MustParseAddr(f.destination)
	if source.Is6() {
		binary.BigEndian.PutUint16(b[12:], 0x86dd)
		l4 = append(slices.Clone(f.extensions), l4...)
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, f.protocol, 64
		if len(f.extensions) > 0 {
			ip[6] = f.firstExtension
		}
		binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
		copy(ip[8:], source.AsSlice())
		copy(ip[24:], destination.AsSlice())
		return append(append(b, ip...), l4...)
	}
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, f.protocol
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(l4)))
	copy(ip[12:], source.AsSlice())
	copy(ip[16:], destination.AsSlice())
	return append(append(b, ip...), l4...)
}

// skb is the kernel's struct __sk_buff as far as BPF_PROG_TEST_RUN takes it.
type skb struct {
	Len, PktType, Mark, QueueMapping, Protocol, VlanPresent, VlanTCI, VlanProto, Priority uint32
	IngressIfindex, Ifindex                                                               uint32
	Rest                                                                                  [148]byte
}

var _ = unsafe.Sizeof(skb{})

func (r *rig) run(program string, data []byte) (uint32, []byte) {
	r.t.Helper()
	// The test runner changes ifindex only together with a device of the thread's namespace.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out := make([]byte, len(data)+256)
	options := &ebpf.RunOptions{Data: data, DataOut: out, Context: skb{Ifindex: r.ifindex}}
	verdict, err := r.program(program).Run(options)
	r.must(err)
	return verdict, options.DataOut
}

func (r *rig) expect(what, program string, f frame, want uint32) []byte {
	r.t.Helper()
	got, out := r.run(program, f.bytes())
	if got != want {
		r.t.Errorf("%s: verdict %d, want %d; counters %+v", what, int32(got), int32(want), r.counters())
	}
	return out
}

func (r *rig) counters() map[uint8]uint64 {
	counts, err := r.Drops()
	r.must(err)
	out := map[uint8]uint64{}
	for _, c := range counts {
		out[c.Reason] += c.Packets
	}
	return out
}

func (r *rig) expectDrop(what, program string, f frame, reason uint8) {
	r.t.Helper()
	before := r.counters()[reason]
	r.expect(what, program, f, verdictShot)
	if after := r.counters()[reason]; after != before+1 {
		r.t.Errorf("%s: reason %d was counted %d times, want once; counters %+v", what, reason, after-before, r.counters())
	}
}

const syn, ack = 2, 16

func TestFromPodPolicyAndSources(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyEgress = true })
	r.endpoint(2, "10.77.1.12", macB, func(e *Endpoint) { e.PolicyIngress = true })
	f := frame{mac: macA, source: "10.77.1.11", destination: "10.77.1.12", protocol: unix.IPPROTO_TCP, sourcePort: 40000, destPort: 80, flags: syn}
	r.expectDrop("egress default deny", "from_pod", f, 133)
	spoof := f
	spoof.source = "10.77.1.99"
	r.expectDrop("an address of nobody", "from_pod", spoof, 132)
	spoof = f
	spoof.mac = macB
	r.expectDrop("another's hardware address", "from_pod", spoof, 130)
	ctx := context.Background()
	key := PolicyKey{Endpoint: 1, Identity: 1002, Direction: Egress, Protocol: unix.IPPROTO_TCP, Port: 80, PortPrefix: 16}
	r.must(r.ApplyPolicy(ctx, []PolicyEntry{{key, PolicyValue{Rule: 5}}}, nil))
	r.expectDrop("ingress default deny", "from_pod", f, 133)
	in := PolicyKey{Endpoint: 2, Direction: Ingress, Protocol: unix.IPPROTO_TCP}
	r.must(r.ApplyPolicy(ctx, []PolicyEntry{{in, PolicyValue{Rule: 6}}}, nil))
	r.expect("allowed", "from_pod", f, verdictRedirect)
	reply := frame{mac: macB, source: "10.77.1.12", destination: "10.77.1.11", protocol: unix.IPPROTO_TCP, sourcePort: 80, destPort: 40000, flags: syn | ack}
	r.expect("its reply", "from_pod", reply, verdictRedirect)
	deny := key
	deny.Identity = 0
	r.must(r.ApplyPolicy(ctx, []PolicyEntry{{deny, PolicyValue{Rule: 7, Deny: true}}}, nil))
	f.flags = ack
	r.expectDrop("denied since", "from_pod", f, 181)
	r.expectDrop("and its replies", "from_pod", reply, 181)
	other := f
	other.protocol = 50
	r.expectDrop("a protocol without ports", "from_pod", other, 142)
}

func TestPortPrefixes(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyEgress = true })
	r.endpoint(2, "10.77.1.12", macB, nil)
	key := PolicyKey{Endpoint: 1, Direction: Egress, Protocol: unix.IPPROTO_UDP, Port: 8000, PortPrefix: 13}
	r.must(r.ApplyPolicy(context.Background(), []PolicyEntry{{key, PolicyValue{Rule: 5}}}, nil))
	f := frame{mac: macA, source: "10.77.1.11", destination: "10.77.1.12", protocol: unix.IPPROTO_UDP, sourcePort: 40000}
	for port, allowed := range map[uint16]bool{7999: false, 8000: true, 8007: true, 8008: false} {
		f.destPort = port
		want := uint32(verdictShot)
		if allowed {
			want = verdictRedirect
		}
		r.expect("a port of the range or not", "from_pod", f, want)
	}
}

func TestICMP(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, "10.77.1.11", macA, nil)
	r.endpoint(2, "10.77.1.12", macB, func(e *Endpoint) { e.PolicyIngress = true; e.PolicyEgress = true })
	ask := frame{mac: macA, source: "10.77.1.11", destination: "10.77.1.12", protocol: unix.IPPROTO_ICMP, icmpType: 8, sourcePort: 99}
	r.expectDrop("echo against default deny", "from_pod", ask, 133)
	r.must(r.ApplyPolicy(context.Background(), []PolicyEntry{{PolicyKey{Endpoint: 2, Direction: Ingress, Protocol: unix.IPPROTO_ICMP, Port: 8, PortPrefix: 16}, PolicyValue{}}}, nil))
	r.expect("echo", "from_pod", ask, verdictRedirect)
	answer := frame{mac: macB, source: "10.77.1.12", destination: "10.77.1.11", protocol: unix.IPPROTO_ICMP, icmpType: 0, sourcePort: 99}
	r.expect("its reply", "from_pod", answer, verdictRedirect)
	back := answer
	back.icmpType = 8
	r.expectDrop("an echo of its own with the same identifier", "from_pod", back, 133)
	// An error about a datagram that was sent is let in, about another it is not.
	r.must(r.ApplyPolicy(context.Background(), []PolicyEntry{{PolicyKey{Endpoint: 2, Direction: Egress, Protocol: unix.IPPROTO_UDP}, PolicyValue{}}}, nil))
	sent := frame{mac: macB, source: "10.77.1.12", destination: "10.77.1.11", protocol: unix.IPPROTO_UDP, sourcePort: 5000, destPort: 53}
	r.expect("the datagram", "from_pod", sent, verdictRedirect)
	e := frame{mac: macA, source: "10.77.1.11", destination: "10.77.1.12", protocol: unix.IPPROTO_ICMP, icmpType: 3, payload: sent.bytes()[14:]}
	r.expect("the error", "from_pod", e, verdictRedirect)
	sent.sourcePort = 5001
	e.payload = sent.bytes()[14:]
	r.expectDrop("an error about nothing", "from_pod", e, 133)
	// What an error quotes gives it no right: neither a connection that policy would allow, nor somebody else's.
	r.must(r.ApplyPolicy(context.Background(), []PolicyEntry{{PolicyKey{Endpoint: 2, Direction: Ingress, Protocol: unix.IPPROTO_UDP}, PolicyValue{}}}, nil))
	r.expectDrop("an error about nothing where its quote would be allowed", "from_pod", e, 133)
	sent.source, sent.destination = "10.77.1.11", "10.77.1.12"
	e.payload = sent.bytes()[14:]
	r.expectDrop("an error about somebody else's datagram", "from_pod", e, 133)
}

func TestOwnTunnelPacket(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, "10.77.1.11", macA, nil)
	f := frame{mac: macA, source: "10.77.1.11", destination: "192.0.2.2", protocol: unix.IPPROTO_UDP, sourcePort: 40000, destPort: 8472}
	r.expectDrop("to another node", "from_pod", f, 170)
	f.destination = "192.0.2.1"
	r.expectDrop("to the own node", "from_pod", f, 170)
	f.destPort = 8473
	r.expect("to another port", "from_pod", f, verdictOK)
}

func TestPartialFailureJudgesAgain(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, "10.77.1.11", macA, nil)
	before := r.revision
	r.must(r.objects.maps["policy"].Close())
	key := PolicyKey{Endpoint: 1, Direction: Ingress, Protocol: unix.IPPROTO_TCP}
	if err := r.ApplyPolicy(context.Background(), []PolicyEntry{{key, PolicyValue{}}}, nil); err == nil {
		t.Error("a line that cannot be written is no error")
	}
	var value endpointLayout
	r.must(r.objects.maps["endpoints"].Lookup(toWire(netip.MustParseAddr("10.77.1.11")), &value))
	if value.Revision == before {
		t.Error("connections are not judged again")
	}
}

func TestServiceTranslation(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, "10.77.1.11", macA, nil)
	r.endpoint(2, "10.77.1.12", macB, nil)
	front := Frontend{Address: netip.MustParseAddr("10.96.0.1"), Port: 443, Protocol: unix.IPPROTO_TCP}
	service := Service{ServiceID: ServiceID{Name: "api", Protocol: unix.IPPROTO_TCP}, Frontends: []Frontend{front}}
	r.must(r.UpsertService(context.Background(), service))
	f := frame{mac: macA, source: "10.77.1.11", destination: "10.96.0.1", protocol: unix.IPPROTO_TCP, sourcePort: 40000, destPort: 443, flags: syn}
	r.expect("a service without backends refuses", "from_pod", f, verdictRedirect)
	if n := r.counters()[158]; n != 1 {
		t.Errorf("the refusal was counted %d times", n)
	}
	service.Backends = []Backend{{Address: netip.MustParseAddr("10.77.1.12"), Port: 6443, Internal: true, External: true}}
	r.must(r.UpsertService(context.Background(), service))
	out := r.expect("to the backend", "from_pod", f, verdictRedirect)
	if to := netip.AddrFrom4([4]byte(out[30:34])); to.String() != "10.77.1.12" || binary.BigEndian.Uint16(out[36:]) != 6443 {
		t.Errorf("sent to %s port %d", to, binary.BigEndian.Uint16(out[36:]))
	}
	reply := frame{mac: macB, source: "10.77.1.12", destination: "10.77.1.11", protocol: unix.IPPROTO_TCP, sourcePort: 6443, destPort: 40000, flags: syn | ack}
	out = r.expect("the reply", "from_pod", reply, verdictRedirect)
	if from := netip.AddrFrom4([4]byte(out[26:30])); from.String() != "10.96.0.1" || binary.BigEndian.Uint16(out[34:]) != 443 {
		t.Errorf("came from %s port %d", from, binary.BigEndian.Uint16(out[34:]))
	}
}

func TestFromNetdev(t *testing.T) {
	r := newRig(t, RoutingNative)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyIngress = true })
	f := frame{source: "10.77.2.11", destination: "10.77.1.11", protocol: unix.IPPROTO_UDP, sourcePort: 40000, destPort: 80}
	r.expectDrop("the world against default deny", "from_netdev", f, 133)
	ctx := context.Background()
	r.must(r.UpsertIP(ctx, IPEntry{Prefix: netip.MustParsePrefix("10.77.2.11/32"), Identity: 2001}))
	r.must(r.ApplyPolicy(ctx, []PolicyEntry{{PolicyKey{Endpoint: 1, Identity: 2001}, PolicyValue{}}}, nil))
	r.expect("a pod that is allowed", "from_netdev", f, verdictRedirect)
	f.source = "10.77.1.11"
	r.expectDrop("a local pod's address on the wire", "from_netdev", f, 132)
	f.source, f.destination = "198.51.100.1", "192.0.2.1"
	r.expect("the node's own packet", "from_netdev", f, verdictUnspec)
}

func TestToPodKnowsTheHost(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyIngress = true })
	r.must(r.ApplyPolicy(context.Background(), []PolicyEntry{{PolicyKey{Endpoint: 1, Identity: 1}, PolicyValue{}}}, nil))
	f := frame{source: "10.77.1.1", destination: "10.77.1.11", protocol: unix.IPPROTO_TCP, sourcePort: 40000, destPort: 80, flags: syn}
	r.expect("a probe of the kubelet", "to_pod", f, verdictOK)
	f.source = "192.0.2.1"
	r.expect("from the node's address", "to_pod", f, verdictOK)
	f.source = "198.51.100.1"
	r.expectDrop("from the world", "to_pod", f, 133)
	f.destination = "10.77.1.50"
	r.expectDrop("to nobody", "to_pod", f, 152)
}

func TestOverlayRefusesWithoutTunnel(t *testing.T) {
	r := newRig(t, RoutingTunnel)
	r.endpoint(1, "10.77.1.11", macA, nil)
	f := frame{source: "10.77.2.11", destination: "10.77.1.11", protocol: unix.IPPROTO_UDP, sourcePort: 40000, destPort: 80}
	// The test runner has no tunnel metadata to give; what a VNI does is tried with real packets in vni_test.go.
	r.expectDrop("no tunnel key", "from_overlay", f, 147)
}
