package agent

import (
	"context"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/services"
)

// nodeHealthAddress is where kube-proxy says whether a node translates services.
const nodeHealthAddress = ":10256"

func (a *agent) loadBalancer() datapath.LoadBalancer {
	c := a.config
	first, last, _ := c.NodePortRange()
	return datapath.LoadBalancer{Mode: c.LoadBalancer.Mode, Algorithm: c.LoadBalancer.Algorithm, Acceleration: c.LoadBalancer.Acceleration,
		MaglevTableSize: c.Maglev.TableSize, MaglevHashSeed: c.Maglev.HashSeed, NodePortMin: first, NodePortMax: last,
		SocketsOff: !*c.SocketLB.Enabled, HostNamespaceOnly: c.SocketLB.HostNamespaceOnly, ServicesMax: c.BPF.LBMapMax}
}

// netnsDirectories are where the files of pods' network namespaces are, in the agent's container and on the node itself.
var netnsDirectories = []string{"/host/var/run/netns", "/var/run/netns"}

func netnsDirectory() string {
	for _, d := range netnsDirectories {
		if s, err := os.Stat(d); err == nil && s.IsDir() {
			return d
		}
	}
	return ""
}

// newServices makes the manager of services. Without the replacement of kube-proxy it only knows their names, for flows.
func (a *agent) newServices(settings datapath.Config, dp datapath.Datapath) *services.Manager {
	node := services.Node{Name: a.NodeName, WithoutExternalIPs: !*a.config.ExternalIPs.Enabled, ExternalIPsFromPods: a.config.ExternalIPs.FromPods,
		WithoutHostPorts: !*a.config.HostPort.Enabled, WithoutAffinity: !*a.config.SessionAffinity}
	if !settings.KubeProxyReplacement {
		node.WithoutHostPorts = true
		return services.New(dp, node, nil, a.log)
	}
	return services.New(dp, node, a.serviceHealth, a.log)
}

// followNode tells the services where this node's ports are: on every address of its devices.
func (a *agent) followNode(ctx context.Context, s *serving) error {
	settings := s.parts.Settings
	if !settings.KubeProxyReplacement {
		return nil
	}
	addresses := nodePortAddresses(settings)
	return s.parts.Services.SetNode(ctx, func(own *services.Node) { own.Addresses = addresses })
}

// nodePortAddresses asks for the devices by name: package net would have the kernel list every interface of the node twice
// over for each of them, and this is asked every 2 s.
func nodePortAddresses(c datapath.Config) (out []netip.Addr) {
	for _, name := range c.Devices {
		device, err := netlink.LinkByName(name)
		if err != nil {
			continue
		}
		addresses, err := netlink.AddrList(device, netlink.FAMILY_ALL)
		if err != nil {
			continue
		}
		for _, each := range addresses {
			if address, ok := netip.AddrFromSlice(each.IP); ok && !address.IsLinkLocalUnicast() {
				out = append(out, address.Unmap())
			}
		}
	}
	if !slices.Contains(out, c.NodeAddress) {
		out = append(out, c.NodeAddress)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// trimService keeps of the annotations the one that has a meaning.
func trimService(s *corev1.Service) {
	ranges, ok := s.Annotations[services.RangesAnnotation]
	s.Annotations = nil
	if ok {
		s.Annotations = map[string]string{services.RangesAnnotation: ranges}
	}
}

// hostPorts publishes a pod's host ports; nil takes them back.
func (w *watcher) hostPorts(of, now *corev1.Pod) {
	w.note("host ports", w.parts.Services.SetPod(w.ctx, services.Key{Namespace: of.Namespace, Name: of.Name}, now))
}

// zone tells the services in which zone this node is.
func (w *watcher) zone(n *corev1.Node) {
	if n.Name == w.self {
		w.note("zone", w.parts.Services.SetNode(w.ctx, func(own *services.Node) { own.Zone = n.Labels[corev1.LabelTopologyZone] }))
	}
}
