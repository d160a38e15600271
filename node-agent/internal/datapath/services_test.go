package datapath

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"testing/quick"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Slots that can stay do, and what comes out is what is wanted, each once.
func TestArrange(t *testing.T) {
	property := func(slots, wanted []uint8) bool {
		unique := func(in []uint8) (out []uint32) {
			for _, x := range in {
				if !slices.Contains(out, uint32(x)+1) {
					out = append(out, uint32(x)+1)
				}
			}
			return out
		}
		before, want := unique(slots), unique(wanted)
		got := arrange(before, want)
		for i := range min(len(before), len(got)) {
			if slices.Contains(want, before[i]) && got[i] != before[i] {
				return false
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		return slices.Equal(got, want)
	}
	if err := quick.Check(property, nil); err != nil {
		t.Error(err)
	}
}

func (r *rig) service(name string, kind ServiceKind, address string, backends ...Backend) Service {
	return Service{ServiceID: ServiceID{Namespace: "a", Name: name, Protocol: unix.IPPROTO_TCP},
		Frontends: []Frontend{{Address: netip.MustParseAddr(address), Port: 80, Protocol: unix.IPPROTO_TCP, Kind: kind}}, Backends: backends}
}

func at(address string, internal, external bool) Backend {
	return Backend{Address: netip.MustParseAddr(address), Port: 8080, Internal: internal, External: external}
}

// seen is what a program would find: per view the addresses behind a frontend.
func (r *rig) seen(f Frontend) (out [2][]string) {
	r.t.Helper()
	var value serviceLayout
	r.must(r.objects.maps["services"].Lookup(serviceKey(f), &value))
	for view, list := range value.View {
		for i := range list.Count {
			var id uint32
			var b backendLayout
			r.must(r.objects.maps["slots"].Lookup(slotKeyLayout{list.List, i}, &id))
			r.must(r.objects.maps["backends"].Lookup(id, &b))
			out[view] = append(out[view], fromWire(b.Address).String())
		}
		slices.Sort(out[view])
	}
	return out
}

func count(t testing.TB, m *ebpf.Map) (n int) {
	t.Helper()
	var key, value []byte
	all := m.Iterate()
	for all.Next(&key, &value) {
		n++
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

func (r *rig) empty() {
	r.t.Helper()
	for _, name := range []string{"services", "slots", "backends", "source_ranges", "maglev"} {
		if n := count(r.t, r.objects.maps[name]); n != 0 {
			r.t.Errorf("%d entries were left in %s", n, name)
		}
	}
}

func TestServiceMaps(t *testing.T) {
	r := newRig(t, RoutingNative)
	r.config.LoadBalancer.Algorithm = "maglev"
	ctx := context.Background()
	s := r.service("web", ServiceNodePort, "192.0.2.1", at("10.0.0.1", true, true), at("10.0.0.2", true, false))
	s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	want := func(inside, outside string) {
		t.Helper()
		if got := r.seen(s.Frontends[0]); fmt.Sprint(got[internal]) != inside || fmt.Sprint(got[external]) != outside {
			t.Errorf("inside %v, outside %v; want %s, %s", got[internal], got[external], inside, outside)
		}
	}
	r.must(r.UpsertService(ctx, s))
	want("[10.0.0.1 10.0.0.2]", "[10.0.0.1]")
	numbers := map[netip.AddrPort]uint32{}
	for key, b := range r.services.byID[s.ServiceID].backends {
		numbers[key] = b.id
	}
	// Both views become one list, and two again.
	s.Backends[1].External = true
	r.must(r.UpsertService(ctx, s))
	want("[10.0.0.1 10.0.0.2]", "[10.0.0.1 10.0.0.2]")
	s.Backends = []Backend{at("10.0.0.3", false, true), at("10.0.0.2", true, true), {Address: netip.MustParseAddr("10.0.0.1"), Port: 8080, Terminating: true}}
	r.must(r.UpsertService(ctx, s))
	want("[10.0.0.2]", "[10.0.0.2 10.0.0.3]")
	for key, b := range r.services.byID[s.ServiceID].backends {
		if old, ok := numbers[key]; ok && old != b.id {
			t.Errorf("backend %s was %d and is %d", key, old, b.id)
		}
	}
	if n := count(t, r.objects.maps["maglev"]); n != 1 {
		t.Errorf("%d Maglev tables", n)
	}
	// A frontend moves to another service without a moment without owner.
	other := r.service("other", ServiceLoadBalancer, "192.0.2.1", at("10.0.0.9", true, true))
	r.must(r.UpsertService(ctx, other))
	r.must(r.DeleteService(ctx, s.ServiceID))
	want("[10.0.0.9]", "[10.0.0.9]")
	r.must(r.DeleteService(ctx, other.ServiceID))
	r.empty()
}

// A new run takes over what is there, by its frontends, and removes the rest only when it is told to.
func TestServicesAreRestored(t *testing.T) {
	r := newRig(t, RoutingNative)
	r.config.LoadBalancer.Algorithm = "maglev"
	ctx := context.Background()
	kept := r.service("kept", ServiceNodePort, "192.0.2.1", at("10.0.0.1", true, true), at("10.0.0.2", true, false))
	gone := r.service("gone", ServiceLoadBalancer, "192.0.2.2", at("10.0.0.3", true, true))
	gone.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for _, s := range []Service{kept, gone} {
		r.must(r.UpsertService(ctx, s))
	}
	numbers := r.services.byID[kept.ServiceID].backends
	last := r.services.lastBackend
	// What a run that was ended between two writes left behind.
	r.must(r.objects.maps["backends"].Put(uint32(99), backendLayout{Service: 77}))
	r.must(r.objects.maps["slots"].Put(slotKeyLayout{55, 0}, uint32(99)))
	r.services, r.maglev = serviceTable{}, nil
	r.must(r.restoreServices())
	if list, _ := r.Services(); len(list) != 2 || list[0].Name != "" || len(list[0].Backends)+len(list[1].Backends) != 3 {
		t.Fatalf("restored %+v", list)
	}
	kept.Backends = append(kept.Backends, at("10.0.0.4", true, true))
	r.must(r.UpsertService(ctx, kept))
	for key, b := range r.services.byID[kept.ServiceID].backends {
		if old, ok := numbers[key]; ok && old.id != b.id || b.id <= last && !ok {
			t.Errorf("backend %s has number %d, had %d of %d", key, b.id, old.id, last)
		}
	}
	r.seen(gone.Frontends[0])
	r.must(r.PruneServices(ctx))
	if list, _ := r.Services(); len(list) != 1 || list[0].Name != "kept" {
		t.Fatalf("after pruning %+v", list)
	}
	r.must(r.DeleteService(ctx, kept.ServiceID))
	r.empty()
}

// BenchmarkServices is 5,000 services with 10 backends each: all at once, and one changed backend.
func BenchmarkServices(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root: it writes maps of the kernel")
	}
	k := benchKernel(b)
	ctx := context.Background()
	service := func(i, shift int) Service {
		s := Service{ServiceID: ServiceID{Namespace: "a", Name: fmt.Sprint(i), Protocol: 6},
			Frontends: []Frontend{{Address: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: 80, Protocol: 6}}}
		for j := range 10 {
			s.Backends = append(s.Backends, Backend{Address: netip.AddrFrom4([4]byte{10, byte(1 + i>>8), byte(i), byte(j + shift)}), Port: 80, Internal: true, External: true})
		}
		return s
	}
	start := time.Now()
	for i := range 5000 {
		if err := k.UpsertService(ctx, service(i, 0)); err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("5,000 services with 10 backends each were written in %s", time.Since(start).Round(time.Millisecond))
	runtime.GC()
	i := 0
	for b.Loop() {
		i++
		if err := k.UpsertService(ctx, service(i%5000, 1+i/5000%2)); err != nil {
			b.Fatal(err)
		}
	}
}

func benchKernel(b *testing.B) *kernel {
	bpffs := b.TempDir()
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		b.Skipf("cannot mount a bpf file system: %v", err)
	}
	b.Cleanup(func() { _ = unix.Unmount(bpffs, unix.MNT_DETACH) })
	s, err := newSpec(Config{KubeProxyReplacement: true}, 1, 1500, everyAbility())
	if err != nil {
		b.Fatal(err)
	}
	o, err := s.load(bpffs)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(o.close)
	ns, err := currentNamespace()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ns.file.Close() })
	return &kernel{namespace: ns, objects: o}
}
