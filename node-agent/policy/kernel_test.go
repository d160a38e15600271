package policy

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

// kernelLines is an endpoint's policy in a real map of the kernel, laid out as struct policy_key of bpf/lib/types.h.
type kernelLines struct {
	t *testing.T
	m *ebpf.Map
}

const kernelEndpoint = 7

func packKey(k Key, prefix uint32) []byte {
	b := make([]byte, 16)
	binary.NativeEndian.PutUint32(b[0:], prefix)
	binary.NativeEndian.PutUint32(b[4:], kernelEndpoint)
	binary.NativeEndian.PutUint32(b[8:], uint32(k.Peer))
	b[12], b[13] = uint8(k.Direction), k.Protocol
	binary.BigEndian.PutUint16(b[14:], k.Port)
	return b
}

func (k *kernelLines) put(e Entry) {
	prefix := uint32(72)
	if e.Protocol != ProtocolAny {
		prefix = 80 + uint32(e.PortPrefix)
	}
	value := make([]byte, 8)
	binary.NativeEndian.PutUint32(value, uint32(e.Rule))
	if e.Deny {
		value[4] = 1
	}
	value[5], value[6] = uint8(prefix), uint8(e.Proxy)
	if err := k.m.Update(packKey(e.Key, prefix), value, ebpf.UpdateNoExist); err != nil {
		k.t.Fatalf("writing %+v: %v", e, err)
	}
}

// judge is bpf/lib/policy.h, with the kernel's own longest prefix match.
func (k *kernelLines) judge(enforced bool, block NumericIdentity, q Key) (bool, RuleID) {
	find := func(peer NumericIdentity) (deny, proxy bool, prefix uint8, rule RuleID, found bool) {
		q.Peer = peer
		value := make([]byte, 8)
		err := k.m.Lookup(packKey(q, 96), &value)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return false, false, 0, 0, false
		}
		if err != nil {
			k.t.Fatalf("looking up %+v: %v", q, err)
		}
		return value[4] == 1, value[6] != 0, value[5], RuleID(binary.NativeEndian.Uint32(value)), true
	}
	peerDeny, peerProxy, _, peerRule, peer := find(q.Peer)
	anyDeny, anyProxy, anyPrefix, anyRule, anybody := find(AnyPeer)
	allowed, proxy, line := !enforced, false, RuleID(0)
	switch {
	case peer && peerDeny:
		return false, peerRule
	case anybody && anyDeny:
		return false, anyRule
	case peer && !(peerProxy && anybody && !anyProxy && anyPrefix > 72):
		allowed, proxy, line = true, peerProxy, peerRule
	case anybody:
		allowed, proxy, line = true, anyProxy, anyRule
	}
	if block != AnyPeer && (!allowed || proxy) {
		if _, _, _, rule, found := find(block); found {
			return true, rule
		}
	}
	return allowed, line
}

// TestRealKernelAgreesWithRules writes the lines of random policies into a real longest-prefix map and asks the kernel.
func TestRealKernelAgreesWithRules(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: making a BPF map takes root")
	}
	_ = rlimit.RemoveMemlock() // Only kernels before 5.11 need it; where it fails the map's creation says why.
	questions := 0
	for seed := range uint64(40) {
		w := newWorld(t, 3_000_000+seed)
		e := NewEngine()
		addBlocks(e)
		identities := w.identities()
		for _, identity := range identities {
			e.AddIdentity(identity.ID, identity.Labels)
			e.SetIdentityPorts(identity.ID, w.namedPorts())
		}
		e.AddSubject(1, w.subject(), w.namedPorts())
		for i := range 1 + w.IntN(6) {
			if _, err := e.Upsert(w.policy(i)); err != nil {
				t.Fatal(err)
			}
		}
		m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "policy_test", Type: ebpf.LPMTrie, KeySize: 16, ValueSize: 8, MaxEntries: 16384, Flags: 1})
		if errors.Is(err, os.ErrPermission) {
			t.Skipf("skipped: the kernel refuses BPF maps here: %v", err)
		}
		if err != nil {
			t.Fatalf("making the map: %v", err)
		}
		lines := &kernelLines{t: t, m: m}
		entries, enforced := e.Entries(1)
		for _, entry := range entries {
			lines.put(entry)
		}
		for _, direction := range []Direction{Ingress, Egress} {
			for _, peer := range peersOf(identities) {
				labels, _ := e.Identity(peer)
				addresses := addressesOf(labels)
				for i, packet := range testPackets {
					questions++
					address := addresses[(int(peer)+i)%len(addresses)]
					block := blockAround(e, address)
					want := e.Verdict(1, direction, peer, address, packet.protocol, packet.port)
					_, simulated := LookupKernel(entries, enforced, direction, peer, block, packet.protocol, packet.port)
					got, rule := lines.judge(enforced[direction], block, Key{Direction: direction, Peer: peer, Protocol: packet.protocol, Port: packet.port})
					if got != want.Allowed || rule != simulated.Rule {
						t.Fatalf("seed %d: %s %s %s/%d: the kernel says allowed=%v by %d, rules say %+v, LookupKernel says %+v", seed, direction,
							peer, ProtocolName(packet.protocol), packet.port, got, rule, want, simulated)
					}
				}
			}
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d questions answered by the kernel", questions)
}
