package endpoints

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"fairlead.dev/node-agent/internal/datapath/datapathtest"
	"fairlead.dev/node-agent/internal/ipam"
)

// A pod gets an address of each family or none, is published with both, and keeps both over a restart.
func TestDualStack(t *testing.T) {
	dp, directory := &datapathtest.Fake{}, t.TempDir()
	n := start(t, dp, directory)
	pool6, err := ipam.New(netip.MustParsePrefix("fd00:10:77:1::/126"))
	if err != nil {
		t.Fatal(err)
	}
	n.Pool6 = pool6
	e := n.add(t, n.pod("p", nil))
	if len(e.Addresses()) != 2 || e.Address6.String() != "fd00:10:77:1::2" {
		t.Fatalf("addresses %v", e.Addresses())
	}
	present, err := dp.Endpoints()
	if err != nil || len(present) != 1 || len(present[0].Addresses) != 2 {
		t.Errorf("published %+v, %v", present, err)
	}
	ips, err := dp.IPs()
	if err != nil || len(ips) != 2 {
		t.Errorf("ipcache %v, %v", ips, err)
	}
	// The second family is exhausted: no address of the first is kept either.
	var exhausted *ipam.ExhaustedError
	if _, err := n.Reserve(context.Background(), n.pod("q", nil)); !errors.As(err, &exhausted) {
		t.Fatalf("got %v", err)
	}
	if used := len(n.Pool.Allocations()); used != 2 {
		t.Errorf("%d addresses of IPv4 are in use, want the router's and the pod's", used)
	}

	again := start(t, dp, directory)
	if list := again.List(); len(list) != 1 || list[0].Address6 != e.Address6 || list[0].Address != e.Address {
		t.Errorf("restored %+v", list)
	}
	again.Pool6 = pool6
	if err := again.Detach(context.Background(), "c-p", "eth0"); err != nil {
		t.Fatal(err)
	}
	if ips, _ := dp.IPs(); len(ips) != 0 || len(pool6.Allocations()) != 1 {
		t.Errorf("left %v, %v", ips, pool6.Allocations())
	}
}
