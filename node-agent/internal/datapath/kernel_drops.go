package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// DropKernel is the reason of what the kernel dropped and not a program; Event.Rule is the kernel's own reason then. It is
// beyond Hubble's numbers.
const DropKernel = 208

// kernelReasons is how many of the kernel's reasons are counted one by one; the last counter is for all others.
const kernelReasons = 512

// kernelDropsPin is the link's file.
const kernelDropsPin = "kfree_skb"

// ownReasons are those with which the kernel frees what a program has dropped: counted where it was decided.
var ownReasons = []string{"TC_INGRESS", "TC_EGRESS", "XDP", "BPF_CGROUP_EGRESS"}

// KernelDrop counts what the kernel dropped of this node's pods' packets, by its reason.
type KernelDrop struct {
	Reason         string
	Packets, Bytes uint64
}

// dropReasons are the running kernel's names, by number; read once, since a kernel does not change.
var dropReasons = sync.OnceValues(func() (map[uint32]string, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's types: %w", err)
	}
	var reasons *btf.Enum
	if err := spec.TypeByName("skb_drop_reason", &reasons); err != nil {
		return nil, fmt.Errorf("the kernel gives no reasons for drops (5.17 and later do): %w", err)
	}
	out := map[uint32]string{}
	for _, v := range reasons.Values {
		out[uint32(v.Value)] = strings.TrimPrefix(strings.TrimPrefix(v.Name, "SKB_DROP_REASON_"), "SKB_")
	}
	return out, nil
})

// KernelDropReason names a reason of the running kernel; the number where it has no name.
func KernelDropReason(number uint32) string {
	if names, err := dropReasons(); err == nil {
		if name, ok := names[number]; ok {
			return name
		}
	}
	return fmt.Sprintf("reason %d", number)
}

// watchKernelDrops attaches kfree_skb to its tracepoint. A kernel that cannot do without it loses nothing else; status says
// so. It writes into the same ring as the programs.
func (k *kernel) watchKernelDrops() error {
	c, err := parseObject("kfree_skb")
	if err != nil {
		return err
	}
	own := [8]uint32{}
	hasReason := uint32(0)
	if names, err := dropReasons(); err == nil {
		hasReason = 1
		at := 0
		for number, name := range names {
			if slices.Contains(ownReasons, name) {
				own[at] = number
				at++
			}
		}
	}
	var values configLayout
	s, err := k.makeSpec()
	if err != nil {
		return err
	}
	if err := s.collections["from_pod"].Variables["config"].Get(&values); err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	for name, value := range map[string]any{"own_reasons": own, "has_reason": hasReason, "config": values} {
		if v := c.Variables[name]; v != nil {
			if err := v.Set(value); err != nil {
				return fmt.Errorf("specialising kfree_skb: %w", err)
			}
		}
	}
	shared := map[string]*ebpf.Map{}
	for name, m := range c.Maps {
		if known := k.objects.maps[name]; known != nil {
			m.MaxEntries = known.MaxEntries()
			shared[name] = known
			continue
		}
		if name[0] == '.' {
			continue
		}
		own, err := openMap(m, mapPin(k.mapDirectory(), name))
		if err != nil {
			return fmt.Errorf("opening map %s: %w", name, err)
		}
		k.objects.maps[name], shared[name] = own, own
	}
	loaded, err := ebpf.NewCollectionWithOptions(c, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return fmt.Errorf("loading kfree_skb: %w", err)
	}
	defer loaded.Close()
	return k.attachTracing(loaded.Programs["kfree_skb"])
}

// attachTracing replaces the link of an earlier run: links of tracepoints take no other program, so for a moment both are
// there, or where that is refused, none.
func (k *kernel) attachTracing(p *ebpf.Program) error {
	pin := filepath.Join(k.linkDirectory(), kernelDropsPin)
	if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", pin, err)
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: p})
	if err != nil {
		return fmt.Errorf("attaching to the tracepoint kfree_skb: %w", err)
	}
	defer l.Close()
	if err := l.Pin(pin); err != nil {
		return fmt.Errorf("pinning the link of kfree_skb: %w", err)
	}
	return nil
}

// SeesKernelDrops implements Datapath.
func (k *kernel) SeesKernelDrops() error {
	return k.read("reading the kernel's drops", func() error { return k.kernelDrops })
}

// KernelDrops implements Datapath.
func (k *kernel) KernelDrops() ([]KernelDrop, error) {
	var out []KernelDrop
	err := k.read("reading the kernel's drops", func() error {
		m := k.objects.maps["kernel_drops"]
		if k.kernelDrops != nil || m == nil {
			return k.kernelDrops
		}
		counters, err := sumsPerProcessor(m, addCounter)
		if err != nil {
			return err
		}
		for index, n := range counters {
			c := KernelDrop{Reason: KernelDropReason(uint32(index)), Packets: n.Packets, Bytes: n.Bytes}
			if index == kernelReasons-1 {
				c.Reason = "others"
			}
			if c.Packets > 0 {
				out = append(out, c)
			}
		}
		return nil
	})
	return out, err
}
