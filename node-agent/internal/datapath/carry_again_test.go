package datapath

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// An agent of another version that ended before its programs were in place has left its maps with what there was then. Traffic
// went on by the programs of before: what they wrote since counts, or flows that go on would be taken for over.
func TestWhatWentOnSinceAFailedUpgradeIsTakenOver(t *testing.T) {
	needsRoot(t)
	bpffs := t.TempDir()
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		t.Skipf("cannot mount a bpf file system, which holds the maps: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(bpffs, unix.MNT_DETACH) })
	load := func() *objects {
		t.Helper()
		s, err := newSpec(rigConfig(RoutingTunnel), 1, 1450, everyAbility())
		if err != nil {
			t.Fatal(err)
		}
		o, err := s.load(bpffs)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(o.close)
		return o
	}
	key := connectionKeyLayout{Endpoint: 1, Protocol: unix.IPPROTO_UDP, LocalPort: toPort(40000), RemotePort: toPort(53)}
	put := func(o *objects, expires uint64) {
		t.Helper()
		if err := o.maps["connections"].Put(key, connectionLayout{Expires: expires}); err != nil {
			t.Fatal(err)
		}
	}
	// The start that ended early.
	put(load(), 1000)
	// What the programs of before have.
	s, err := newSpec(rigConfig(RoutingTunnel), 1, 1450, everyAbility())
	if err != nil {
		t.Fatal(err)
	}
	old, _, err := takeMap(s.mapSpecs()["connections"], filepath.Join(bpffs, "elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := old.Pin(filepath.Join(bpffs, fmt.Sprintf("connections_v%d", layoutVersion-1))); err != nil {
		t.Fatal(err)
	}
	theirs := &objects{maps: map[string]*ebpf.Map{"connections": old}}
	put(theirs, 5000)
	var now connectionLayout
	if err := load().maps["connections"].Lookup(key, &now); err != nil || now.Expires != 5000 {
		t.Errorf("the flow expires at %d, want 5000; %v", now.Expires, err)
	}
	// One that ended when its programs were in place already has written more than the ones of before.
	put(theirs, 2000)
	if err := load().maps["connections"].Lookup(key, &now); err != nil || now.Expires != 5000 {
		t.Errorf("the flow expires at %d, want 5000 as before; %v", now.Expires, err)
	}
}
