package xdpfeatures

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// A virtual cable can run programs, and sends what they redirect once its other end takes frames.
func TestFeaturesOfACable(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	runtime.LockOSThread() // for good: the thread stays in its namespace and ends with the test
	space, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer space.Close()
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "here"}, PeerName: "there"}); err != nil {
		t.Fatal(err)
	}
	here, err := netlink.LinkByName("here")
	if err != nil {
		t.Fatal(err)
	}
	there, err := netlink.LinkByName("there")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []netlink.Link{here, there} {
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
	index := here.Attrs().Index
	features, err := Of(index)
	if err != nil {
		t.Skipf("this kernel does not say: %v", err)
	}
	if features&Basic == 0 || features&Transmit != 0 || Mode(index) != "native" {
		t.Errorf("features %#x, %s", features, Mode(index))
	}
	if out, err := exec.Command("ethtool", "-K", "there", "gro", "on").CombinedOutput(); err != nil {
		t.Fatalf("ethtool: %v: %s", err, out)
	}
	if features, err = Of(index); err != nil || features&Transmit == 0 {
		t.Errorf("with GRO at the other end: features %#x, %v", features, err)
	}
	if _, err := Of(1 << 20); err == nil || Mode(1<<20) != "unknown" {
		t.Error("an interface that is not there has features")
	}
}
