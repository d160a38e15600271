package services

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/kubernetes"
)

// HostPorts computes the datapath's services of one pod's host ports. It is pure. The name of a host port's service is the
// pod's; nobody outside of this node translates it.
func HostPorts(p *corev1.Pod, node Node) (out []datapath.Service) {
	if p == nil || node.WithoutHostPorts || p.Spec.HostNetwork || p.Spec.NodeName != node.Name || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	for _, container := range kubernetes.LastingContainers(p) {
		for _, port := range container.Ports {
			protocol, ok := protocols[port.Protocol]
			if port.HostPort == 0 || !ok {
				continue
			}
			for _, address := range podAddresses(p) {
				id := datapath.ServiceID{Namespace: p.Namespace, Name: p.Name, PortName: fmt.Sprintf("host-port-%d", port.HostPort), Protocol: protocol, V6: address.Is6()}
				s := datapath.Service{ServiceID: id, Backends: []datapath.Backend{{Address: address, Port: uint16(port.ContainerPort), Internal: true, External: true}}}
				at := func(a netip.Addr) {
					s.Frontends = append(s.Frontends, datapath.Frontend{Address: a, Port: uint16(port.HostPort), Protocol: protocol, Kind: datapath.ServiceHostPort})
				}
				host, err := netip.ParseAddr(port.HostIP)
				switch {
				case err == nil && !host.IsUnspecified():
					if host.Is4() != address.Is4() {
						continue
					}
					at(host)
				case err == nil && host.Is4() && !address.Is4():
					// 0.0.0.0 is every address of version 4; :: is every address of both.
					continue
				default:
					for _, a := range node.Addresses {
						if a.Is4() == address.Is4() {
							at(a)
						}
					}
					at(unspecified(address.Is4()))
				}
				out = append(out, s)
			}
		}
	}
	return out
}

func podAddresses(p *corev1.Pod) (out []netip.Addr) {
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		if a, err := netip.ParseAddr(p.Status.PodIP); err == nil {
			out = append(out, a)
		}
	}
	return out
}

func splitList(text string) (out []string) {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

func parsePrefix(text string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(strings.TrimSpace(text))
	return p, err == nil
}
