package datapath

import (
	"log/slog"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"

	"fairlead.dev/node-agent/internal/datapath/netfilter"
)

// rig is a datapath without any interface: packets are given to its programs by BPF_PROG_TEST_RUN. The programs and the maps
// below are a testbed's, which is empty when the test starts.
type rig struct {
	t testing.TB
	*kernel
	programs *programs
	// loopback's index stands for every interface: the kernel's test runner wants one that exists.
	ifindex uint32
}

const (
	verdictOK       = 0
	verdictUnspec   = 0xffffffff
	verdictShot     = 2
	verdictRedirect = 7
)

func rigConfig(routing RoutingMode, adjust ...func(*Config)) Config {
	c := Config{
		NodeAddress: netip.MustParseAddr("192.0.2.1"), RouterAddress: netip.MustParseAddr("10.77.1.1"),
		NodeAddress6: netip.MustParseAddr("2001:db8::1"), RouterAddress6: netip.MustParseAddr("fd00:10:77:1::1"),
		PodCIDRs:           []netip.Prefix{netip.MustParsePrefix("10.77.1.0/24"), netip.MustParsePrefix("fd00:10:77:1::/64")},
		NativeRoutingCIDR6: netip.MustParsePrefix("fd00:10:77::/48"), NativeRoutingCIDR: netip.MustParsePrefix("10.77.0.0/16"),
		Routing: routing, KubeProxyReplacement: true, MonitorAggregation: true, MonitorAggregationInterval: 5e9, ConntrackMax: 1024,
	}
	for _, change := range adjust {
		change(&c)
	}
	return c
}

func newRig(t testing.TB, routing RoutingMode, adjust ...func(*Config)) *rig {
	t.Helper()
	return newRigOf(t, rigConfig(routing, adjust...))
}

func newRigOf(t testing.TB, c Config) *rig {
	t.Helper()
	needsRoot(t)
	return rigOn(t, c, borrowTestbed(t, c))
}

// newOwnRig is for tests that fill tables, or do other things to them that an emptied map would remember.
func newOwnRig(t testing.TB, routing RoutingMode, adjust ...func(*Config)) *rig {
	t.Helper()
	return newOwnRigOf(t, rigConfig(routing, adjust...))
}

func newOwnRigOf(t testing.TB, c Config) *rig {
	t.Helper()
	needsRoot(t)
	b := newTestbed(t, c, nil)
	t.Cleanup(b.close)
	return rigOn(t, c, b)
}

func needsRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it loads programs into the kernel")
	}
}

func rigOn(t testing.TB, c Config, b *testbed) *rig {
	t.Helper()
	o := &objects{maps: map[string]*ebpf.Map{}}
	t.Cleanup(o.close)
	// Descriptors of its own, since a test may close or replace its maps.
	for name, m := range b.maps {
		own, err := m.Clone()
		if err != nil {
			t.Fatal(err)
		}
		o.maps[name] = own
	}
	ns, err := currentNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.file.Close() })
	k := &kernel{
		config: c, namespace: ns, objects: o, nodes: map[string]Node{}, endpoints: map[EndpointID]Endpoint{},
		// The namespace is nobody's node.
		proxyRoutes: true,
	}
	if err := k.restoreModes(); err != nil {
		t.Fatal(err)
	}
	k.masquerade.keeper = netfilter.NewKeeper(nil, nil, slog.Default())
	if err := k.startMasquerading(nil); err != nil {
		t.Fatal(err)
	}
	return &rig{t, k, b.programs, 1}
}

// program gives the program of that name, which is loaded with its first use.
func (r *rig) program(name string) *ebpf.Program {
	r.t.Helper()
	p, err := r.programs.get(name)
	r.must(err)
	return p
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

var (
	macA = [6]byte{2, 0, 0, 0, 0, 0xa}
	macB = [6]byte{2, 0, 0, 0, 0, 0xb}
)

// endpoint publishes without touching interfaces.
func (r *rig) endpoint(id EndpointID, address string, mac [6]byte, adjust func(*Endpoint)) Endpoint {
	r.t.Helper()
	e := Endpoint{ID: id, InterfaceIndex: int(r.ifindex), Addresses: []netip.Addr{netip.MustParseAddr(address)}, PodMAC: mac, Identity: 1000 + uint32(id)}
	if adjust != nil {
		adjust(&e)
	}
	r.endpoints[id] = e
	r.must(r.judgeAgain(id))
	r.must(r.forgetShortcuts())
	return e
}
