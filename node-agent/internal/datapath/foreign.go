package datapath

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"fairlead.dev/node-agent/internal/datapath/netfilter"
)

// Leftovers are what other networks have on this node, in the calling thread's network namespace. They are named and never
// removed: only who made them knows what still needs them.
type Leftovers struct {
	// Interfaces are devices that a network plugin makes, with its name: "cni0 (bridge)".
	Interfaces []string
	// Programs are BPF programs of others where packets of the node and its pods pass: "cil_from_netdev on eth0".
	Programs []string
	// ForwardDrops are chains that drop what is forwarded by default.
	ForwardDrops []string
	// Err is what could not be looked at.
	Err error
}

// None says whether nothing was found.
func (l Leftovers) None() bool {
	return len(l.Interfaces) == 0 && len(l.Programs) == 0 && len(l.ForwardDrops) == 0
}

// pluginInterfaces are the names of devices that plugins make, and whose they are.
var pluginInterfaces = []struct{ pattern, plugin string }{
	{"cilium_*", "Cilium"}, {"lxc_health", "Cilium"}, {"cali[0-9a-f]*", "Calico"}, {"vxlan.calico", "Calico"}, {"vxlan-v6.calico", "Calico"}, {"wireguard.cali", "Calico"},
	{"bpfin.cali", "Calico"}, {"flannel.*", "Flannel"}, {"flannel-v6.*", "Flannel"}, {"flannel-wg*", "Flannel"}, {"cni[0-9]*", "the bridge plugin"},
	{"cbr0", "kubenet"}, {"weave", "Weave"}, {"vethwe-*", "Weave"}, {"kube-bridge", "kube-router"}, {"kube-ipvs0", "kube-proxy in IPVS mode"},
	{"antrea-*", "Antrea"}, {"ovn-k8s-*", "OVN-Kubernetes"}, {"ovn0", "Kube-OVN"}, {"genev_sys_*", "Open vSwitch"}, {"vxlan_sys_*", "Open vSwitch"},
}

// pluginOf gives whose an interface is; empty: no plugin's that is known.
func pluginOf(name string) string {
	for _, x := range pluginInterfaces {
		if matched, err := path.Match(x.pattern, name); err == nil && matched {
			return x.plugin
		}
	}
	return ""
}

// ownNames reads the objects once.
var ownNames = sync.OnceValues(ownPrograms)

// FindLeftovers looks at all interfaces and chains.
func FindLeftovers() Leftovers {
	var out Leftovers
	links, err := netlink.LinkList()
	failed := []error{err}
	own, err := ownNames()
	failed = append(failed, err)
	// The same few programs are on every pod's device.
	names := map[ebpf.ProgramID]string{}
	for _, l := range links {
		name := l.Attrs().Name
		if plugin := pluginOf(name); plugin != "" {
			out.Interfaces = append(out.Interfaces, fmt.Sprintf("%s (%s)", name, plugin))
		}
		for _, program := range foreignPrograms(l, own, names) {
			out.Programs = append(out.Programs, fmt.Sprintf("%s on %s", program, name))
		}
	}
	c, err := nftables.New()
	if err == nil {
		out.ForwardDrops = netfilter.ForwardDrops(c)
	}
	failed = append(failed, err)
	out.ForwardDrops = append(out.ForwardDrops, netfilter.LegacyForwardDrops()...)
	out.Err = errors.Join(failed...)
	return out
}

// foreignPrograms are those at the places where packets pass that no object of ours has. names remembers what was asked.
func foreignPrograms(l netlink.Link, own map[string]bool, names map[ebpf.ProgramID]string) []string {
	var found []string
	nameOf := func(id ebpf.ProgramID) string {
		name, known := names[id]
		if !known {
			name = programName(id)
			names[id] = name
		}
		return name
	}
	add := func(name string) {
		if name != "" && !own[name] && !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		result, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: attach})
		if err != nil {
			continue
		}
		for _, p := range result.Programs {
			add(nameOf(p.ID))
		}
	}
	if xdp := l.Attrs().Xdp; xdp != nil && xdp.Attached {
		add(nameOf(ebpf.ProgramID(xdp.ProgId)))
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(l, parent)
		if err != nil {
			continue
		}
		for _, f := range filters {
			if b, ok := f.(*netlink.BpfFilter); ok && b.Name != filterName {
				name, _, _ := strings.Cut(b.Name, ":[")
				add(name)
			}
		}
	}
	return found
}
