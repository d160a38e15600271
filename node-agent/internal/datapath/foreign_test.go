package datapath_test

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// passes makes a program of the given name that lets every packet pass.
func passes(t *testing.T, name string) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	must(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// What another network left on the node is named, whatever it is; the agent beside it runs, takes none of it for its own,
// and leaves all of it alone, when it comes, while it runs, and when it is removed.
func TestLeftoversOfOthersAreNamedAndStay(t *testing.T) {
	c := newCluster(t, datapath.RoutingTunnel)
	n := c.nodes[0]
	found := func() (out datapath.Leftovers) {
		must(t, n.space.in(func() error { out = datapath.FindLeftovers(); return nil }))
		return out
	}
	if got := found(); !got.None() || got.Err != nil {
		t.Errorf("on a node of our own: %+v", got)
	}
	must(t, n.space.in(func() error {
		for _, l := range []netlink.Link{
			&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}},
			&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "cilium_host"}, PeerName: "cilium_net"},
			&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1"}, VxlanId: 1, Port: 4789},
		} {
			if err := netlink.LinkAdd(l); err != nil {
				return fmt.Errorf("adding %s: %w", l.Attrs().Name, err)
			}
		}
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		attached, err := link.AttachTCX(link.TCXOptions{Program: passes(t, "cil_from_netdev"), Attach: ebpf.AttachTCXIngress, Interface: eth0.Attrs().Index})
		if err != nil {
			return err
		}
		t.Cleanup(func() { attached.Close() })
		qdisc := &netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: eth0.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}, QdiscType: "clsact"}
		if err := netlink.QdiscAdd(qdisc); err != nil {
			return err
		}
		return netlink.FilterAdd(&netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: eth0.Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
			Fd: passes(t, "calico_tc").FD(), Name: "calico_tc", DirectAction: true})
	}))
	whole := func(when string) {
		t.Helper()
		got := found()
		for _, want := range []string{"cni0 (the bridge plugin)", "cilium_host (Cilium)", "cilium_net (Cilium)", "flannel.1 (Flannel)"} {
			if !slices.Contains(got.Interfaces, want) {
				t.Errorf("%s: %q is not among %v", when, want, got.Interfaces)
			}
		}
		if want := []string{"cil_from_netdev on eth0", "calico_tc on eth0"}; !slices.Equal(got.Programs, want) {
			t.Errorf("%s: programs %v, want %v", when, got.Programs, want)
		}
	}
	whole("beside the running agent")
	must(t, n.datapath.Close())
	n.open()
	whole("after a restart")
	server := c.nodes[1].pods[0]
	server.space.echoTCP(t, ":7000")
	if _, err := n.pods[0].space.try("tcp4", server.address.String()+":7000"); err != nil {
		t.Errorf("beside them pods do not reach each other: %v", err)
	}
	for _, p := range n.pods {
		must(t, n.datapath.RemoveEndpoint(ctx, p.endpoint.ID))
	}
	must(t, n.datapath.Close())
	must(t, n.space.in(func() error { return datapath.Cleanup(ctx, n.config.BPFFS) }))
	whole("after a cleanup")
}

func TestForwardingThatIsForbiddenIsNamed(t *testing.T) {
	requireRoot(t)
	s := newSpace(t)
	run := func(name string, arguments ...string) {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("no %s on this machine, with which others forbid forwarding", name)
		}
		must(t, s.in(func() error {
			out, err := exec.Command(name, arguments...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s %v: %w: %s", name, arguments, err, out)
			}
			return nil
		}))
	}
	run("iptables-legacy", "-P", "FORWARD", "DROP")
	run("iptables-nft", "-P", "FORWARD", "DROP")
	run("nft", "add", "table", "inet", "strict")
	run("nft", "add", "chain", "inet", "strict", "everything", "{ type filter hook forward priority 10; policy drop; }")
	var got datapath.Leftovers
	must(t, s.in(func() error { got = datapath.FindLeftovers(); return nil }))
	all := strings.Join(got.ForwardDrops, ", ")
	for _, want := range []string{"iptables-legacy filter FORWARD", "filter FORWARD", "strict everything"} {
		if !slices.Contains(got.ForwardDrops, want) {
			t.Errorf("%q is not among %s", want, all)
		}
	}
}
