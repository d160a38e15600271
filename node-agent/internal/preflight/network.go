package preflight

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/facts"
)

// smallestMTU carries IPv6, which asks for 1280 bytes, inside of a tunnel's 70.
const smallestMTU = 1350

// networkChecks ask about interfaces, cards and rules; the facts are read once, by the first of them.
func networkChecks(peers []netip.Addr) []Check {
	var read *facts.Facts
	of := func(judge func(facts.Facts) Outcome) func(context.Context) Outcome {
		return func(context.Context) Outcome {
			if read == nil {
				f := facts.Read("")
				read = &f
			}
			return judge(*read)
		}
	}
	return []Check{
		{"adjacent", "Other nodes on the same link", func(context.Context) Outcome { return adjacent(peers) }},
		{"btf", "Kernel type information (BTF)", func(context.Context) Outcome { return btf("/sys/kernel/btf/vmlinux") }},
		{"leftovers", "Leftovers of other networks", func(context.Context) Outcome { return leftovers(datapath.FindLeftovers()) }},
		{"forward-policy", "Forwarding by other rules", func(context.Context) Outcome { return forwarding(datapath.FindLeftovers()) }},
		{"mtu", "MTU", of(mtu)},
		{"nic", "Network cards and XDP", of(cards)},
		{"kube-proxy-rules", "Rules of kube-proxy", of(serviceRules)},
		{"geneve", "Geneve tunnel", func(context.Context) Outcome {
			return probeLink(&netlink.Geneve{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, ID: 1, Remote: []byte{192, 0, 2, 1}}, "CONFIG_GENEVE",
				"none needed with tunnelProtocol vxlan or native routing")
		}},
		{"vxlan", "VXLAN tunnel", func(context.Context) Outcome {
			return probeLink(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, FlowBased: true, Port: 8472}, "CONFIG_VXLAN",
				"none needed with native routing")
		}},
		{"fq", "Packet scheduler fq", func(context.Context) Outcome { return scheduler() }},
	}
}

// adjacent asks the routing table whether other nodes are reached without a router in between.
func adjacent(peers []netip.Addr) Outcome {
	o := Outcome{Status: "pass", Expected: "no router in between, for autoDirectNodeRoutes"}
	if len(peers) == 0 {
		o.Status, o.Found = "skip", "no other nodes were named"
		return o
	}
	var behind, unreachable []string
	for _, peer := range peers {
		routes, err := netlink.RouteGet(peer.AsSlice())
		switch {
		case err != nil || len(routes) == 0:
			unreachable = append(unreachable, peer.String())
		case routes[0].Gw != nil || routes[0].Via != nil:
			behind = append(behind, peer.String())
		}
	}
	o.Found = fmt.Sprintf("%d of %d", len(peers)-len(behind)-len(unreachable), len(peers))
	if len(behind) > 0 {
		o.Status, o.Fix = "warn", "none needed in tunnel mode: a router stands before "+strings.Join(behind, ", ")
	}
	if len(unreachable) > 0 {
		o.Status, o.Fix = "fail", "there is no route to "+strings.Join(unreachable, ", ")
	}
	return o
}

func btf(path string) Outcome {
	info, err := os.Stat(path)
	if err != nil || info.Size() == 0 {
		return Outcome{Status: "fail", Found: "no " + path, Expected: path, Fix: "boot a kernel with CONFIG_DEBUG_INFO_BTF=y; those of all current distributions have it"}
	}
	return Outcome{Status: "pass", Found: fmt.Sprintf("%s, %d KiB", path, info.Size()/1024), Expected: path}
}

func mtu(f facts.Facts) Outcome {
	var found, small []string
	for _, i := range f.Interfaces {
		if i.Kind == "loopback" || i.Peer || strings.HasPrefix(i.Name, "fairlead") || len(i.Addresses) == 0 {
			continue
		}
		entry := fmt.Sprintf("%s %d", i.Name, i.MTU)
		found = append(found, entry)
		if i.MTU < smallestMTU {
			small = append(small, entry)
		}
	}
	o := Outcome{Status: "pass", Found: strings.Join(found, ", "), Expected: fmt.Sprintf("at least %d on every device with an address", smallestMTU)}
	if len(found) == 0 {
		o.Status, o.Found, o.Fix = "fail", "no device with an address", "give the node an address"
	}
	if len(small) > 0 {
		o.Status, o.Fix = "warn", "raise the MTU of "+strings.Join(small, ", ")+", or use native routing"
	}
	return o
}

func cards(f facts.Facts) Outcome {
	if len(f.Cards) == 0 {
		return Outcome{Status: "warn", Found: "no card that names its driver", Expected: "a driver, with native XDP for acceleration", Fix: "none needed without loadBalancer.acceleration"}
	}
	o := Outcome{Status: "pass", Expected: "a driver, with native XDP for acceleration"}
	var found, without []string
	for _, c := range f.Cards {
		entry := strings.TrimSpace(fmt.Sprintf("%s: %s %s", c.Interface, c.Driver, c.Version))
		if c.Firmware != "" && c.Firmware != "N/A" {
			entry += ", firmware " + c.Firmware
		}
		found = append(found, entry+", XDP "+c.XDP)
		if c.XDP == "generic" {
			without = append(without, c.Interface)
		}
	}
	o.Found = strings.Join(found, "; ")
	if len(without) > 0 {
		o.Status, o.Fix = "warn", "none needed without loadBalancer.acceleration: "+strings.Join(without, ", ")+" has no native XDP"
	}
	return o
}

func serviceRules(f facts.Facts) Outcome {
	o := Outcome{Status: "pass", Found: "none", Expected: "none, or a kube-proxy that stays"}
	count := f.Services.NFTables + f.Services.Legacy
	if count > 0 {
		o.Status, o.Found = "warn", fmt.Sprintf("%d chains of kube-proxy", count)
		o.Fix = "none needed while kube-proxy runs; after removing it run kube-proxy --cleanup on the node, or reboot it"
	}
	for _, problem := range f.Problems {
		if strings.Contains(problem, "tables") {
			o.Status, o.Found, o.Fix = "warn", problem, "run as root"
		}
	}
	return o
}

// inFreshNamespace runs fn in a network namespace of its own; nothing of it stays.
func inFreshNamespace(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		// The thread ends with the goroutine, as it is never unlocked, and the namespace with it.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("making a network namespace: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

func probeLink(link netlink.Link, option, otherwise string) Outcome {
	o := Outcome{Status: "pass", Found: "can be made", Expected: "a kernel with " + option}
	err := inFreshNamespace(func() error { return netlink.LinkAdd(link) })
	switch {
	case err == nil:
	case errors.Is(err, unix.EPERM):
		o.Status, o.Found, o.Fix = "skip", "may not be tried", "run as root"
	default:
		o.Status, o.Found, o.Fix = "warn", "the kernel refuses: "+err.Error(), otherwise
	}
	return o
}

func scheduler() Outcome {
	o := Outcome{Status: "pass", Found: "can be used", Expected: "a kernel with CONFIG_NET_SCH_FQ"}
	err := inFreshNamespace(func() error {
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "probe", TxQLen: 100}, PeerName: "other"}
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		return netlink.QdiscReplace(netlink.NewFq(netlink.QdiscAttrs{LinkIndex: link.Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}))
	})
	switch {
	case err == nil:
	case errors.Is(err, unix.EPERM):
		o.Status, o.Found, o.Fix = "skip", "may not be tried", "run as root"
	default:
		o.Status, o.Found, o.Fix = "warn", "the kernel refuses: "+err.Error(), "none needed without bandwidthManager.enabled; with it, what is above a pod's limit is dropped instead of delayed"
	}
	return o
}
