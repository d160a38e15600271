package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/statefile"
)

// thisNode is what the agent needs to know of its own Node; the last answer is kept in a file for a start without API
// server.
type thisNode struct {
	UID      types.UID    `json:"uid"`
	Address  netip.Addr   `json:"address"`
	Address6 netip.Addr   `json:"address6,omitzero"`
	PodCIDR  netip.Prefix `json:"podCIDR"`
	PodCIDR6 netip.Prefix `json:"podCIDR6,omitzero"`
}

// podCIDRs lists the ranges of the families that pods have.
func (n thisNode) podCIDRs() []netip.Prefix {
	return slices.DeleteFunc([]netip.Prefix{n.PodCIDR, n.PodCIDR6}, func(p netip.Prefix) bool { return !p.IsValid() })
}

// primary is the address by which others reach this node.
func (n thisNode) primary() netip.Addr {
	if n.Address.IsValid() {
		return n.Address
	}
	return n.Address6
}

// nodeFrom reads the addresses and, of the families that pods are to have, the ranges. The node's address of another family
// does no harm and is known to be the host's.
func nodeFrom(n *corev1.Node, v4, v6 bool) (thisNode, error) {
	out := thisNode{UID: n.UID}
	for _, a := range n.Status.Addresses {
		address, err := netip.ParseAddr(a.Address)
		if a.Type != corev1.NodeInternalIP || err != nil {
			continue
		}
		if address.Is4() && !out.Address.IsValid() {
			out.Address = address
		} else if address.Is6() && !out.Address6.IsValid() {
			out.Address6 = address
		}
	}
	if !out.primary().IsValid() {
		return out, fmt.Errorf("node %s has no InternalIP yet", n.Name)
	}
	for _, text := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			continue
		}
		if p.Addr().Is4() && v4 && !out.PodCIDR.IsValid() {
			out.PodCIDR = p
		} else if p.Addr().Is6() && v6 && !out.PodCIDR6.IsValid() {
			out.PodCIDR6 = p
		}
	}
	for family, missing := range map[string]bool{"IPv4": v4 && !out.PodCIDR.IsValid(), "IPv6": v6 && !out.PodCIDR6.IsValid()} {
		if missing {
			return out, fmt.Errorf("node %s has no pod CIDR of %s: kube-controller-manager has to run with --allocate-node-cidrs and a --cluster-cidr of that family", n.Name, family)
		}
	}
	return out, nil
}

// withoutAPI is how long the API server is asked before the saved answer is used.
const withoutAPI = 5 * time.Second

// thisNode asks for the own Node until it has an address and a range.
func (a *agent) thisNode(ctx context.Context) (thisNode, error) {
	path := filepath.Join(a.RunDirectory, "state", "node.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return thisNode{}, fmt.Errorf("making the state directory: %w", err)
	}
	start := time.Now()
	for {
		var object corev1.Node
		err := a.client.Get(ctx, nodeResource, a.NodeName, &object)
		var n thisNode
		if err == nil {
			a.components.ok("kubernetes", a.client.Host())
			if n, err = nodeFrom(&object, *a.config.IPv4.Enabled, a.config.IPv6.Enabled); err == nil {
				text, _ := json.Marshal(n)
				if err := statefile.Write(path, text); err != nil {
					a.log.Warn("the node's facts were not saved", "error", err)
				}
				return n, nil
			}
			a.components.fail("node", err, "See: kubectl get node "+a.NodeName+" -o yaml")
		} else {
			a.components.fail("kubernetes", err, "Check that "+a.client.Host()+" can be reached from this node (k8sServiceHost, k8sServicePort) and that the agent's ClusterRole is there.")
			if text, readErr := os.ReadFile(path); readErr == nil && time.Since(start) > withoutAPI && json.Unmarshal(text, &n) == nil {
				a.log.Warn("the API server does not answer; starting with what is known of this node", "error", err)
				return n, nil
			}
		}
		if err := pause(ctx, time.Second); err != nil {
			return thisNode{}, err
		}
	}
}

// outwardDevices finds the interface that has the node's address, and that of the default route.
func outwardDevices(address netip.Addr) ([]string, error) {
	var out []string
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(address.AsSlice()) {
				out = append(out, i.Name)
			}
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil && r.Dst.String() != "0.0.0.0/0" && r.Dst.String() != "::/0" {
			continue
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil && !slices.Contains(out, link.Attrs().Name) {
			out = append(out, link.Attrs().Name)
		}
	}
	if len(out) == 0 {
		return nil, &datapath.Problem{Code: "devices.none", What: "No interface of this node leads outward.",
			Why: fmt.Sprintf("None has address %s and there is no default route.", address), Fix: "Set devices in the configuration."}
	}
	return out, nil
}

// cgroupRoot finds the node's cgroup2 tree.
func cgroupRoot(candidates []string) (string, error) {
	for _, c := range candidates {
		var s unix.Statfs_t
		if unix.Statfs(c, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC {
			return c, nil
		}
	}
	return "", &datapath.Problem{Code: "cgroup.none", What: "The node has no cgroup2 file system.",
		Why: fmt.Sprintf("Services are translated by programs attached to it; looked at %v.", candidates),
		Fix: "Mount it on the node: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified; or set kubeProxyReplacement: false."}
}

// ensureBPFFS mounts the bpf file system where the node has none.
func ensureBPFFS(path string) error {
	var s unix.Statfs_t
	err := unix.Statfs(path, &s)
	if err == nil && s.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if mountErr := unix.Mount("bpf", path, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); mountErr != nil {
		return &datapath.Problem{Code: "bpffs.none", What: path + " is no bpf file system.",
			Why: "Maps and links are pinned there, so that traffic outlives the agent.", Fix: "Mount it on the node: mount -t bpf bpf " + path,
			Cause: errors.Join(err, mountErr)}
	}
	return nil
}
