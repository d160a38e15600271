package datapath

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fqKind keeps packets until the departure time that they carry. A variable for tests on kernels without it.
var fqKind = "fq"

// schedulerHandle is the handle of the root schedulers that we put on devices: by it they are found again, and nobody else's
// is taken for ours.
var schedulerHandle = netlink.MakeHandle(0xf1ea, 0)

// ForeignSchedulerError says that somebody configured a packet scheduler on a device.
type ForeignSchedulerError struct{ Device, Kind string }

// Error implements error.
func (e *ForeignSchedulerError) Error() string {
	return fmt.Sprintf("somebody gave %s the packet scheduler %s, which stays", e.Device, e.Kind)
}

// rootScheduler is the device's; its handle is 0 where the kernel put it there by itself.
func rootScheduler(l netlink.Link) (kind string, handle uint32, leaves []netlink.Qdisc, err error) {
	all, err := netlink.QdiscList(l)
	if err != nil {
		return "", 0, nil, fmt.Errorf("listing the packet schedulers of %s: %w", l.Attrs().Name, err)
	}
	for _, q := range all {
		switch a := q.Attrs(); a.Parent {
		case netlink.HANDLE_ROOT:
			kind, handle = q.Type(), a.Handle
		case netlink.HANDLE_CLSACT:
		default:
			leaves = append(leaves, q)
		}
	}
	return kind, handle, leaves, nil
}

// setScheduler puts a scheduler on a device, on each of its queues where it has several. What the kernel gave the device by
// itself is replaced and comes back when ours is removed; what somebody configured stays, and is an error.
func setScheduler(l netlink.Link, kind string, journal Journal) error {
	name, index := l.Attrs().Name, l.Attrs().Index
	before, handle, leaves, err := rootScheduler(l)
	if err != nil {
		return err
	}
	if hasScheduler(kind, before, leaves) {
		return nil
	}
	if handle != 0 && handle != schedulerHandle {
		return &ForeignSchedulerError{Device: name, Kind: before}
	}
	if handle == 0 {
		if err := journal("qdisc", name, before, kind, "tc qdisc del dev "+name+" root"); err != nil {
			return err
		}
	}
	attrs := func(parent, handle uint32) netlink.QdiscAttrs {
		return netlink.QdiscAttrs{LinkIndex: index, Parent: parent, Handle: handle}
	}
	if before != "mq" {
		if err := netlink.QdiscReplace(scheduler(kind, attrs(netlink.HANDLE_ROOT, schedulerHandle))); err != nil {
			return fmt.Errorf("putting the packet scheduler %s on %s: %w", kind, name, err)
		}
		return nil
	}
	if handle == 0 {
		if err := netlink.QdiscReplace(scheduler("mq", attrs(netlink.HANDLE_ROOT, schedulerHandle))); err != nil {
			return fmt.Errorf("taking over the queues of %s: %w", name, err)
		}
	}
	for queue := range max(l.Attrs().NumTxQueues, 1) {
		parent := schedulerHandle | uint32(queue+1)
		// Queues that are switched off have no class.
		if err := netlink.QdiscReplace(scheduler(kind, attrs(parent, 0))); err != nil && !errors.Is(err, unix.ENOENT) {
			_ = removeScheduler(l)
			return fmt.Errorf("putting the packet scheduler %s on queue %d of %s: %w", kind, queue, name, err)
		}
	}
	return nil
}

func scheduler(kind string, a netlink.QdiscAttrs) netlink.Qdisc {
	if kind == "fq" {
		return netlink.NewFq(a)
	}
	return &netlink.GenericQdisc{QdiscAttrs: a, QdiscType: kind}
}

// hasScheduler says whether every packet of the device passes one.
func hasScheduler(kind, root string, leaves []netlink.Qdisc) bool {
	if root != "mq" {
		return root == kind
	}
	for _, q := range leaves {
		if q.Type() != kind {
			return false
		}
	}
	return len(leaves) > 0
}

// removeScheduler gives the device back what the kernel has for it.
func removeScheduler(l netlink.Link) error {
	root := &netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: schedulerHandle}}
	if err := netlink.QdiscDel(root); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing the packet scheduler of %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// removeSchedulers removes ours from all interfaces but those to keep.
func removeSchedulers(keep func(index int) bool) error {
	own, err := ownSchedulers()
	if err != nil {
		return err
	}
	var failed []error
	for _, l := range own {
		if !keep(l.Attrs().Index) {
			failed = append(failed, removeScheduler(l))
		}
	}
	return errors.Join(failed...)
}

// ownSchedulers are the interfaces with one of ours.
func ownSchedulers() ([]netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	var out []netlink.Link
	for _, l := range links {
		_, handle, _, err := rootScheduler(l)
		if err != nil {
			// Gone meanwhile.
			continue
		}
		if handle == schedulerHandle {
			out = append(out, l)
		}
	}
	return out, nil
}

// probeScheduler tries a scheduler on an interface of a network namespace of its own; nothing of it stays.
func probeScheduler(kind string) error {
	done := make(chan error, 1)
	go func() {
		// The thread ends with the goroutine, as it is never unlocked, and the namespace with it.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("making a network namespace: %w", err)
			return
		}
		loopback, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.QdiscReplace(scheduler(kind, netlink.QdiscAttrs{LinkIndex: loopback.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: schedulerHandle}))
		}
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
			err = fmt.Errorf("%w: %v", ebpf.ErrNotSupported, err)
		}
		done <- err
	}()
	return <-done
}
