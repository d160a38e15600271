package datapath

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// The objects know the C structures' sizes and fields; the Go ones have to be the same.
func TestLayoutsMatchObjects(t *testing.T) {
	s, err := newSpec(Config{}, 0, 0, everyAbility())
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string][2]uintptr{
		"endpoints":    {unsafe.Sizeof(wireAddress{}), unsafe.Sizeof(endpointLayout{})},
		"interfaces":   {4, unsafe.Sizeof(endpointLayout{})},
		"ipcache":      {unsafe.Sizeof(ipcacheKeyLayout{}), unsafe.Sizeof(ipcacheValueLayout{})},
		"blocks":       {unsafe.Sizeof(ipcacheKeyLayout{}), 4},
		"policy":       {unsafe.Sizeof(policyKeyLayout{}), unsafe.Sizeof(policyValueLayout{})},
		"connections":  {unsafe.Sizeof(connectionKeyLayout{}), unsafe.Sizeof(connectionLayout{})},
		"openings":     {unsafe.Sizeof(connectionKeyLayout{}), unsafe.Sizeof(connectionLayout{})},
		"nat":          {unsafe.Sizeof(natKeyLayout{}), unsafe.Sizeof(natValueLayout{})},
		"nat_openings": {unsafe.Sizeof(natKeyLayout{}), unsafe.Sizeof(natValueLayout{})},
		"services":     {unsafe.Sizeof(serviceKeyLayout{}), unsafe.Sizeof(serviceLayout{})},
		"affinity":     {unsafe.Sizeof(affinityKeyLayout{}), unsafe.Sizeof(affinityLayout{})},
		"sockets":      {unsafe.Sizeof(socketKeyLayout{}), unsafe.Sizeof(socketValueLayout{})},
		"slots":        {unsafe.Sizeof(slotKeyLayout{}), 4},
		"backends":     {4, unsafe.Sizeof(backendLayout{})},
		"namespaces":   {8, unsafe.Sizeof(socketOwnerLayout{})},
		"rates":        {unsafe.Sizeof(rateKeyLayout{}), unsafe.Sizeof(rateLayout{})},
		"metrics":      {4, unsafe.Sizeof(counterLayout{})},
		"shortcuts":    {unsafe.Sizeof(shortcutKeyLayout{}), unsafe.Sizeof(shortcutLayout{})},
	}
	specs := s.mapSpecs()
	for name, want := range sizes {
		m := specs[name]
		if m == nil {
			t.Errorf("no map %s", name)
			continue
		}
		if uintptr(m.KeySize) != want[0] || uintptr(m.ValueSize) != want[1] {
			t.Errorf("%s: C has %d and %d bytes, Go has %d and %d", name, m.KeySize, m.ValueSize, want[0], want[1])
		}
	}
	types := s.collections["to_netdev"].Types
	for name, want := range map[string]uintptr{"nat_key": unsafe.Sizeof(natKeyLayout{}), "nat_value": unsafe.Sizeof(natValueLayout{}), "device": unsafe.Sizeof(deviceLayout{})} {
		var c *btf.Struct
		if err := types.TypeByName(name, &c); err != nil {
			t.Fatal(err)
		}
		if uintptr(c.Size) != want {
			t.Errorf("%s: C has %d bytes, Go has %d", name, c.Size, want)
		}
	}
	types = s.collections["from_pod"].Types
	var config *btf.Struct
	if err := types.TypeByName("config", &config); err != nil {
		t.Fatal(err)
	}
	if want := unsafe.Sizeof(configLayout{}); uintptr(config.Size) != want {
		t.Errorf("config: C has %d bytes, Go has %d", config.Size, want)
	}
	var c configLayout
	for name, want := range map[string]uintptr{
		"node_address6": unsafe.Offsetof(c.NodeAddress6), "pod_mask6": unsafe.Offsetof(c.PodMask6), "native_net": unsafe.Offsetof(c.NativeNet),
		"tunnel_ifindex": unsafe.Offsetof(c.TunnelIfindex), "tunnel_port": unsafe.Offsetof(c.TunnelPort), "mtu": unsafe.Offsetof(c.MTU),
		"dry_run": unsafe.Offsetof(c.DryRun), "report_interval": unsafe.Offsetof(c.ReportInterval),
		"masquerade": unsafe.Offsetof(c.Masquerade), "nat_seed": unsafe.Offsetof(c.NATSeed), "nat_first": unsafe.Offsetof(c.NATFirst), "bandwidth": unsafe.Offsetof(c.Bandwidth),
		"untunnel": unsafe.Offsetof(c.Untunnel), "ipv6only_at": unsafe.Offsetof(c.IPv6OnlyAt), "ipv6only_bit": unsafe.Offsetof(c.IPv6OnlyBit), "nat_lowest": unsafe.Offsetof(c.NATLowest),
	} {
		if !slices.ContainsFunc(config.Members, func(m btf.Member) bool { return m.Name == name && uintptr(m.Offset.Bytes()) == want }) {
			t.Errorf("config.%s is not at %d in C", name, want)
		}
	}
	var connection *btf.Struct
	if err := types.TypeByName("connection", &connection); err != nil {
		t.Fatal(err)
	}
	var l connectionLayout
	offsets := map[string]uintptr{
		"expires": unsafe.Offsetof(l.Expires), "packets": unsafe.Offsetof(l.Packets), "bytes": unsafe.Offsetof(l.Bytes),
		"revision": unsafe.Offsetof(l.Revision), "rule": unsafe.Offsetof(l.Rule), "peer": unsafe.Offsetof(l.Peer),
		"translated": unsafe.Offsetof(l.Translated), "translated_port": unsafe.Offsetof(l.TranslatedPort),
		"initiator": unsafe.Offsetof(l.Initiator), "flags": unsafe.Offsetof(l.Flags),
	}
	for _, m := range connection.Members {
		if want, ok := offsets[m.Name]; ok && uintptr(m.Offset.Bytes()) != want {
			t.Errorf("connection.%s: C at %d, Go at %d", m.Name, m.Offset.Bytes(), want)
		}
		delete(offsets, m.Name)
	}
	for name := range offsets {
		t.Errorf("C has no connection.%s", name)
	}
	for name, program := range s.collections["from_pod"].Programs {
		if program.Type != ebpf.SchedCLS || !strings.HasPrefix(name, "from_") {
			t.Errorf("program %s is a %s", name, program.Type)
		}
	}
}

func TestPolicyKeyRoundTrip(t *testing.T) {
	for _, test := range []struct {
		key  PolicyKey
		bits uint32
		// back is what comes back; the key itself unless bits that do not count were set.
		back PolicyKey
	}{
		{key: PolicyKey{Endpoint: 7, Identity: 300, Direction: Egress}, bits: 72},
		{key: PolicyKey{Endpoint: 7, Protocol: 6}, bits: 80},
		{key: PolicyKey{Endpoint: 7, Protocol: 6, Port: 443, PortPrefix: 16}, bits: 96},
		{key: PolicyKey{Endpoint: 7, Protocol: 17, Port: 0x8000, PortPrefix: 1}, bits: 81},
		{key: PolicyKey{Endpoint: 7, Protocol: 17, Port: 0x80ff, PortPrefix: 8}, bits: 88, back: PolicyKey{Endpoint: 7, Protocol: 17, Port: 0x8000, PortPrefix: 8}},
		{key: PolicyKey{Endpoint: 7, Port: 443, PortPrefix: 16}, bits: 72, back: PolicyKey{Endpoint: 7}},
	} {
		l := policyKeyToLayout(test.key)
		if l.PrefixLen != test.bits {
			t.Errorf("%+v: %d bits, want %d", test.key, l.PrefixLen, test.bits)
		}
		want := test.back
		if want == (PolicyKey{}) {
			want = test.key
		}
		if got := policyKeyFromLayout(l); got != want {
			t.Errorf("%+v came back as %+v", test.key, got)
		}
	}
}

func TestPrefixRoundTrip(t *testing.T) {
	for _, text := range []string{"10.1.2.3/32", "10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32", "2001:db8::1/128"} {
		p := netip.MustParsePrefix(text)
		if got := keyToPrefix(prefixToKey(p)); got != p {
			t.Errorf("%s came back as %s", p, got)
		}
	}
}
