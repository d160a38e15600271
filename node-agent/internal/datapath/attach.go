package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attachment is one program on one hook.
type attachment struct {
	program string
	// device and ingress for interfaces; cgroup for socket programs.
	device  string
	ifindex int
	ingress bool
	cgroup  string
	kind    ebpf.AttachType
	// xdp puts it into the device's driver.
	xdp bool
}

func (a attachment) String() string {
	if a.cgroup != "" {
		return fmt.Sprintf("cgroup %s %s", a.program, a.cgroup)
	}
	if a.xdp {
		return "xdp " + a.device
	}
	return fmt.Sprintf("tcx %s %s", a.direction(), a.device)
}

func (a attachment) direction() string {
	if a.xdp {
		return "xdp"
	}
	if a.ingress {
		return "ingress"
	}
	return "egress"
}

// pin is the link's file; the interface's index tells a recreated device of the same name from the old one.
func (a attachment) pin(directory string) string {
	if a.cgroup != "" {
		return filepath.Join(directory, "cgroup_"+a.program)
	}
	return filepath.Join(directory, fmt.Sprintf("%s_%d_%s", strings.ReplaceAll(a.device, ".", "-"), a.ifindex, a.direction()))
}

// attach puts the program on its hook. An existing link gets the new program in place, so that no packet sees the hook
// empty; a link whose device is gone is made anew.
func (k *kernel) attach(a attachment) error {
	program := k.objects.programs[a.program]
	if program == nil {
		return fmt.Errorf("attaching %s: no such program", a.program)
	}
	if a.cgroup == "" && !a.xdp && !k.tcx {
		return attachClsact(a, program)
	}
	pin := a.pin(k.linkDirectory())
	if pinned, err := link.LoadPinnedLink(pin, nil); err == nil {
		err = pinned.Update(program)
		pinned.Close()
		if err == nil {
			return nil
		}
		if err := os.Remove(pin); err != nil {
			return fmt.Errorf("removing the stale link %s: %w", pin, err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		// A file that is no link.
		if err := os.Remove(pin); err != nil {
			return fmt.Errorf("removing %s: %w", pin, err)
		}
	}
	var made link.Link
	var err error
	switch {
	case a.cgroup != "":
		made, err = link.AttachCgroup(link.CgroupOptions{Path: a.cgroup, Attach: a.kind, Program: program})
	case a.xdp:
		made, err = link.AttachXDP(link.XDPOptions{Interface: a.ifindex, Program: program, Flags: link.XDPDriverMode})
	default:
		kind := ebpf.AttachTCXEgress
		if a.ingress {
			kind = ebpf.AttachTCXIngress
		}
		made, err = link.AttachTCX(link.TCXOptions{Interface: a.ifindex, Program: program, Attach: kind, Anchor: link.Tail()})
	}
	if err != nil {
		return fmt.Errorf("attaching to %s: %w", a, err)
	}
	defer made.Close()
	if err := made.Pin(pin); err != nil {
		return fmt.Errorf("pinning the link of %s: %w", a, err)
	}
	return nil
}

// detach removes the link or the filter; what is not there is fine.
func (k *kernel) detach(a attachment) error {
	if a.cgroup == "" && !a.xdp && !k.tcx {
		return detachClsact(a)
	}
	pin := a.pin(k.linkDirectory())
	if pinned, err := link.LoadPinnedLink(pin, nil); err == nil {
		pinned.Unpin()
		return pinned.Close()
	}
	if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", pin, err)
	}
	return nil
}

// attached lists the pinned links with the id of their program.
func (k *kernel) attached() (map[string]ebpf.ProgramID, error) {
	entries, err := os.ReadDir(k.linkDirectory())
	if err != nil {
		return nil, fmt.Errorf("listing links: %w", err)
	}
	out := map[string]ebpf.ProgramID{}
	for _, e := range entries {
		l, err := link.LoadPinnedLink(filepath.Join(k.linkDirectory(), e.Name()), nil)
		if err != nil {
			continue
		}
		if info, err := l.Info(); err == nil {
			out[e.Name()] = info.Program
		}
		l.Close()
	}
	return out, nil
}

// clsact is the hook before Linux 6.6. Replacing a filter of the same handle is atomic.
const filterName = "fairlead"

func clsactFilter(a attachment) *netlink.BpfFilter {
	parent := uint32(netlink.HANDLE_MIN_EGRESS)
	if a.ingress {
		parent = netlink.HANDLE_MIN_INGRESS
	}
	return &netlink.BpfFilter{
		FilterAttrs:  netlink.FilterAttrs{LinkIndex: a.ifindex, Parent: parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
		Name:         filterName,
		DirectAction: true,
	}
}

func attachClsact(a attachment, program *ebpf.Program) error {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: a.ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("adding clsact to %s: %w", a.device, err)
	}
	filter := clsactFilter(a)
	filter.Fd = program.FD()
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("attaching to %s by clsact: %w", a, err)
	}
	return nil
}

func detachClsact(a attachment) error {
	if err := netlink.FilterDel(clsactFilter(a)); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("detaching from %s: %w", a, err)
	}
	return nil
}

// probeTCX attaches a program that does nothing to the loopback interface: the only certain answer.
func probeTCX() error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		return err
	}
	defer program.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: 1, Program: program, Attach: ebpf.AttachTCXEgress})
	if err != nil {
		return fmt.Errorf("%w: %v", ebpf.ErrNotSupported, err)
	}
	return l.Close()
}
