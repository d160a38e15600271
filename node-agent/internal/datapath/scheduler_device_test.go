package datapath

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What happens to a device's schedulers, with one that every kernel has (pfifo) in the place of fq.
func TestSchedulerComesAndGoes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	// The thread is not given back, so that the namespace ends with the test.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("cannot make a network namespace: %v", err)
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	add := func(name string, queues int) netlink.Link {
		t.Helper()
		check(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, NumTxQueues: queues, NumRxQueues: queues, TxQLen: 100}, PeerName: name + "p"}))
		l, err := netlink.LinkByName(name)
		check(err)
		check(netlink.LinkSetUp(l))
		return l
	}
	// kinds of the root and of what is below it.
	kinds := func(l netlink.Link) []string {
		t.Helper()
		all, err := netlink.QdiscList(l)
		check(err)
		var out []string
		for _, q := range all {
			out = append(out, q.Type())
		}
		return out
	}
	own := func() (names []string) {
		t.Helper()
		all, err := ownSchedulers()
		check(err)
		for _, l := range all {
			names = append(names, l.Attrs().Name)
		}
		return names
	}
	var journal [][4]string
	record := func(kind, subject, before, after, _ string) error {
		journal = append(journal, [4]string{kind, subject, before, after})
		return nil
	}

	plain, queued, foreign := add("plain", 1), add("queued", 4), add("foreign", 1)
	before := kinds(plain)
	for range 2 { // a restart finds it
		check(setScheduler(plain, "pfifo", record))
	}
	if got := kinds(plain); !slices.Equal(got, []string{"pfifo"}) {
		t.Errorf("the device has %v", got)
	}
	// A device whose driver has queues is given mq by the kernel; veth is not, so it is put there as somebody's default.
	check(netlink.QdiscReplace(&netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: queued.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: schedulerHandle}, QdiscType: "mq"}))
	check(setScheduler(queued, "pfifo", record))
	if got := kinds(queued); !slices.Equal(got, []string{"mq", "pfifo", "pfifo", "pfifo", "pfifo"}) {
		t.Errorf("the device with queues has %v", got)
	}
	check(setScheduler(queued, "pfifo", record))

	check(netlink.QdiscReplace(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: foreign.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(7, 0)}, Rate: 125000, Limit: 10000, Buffer: 10000}))
	var refused *ForeignSchedulerError
	if err := setScheduler(foreign, "pfifo", record); !errors.As(err, &refused) || refused.Kind != "tbf" || refused.Device != "foreign" {
		t.Errorf("somebody's scheduler: %v", err)
	}
	if !slices.Equal(journal, [][4]string{{"qdisc", "plain", before[0], "pfifo"}}) {
		t.Errorf("journal %v", journal)
	}
	if got := own(); !slices.Equal(got, []string{"plain", "queued"}) {
		t.Errorf("ours are on %v", got)
	}
	check(removeSchedulers(func(index int) bool { return index == queued.Attrs().Index }))
	if got := own(); !slices.Equal(got, []string{"queued"}) {
		t.Errorf("ours are still on %v", got)
	}
	check(removeSchedulers(func(int) bool { return false }))
	if got := kinds(plain); !slices.Equal(got, before) {
		t.Errorf("the device has %v, before %v", got, before)
	}
	if got := kinds(foreign); !slices.Equal(got, []string{"tbf"}) {
		t.Errorf("somebody's scheduler is gone: %v", got)
	}
	if err := probeScheduler("pfifo"); err != nil {
		t.Errorf("a scheduler that there is: %v", err)
	}
	if err := probeScheduler("nonesuch"); err == nil {
		t.Error("a scheduler that there is not can be used")
	}
}
