package spacetest_test

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath/spacetest"
)

// Who asks for an address just after it was added is answered, and not a second later.
func TestAddressesAreFoundAtOnce(t *testing.T) {
	a, b := spacetest.New(t), spacetest.New(t)
	if err := a.In(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(b.File.Fd())})
	}); err != nil {
		t.Fatal(err)
	}
	add := func(s *spacetest.Space, text string) {
		t.Helper()
		if err := s.In(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
			address, err := netlink.ParseAddr(text)
			return errors.Join(err, spacetest.AddAddress(l, address))
		}); err != nil {
			t.Fatal(err)
		}
	}
	add(a, "2001:db8:1::1/64")
	for i := range 60 {
		host := fmt.Sprintf("2001:db8:1::1:%x", i+2)
		add(b, host+"/64")
		err := a.In(func() error {
			c, err := (&net.Dialer{Timeout: time.Second}).Dial("tcp6", "["+host+"]:1")
			if err == nil {
				c.Close()
			}
			return err
		})
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("of %s: %v, want a refusal", host, err)
		}
	}
}
