package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
)

// Answer of a feature probe.
type Answer uint8

const (
	// CannotTell means that the probe itself failed (permissions, memory), so nothing is known.
	CannotTell Answer = iota
	No
	Yes
)

// String gives "yes", "no" or "cannot tell".
func (a Answer) String() string {
	return [...]string{"cannot tell", "no", "yes"}[min(a, Yes)]
}

// Feature is one thing that a kernel may have.
type Feature struct {
	Name string
	// Required features make Open fail; others have a fallback, named in Without.
	Required bool
	// Since is the kernel version that brought it; Config is its kernel option.
	Since, Config, Without string
	Answer                 Answer
	// Err is why the answer is No or CannotTell.
	Err error
}

// Probes answers whether the kernel has a feature, by name. The error of "no" wraps ebpf.ErrNotSupported.
type Probes interface {
	Probe(name string) error
}

// KernelProbes asks the running kernel.
type KernelProbes struct{}

// Probe implements Probes.
func (KernelProbes) Probe(name string) error {
	switch name {
	case "btf":
		// Parsing it all would take half a second and 30 MiB, and nothing needs the result.
		if _, err := os.Stat("/sys/kernel/btf/vmlinux"); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%w: %v", ebpf.ErrNotSupported, err)
		} else if err != nil {
			return err
		}
		return nil
	case "tcx":
		return probeTCX()
	case "ring-buffer":
		return features.HaveMapType(ebpf.RingBuf)
	case "lpm-trie":
		return features.HaveMapType(ebpf.LPMTrie)
	case "lru-hash":
		return features.HaveMapType(ebpf.LRUHash)
	case "redirect-peer":
		return features.HaveProgramHelper(ebpf.SchedCLS, asm.FnRedirectPeer)
	case "redirect-neigh":
		return features.HaveProgramHelper(ebpf.SchedCLS, asm.FnRedirectNeigh)
	case "fq":
		return probeScheduler(fqKind)
	case "delivery-time":
		return features.HaveProgramHelper(ebpf.SchedCLS, asm.FnSkbSetTstamp)
	case "coarse-clock":
		return features.HaveProgramHelper(ebpf.SchedCLS, asm.FnKtimeGetCoarseNs)
	case "cgroup-hooks":
		return features.HaveProgramType(ebpf.CGroupSockAddr)
	case "set-retval":
		return features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval)
	case "read-kernel":
		return features.HaveProgramHelper(ebpf.CGroupSock, asm.FnProbeReadKernel)
	}
	return fmt.Errorf("no probe named %q", name)
}

// abilities are what programs are specialised with of what a kernel may have or not; the zero value is one that has nothing.
type abilities struct {
	// setRetval: a program of sockets may say with which error a call fails.
	setRetval bool
	// ipv6Only is which bit of the kernel's sockets says that they take IPv6 alone.
	ipv6Only bitOf
}

// bitOf names a bit of a structure by its byte and a mask; no mask is a bit that cannot be read.
type bitOf struct {
	at  uint16
	bit uint8
}

// abilitiesOf asks the kernel. What it does not answer is taken for no, and logged where that is not for lack of a feature.
func abilitiesOf(p Probes, log *slog.Logger) (has abilities) {
	has.setRetval = p.Probe("set-retval") == nil
	if p.Probe("read-kernel") == nil {
		var err error
		if has.ipv6Only, err = ipv6OnlyBit(); err != nil {
			log.Warn("listeners of IPv6 alone cannot be told from those of both families", "error", err)
		}
	}
	return has
}

// ipv6OnlyBit finds sock_common.skc_ipv6only, a bit field that has been somewhere else in other kernels.
func ipv6OnlyBit() (bitOf, error) {
	types, err := btf.LoadKernelSpec()
	if err != nil {
		return bitOf{}, fmt.Errorf("reading the kernel's types: %w", err)
	}
	var common *btf.Struct
	if err := types.TypeByName("sock_common", &common); err != nil {
		return bitOf{}, fmt.Errorf("looking for the kernel's sockets: %w", err)
	}
	for _, m := range common.Members {
		if m.Name == "skc_ipv6only" && m.BitfieldSize == 1 && m.Offset/8 <= math.MaxUint16 {
			return bitOf{uint16(m.Offset / 8), 1 << (m.Offset % 8)}, nil
		}
	}
	return bitOf{}, errors.New("the kernel's sockets have no bit named skc_ipv6only")
}

var wanted = []Feature{
	{Name: "btf", Required: true, Since: "5.4", Config: "CONFIG_DEBUG_INFO_BTF"},
	{Name: "ring-buffer", Required: true, Since: "5.8", Config: "CONFIG_BPF_SYSCALL"},
	{Name: "lpm-trie", Required: true, Since: "4.11", Config: "CONFIG_BPF_SYSCALL"},
	{Name: "lru-hash", Required: true, Since: "4.10", Config: "CONFIG_BPF_SYSCALL"},
	{Name: "redirect-peer", Required: true, Since: "5.10", Config: "CONFIG_NET"},
	{Name: "redirect-neigh", Required: true, Since: "5.10", Config: "CONFIG_INET"},
	{Name: "coarse-clock", Required: true, Since: "5.11", Config: "CONFIG_BPF_SYSCALL"},
	{Name: "cgroup-hooks", Required: true, Since: "4.17", Config: "CONFIG_CGROUP_BPF"},
	{Name: "set-retval", Since: "5.18", Config: "CONFIG_CGROUP_BPF", Without: "connections to a service without endpoints fail with EPERM instead of ECONNREFUSED"},
	{Name: "read-kernel", Since: "5.10", Config: "CONFIG_BPF_EVENTS, and no lockdown for confidentiality", Without: "the numbers of IPv4 node ports are refused to the node's listeners of IPv6 alone as well"},
	{Name: "delivery-time", Since: "5.18", Config: "CONFIG_NET", Without: "limits of bandwidth drop packets instead of delaying them"},
	{Name: "fq", Since: "3.12", Config: "CONFIG_NET_SCH_FQ", Without: "limits of bandwidth drop packets instead of delaying them"},
	{Name: "tcx", Since: "6.6", Config: "CONFIG_NET_XGRESS", Without: "clsact filters are used instead"},
}

// Features probes everything that the datapath can use.
func Features(_ context.Context, p Probes) []Feature {
	if p == nil {
		p = KernelProbes{}
	}
	out := make([]Feature, 0, len(wanted))
	for _, f := range wanted {
		err := p.Probe(f.Name)
		switch {
		case err == nil:
			f.Answer = Yes
		case errors.Is(err, ebpf.ErrNotSupported):
			f.Answer, f.Err = No, err
		default:
			f.Answer, f.Err = CannotTell, err
		}
		out = append(out, f)
	}
	return out
}

// requireFeatures gives the problem of the first required feature that is missing.
func requireFeatures(ctx context.Context, p Probes) error {
	for _, f := range Features(ctx, p) {
		if f.Required && f.Answer == No {
			return &Problem{
				Code:  "kernel.no-" + f.Name,
				What:  fmt.Sprintf("This node's kernel lacks %s.", f.Name),
				Why:   fmt.Sprintf("The datapath cannot work without it; it needs Linux %s or newer built with %s.", f.Since, f.Config),
				Fix:   "Boot a kernel of 5.15 or newer that has this option; distribution kernels have it.",
				Cause: f.Err,
			}
		}
	}
	return nil
}
