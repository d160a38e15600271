// Package services turns Kubernetes Services, EndpointSlices and pods' host ports into what the datapath translates.
package services

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	netutils "k8s.io/utils/net"

	"fairlead.dev/node-agent/internal/datapath"
)

// Key names a service.
type Key struct{ Namespace, Name string }

const (
	// proxyNameLabel hands a service to another implementation, headlessLabel to none; whatever their values.
	proxyNameLabel = "service.kubernetes.io/service-proxy-name"
	headlessLabel  = corev1.IsHeadlessService
	// RangesAnnotation is the older form of spec.loadBalancerSourceRanges.
	RangesAnnotation = "service.beta.kubernetes.io/load-balancer-source-ranges"
	// defaultAffinity is Kubernetes' timeout in seconds.
	defaultAffinity = 10800
)

var protocols = map[corev1.Protocol]uint8{corev1.ProtocolTCP: 6, corev1.ProtocolUDP: 17, corev1.ProtocolSCTP: 132, "": 6}

// Node is what services' meaning depends on of the node on which they are translated.
type Node struct {
	Name, Zone string
	// Addresses are where node ports are.
	Addresses []netip.Addr
	// WithoutExternalIPs ignores spec.externalIPs, WithoutHostPorts pods' host ports, WithoutAffinity spec.sessionAffinity.
	WithoutExternalIPs, WithoutHostPorts, WithoutAffinity bool
	// ExternalIPsFromPods serves clients inside of the cluster at external addresses as well.
	ExternalIPsFromPods bool
}

// Result is what one Kubernetes service becomes on a node.
type Result struct {
	// Services has one per port and address family.
	Services []datapath.Service
	// HealthPort is where load balancers ask; 0 is nowhere.
	HealthPort uint16
	// LocalEndpoints is how many ready ones this node has.
	LocalEndpoints PerFamily
}

// PerFamily is a count of each address family. Of a service of one family both are the same: whoever asks by the other family means
// the only one there is.
type PerFamily struct{ V4, V6 int }

func (p PerFamily) of(v6 bool) int {
	if v6 {
		return p.V6
	}
	return p.V4
}

// Build computes the datapath's services of one Kubernetes service. It is pure.
func Build(s *corev1.Service, list []*discoveryv1.EndpointSlice, node Node) Result {
	var out Result
	if s == nil || s.Spec.Type == corev1.ServiceTypeExternalName {
		return out
	}
	for _, label := range []string{proxyNameLabel, headlessLabel} {
		if _, theirs := s.Labels[label]; theirs {
			return out
		}
	}
	clusterIPs := s.Spec.ClusterIPs
	if len(clusterIPs) == 0 {
		clusterIPs = []string{s.Spec.ClusterIP}
	}
	var hasV4, hasV6 bool
	localAddresses := map[netip.Addr]struct{}{}
	for _, text := range clusterIPs {
		clusterIP, ok := parseAddress(text)
		if !ok { // headless
			continue
		}
		v6 := clusterIP.Is6()
		hasV4, hasV6 = hasV4 || !v6, hasV6 || v6
		for _, port := range s.Spec.Ports {
			protocol, ok := protocols[port.Protocol]
			if !ok {
				continue
			}
			id := datapath.ServiceID{Namespace: s.Namespace, Name: s.Name, PortName: port.Name, Protocol: protocol, V6: v6}
			endpoints := endpointsOf(list, id, s.Spec.PublishNotReadyAddresses, node.Name)
			service := choose(s, endpoints, node)
			service.ServiceID = id
			if !node.WithoutAffinity {
				service.AffinitySeconds = affinity(s)
			}
			service.Frontends = frontends(s, port, protocol, clusterIP, node)
			service.SourceRanges = sourceRanges(s, v6)
			out.Services = append(out.Services, service)
			for _, e := range endpoints {
				if e.ready && e.node == node.Name {
					localAddresses[e.address] = struct{}{}
				}
			}
		}
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		out.HealthPort = uint16(s.Spec.HealthCheckNodePort)
		for a := range localAddresses {
			if a.Is4() || !hasV4 {
				out.LocalEndpoints.V4++
			}
			if a.Is6() || !hasV6 {
				out.LocalEndpoints.V6++
			}
		}
	}
	return out
}

func affinity(s *corev1.Service) uint32 {
	if s.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return uint32(*c.ClientIP.TimeoutSeconds)
	}
	return defaultAffinity
}

// frontends are all ways to one port in the cluster address's family.
func frontends(s *corev1.Service, port corev1.ServicePort, protocol uint8, clusterIP netip.Addr, node Node) (out []datapath.Frontend) {
	add := func(a netip.Addr, number int32, kind datapath.ServiceKind) {
		f := datapath.Frontend{Address: a, Port: uint16(number), Protocol: protocol, Kind: kind}
		if a.Is4() == clusterIP.Is4() && !slices.ContainsFunc(out, func(o datapath.Frontend) bool { return o.Address == a && o.Port == f.Port }) {
			out = append(out, f)
		}
	}
	add(clusterIP, port.Port, datapath.ServiceClusterIP)
	if port.NodePort != 0 && len(node.Addresses) > 0 {
		for _, a := range node.Addresses {
			add(a.Unmap(), port.NodePort, datapath.ServiceNodePort)
		}
		add(unspecified(clusterIP.Is4()), port.NodePort, datapath.ServiceNodePort)
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			// A proxy in front wants to see the packets itself.
			if ingress.IPMode != nil && *ingress.IPMode == corev1.LoadBalancerIPModeProxy {
				continue
			}
			if a, ok := parseAddress(ingress.IP); ok {
				add(a, port.Port, datapath.ServiceLoadBalancer)
			}
		}
	}
	if !node.WithoutExternalIPs {
		for _, text := range s.Spec.ExternalIPs {
			if a, ok := parseAddress(text); ok {
				add(a, port.Port, datapath.ServiceExternalIP)
			}
		}
	}
	return out
}

func unspecified(v4 bool) netip.Addr {
	if v4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func sourceRanges(s *corev1.Service, v6 bool) (out []netip.Prefix) {
	texts := s.Spec.LoadBalancerSourceRanges
	if len(texts) == 0 {
		texts = splitList(s.Annotations[RangesAnnotation])
	}
	for _, text := range texts {
		if p, ok := parsePrefix(text); ok && p.Addr().Is6() == v6 {
			out = append(out, p.Masked())
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	out = slices.Compact(out)
	if len(texts) > 0 && len(out) == 0 {
		// Limited to the other family, or to nothing that can be read: nobody of this family may come.
		out = []netip.Prefix{netip.PrefixFrom(unspecified(!v6), unspecified(!v6).BitLen())}
	}
	return out
}

// parseAddress reads an address as Kubernetes does, which accepts and keeps 010.0.0.1 for 10.0.0.1.
func parseAddress(text string) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(text))
	return a.Unmap(), ok
}

// choose says which endpoints clients inside and outside get, as kube-proxy does: ready ones; where there is none, those that
// are about to go and still serve. Hints count for the policy Cluster, the node for the policy Local.
func choose(s *corev1.Service, list []endpoint, node Node) datapath.Service {
	out := datapath.Service{ExternalLocal: externallyLocal(s), InternalLocal: s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal}
	hinted := byHints(list, node)
	cluster := usable(list, hinted)
	local := usable(list, func(e endpoint) bool { return e.node == node.Name })
	inside, outside := cluster, cluster
	if out.InternalLocal {
		inside = local
	}
	if out.ExternalLocal {
		outside = local
	}
	insideCount, outsideCount := 0, 0
	for i, e := range list {
		b := datapath.Backend{Address: e.address, Port: e.port, Terminating: !e.ready, Internal: inside[i], External: outside[i]}
		if b.Internal {
			insideCount++
		}
		if b.External {
			outsideCount++
		}
		if !e.ready && !e.terminating && !b.Internal && !b.External {
			// Not ready, for a while: nothing new, and what it has goes on.
			b.Terminating = true
		}
		out.Backends = append(out.Backends, b)
	}
	any := slices.ContainsFunc(list, func(e endpoint) bool { return e.ready || e.serving && e.terminating })
	out.DropInternal = any && insideCount == 0
	out.DropExternal = any && outsideCount == 0
	out.ExternalInside = node.ExternalIPsFromPods
	return out
}

// externallyLocal: the policy exists only where clients outside have a way in.
func externallyLocal(s *corev1.Service) bool {
	outside := s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer || len(s.Spec.ExternalIPs) > 0
	return outside && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// usable marks the ready endpoints among those that may be used, or the ones that are about to go.
func usable(list []endpoint, may func(endpoint) bool) []bool {
	out := make([]bool, len(list))
	found := false
	for i, e := range list {
		out[i] = e.ready && may(e)
		found = found || out[i]
	}
	if found {
		return out
	}
	for i, e := range list {
		out[i] = e.serving && e.terminating && may(e)
	}
	return out
}

// byHints follows topology hints where every ready endpoint has some and one of them names this node or zone.
func byHints(list []endpoint, node Node) func(endpoint) bool {
	everyNode, everyZone, thisNode, thisZone := true, true, false, false
	for _, e := range list {
		if !e.ready {
			continue
		}
		everyNode = everyNode && len(e.nodeHints) > 0
		everyZone = everyZone && len(e.zoneHints) > 0
		thisNode = thisNode || slices.Contains(e.nodeHints, node.Name)
		thisZone = thisZone || node.Zone != "" && slices.Contains(e.zoneHints, node.Zone)
	}
	switch {
	case everyNode && thisNode:
		return func(e endpoint) bool { return !e.ready || slices.Contains(e.nodeHints, node.Name) }
	case everyZone && thisZone:
		return func(e endpoint) bool { return !e.ready || slices.Contains(e.zoneHints, node.Zone) }
	}
	return func(endpoint) bool { return true }
}
