package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/endpoints"
	"fairlead.dev/node-agent/internal/identities"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/internal/kubernetes"
	"fairlead.dev/node-agent/internal/nodes"
	"fairlead.dev/node-agent/internal/services"
	"fairlead.dev/node-agent/policy"
)

// watched is anything with an informer's life.
type watched interface {
	Run(context.Context)
	Synced() bool
	Name() string
	Err() error
}

// watcher turns news of the API server into calls of the managers.
type watcher struct {
	ctx   context.Context
	parts *api.Parts
	log   *slog.Logger
	self  string
	// refresh is told of pods ("namespace/name") and namespaces ("name") whose labels changed.
	refresh *queue
	// policyChanged wakes the one who writes policies' conditions.
	policyChanged chan struct{}
	// selfChanged wakes the one who writes this node's own CiliumNode.
	selfChanged chan struct{}

	pods       *kubernetes.Informer[*corev1.Pod]
	namespaces *kubernetes.Informer[*corev1.Namespace]
	ceps       *kubernetes.Informer[*ciliumv2.CiliumEndpoint]
	ids        *kubernetes.Informer[*ciliumv2.CiliumIdentity]
	cnps       *kubernetes.Informer[*ciliumv2.CiliumNetworkPolicy]
	ccnps      *kubernetes.Informer[*ciliumv2.CiliumClusterwideNetworkPolicy]
	all        []watched
	apiServer  apiServerAddresses
	// policyServices is what policies see of services.
	policyServices policyServices
	// refusals is nil where no networks are refused.
	refusals *refusals
}

func (w *watcher) note(what string, err error) {
	if err != nil && w.ctx.Err() == nil {
		w.log.Warn("the datapath refused a change; it will be tried again", "change", what, "error", err)
	}
}

// informers makes all informers; none runs yet.
func (w *watcher) informers(c *kubernetes.Client) {
	core := func(name string) kubernetes.Resource {
		return kubernetes.Resource{Group: corev1.SchemeGroupVersion, Name: name}
	}
	cilium := func(name string) kubernetes.Resource {
		return kubernetes.Resource{Group: ciliumv2.GroupVersion, Name: name}
	}

	w.pods = kubernetes.NewInformer(c, podResource, "spec.nodeName="+w.self, &corev1.Pod{}, &corev1.PodList{}, trimPod, kubernetes.Handler[*corev1.Pod]{
		Changed: func(old, now *corev1.Pod) {
			if old != nil && (!maps.Equal(old.Labels, now.Labels) || !maps.Equal(old.Annotations, now.Annotations)) {
				w.refresh.add(now.Namespace + "/" + now.Name)
			}
			w.hostPorts(now, now)
		},
		Deleted: func(p *corev1.Pod) { w.hostPorts(p, nil) }})
	w.namespaces = kubernetes.NewInformer(c, namespaceResource, "", &corev1.Namespace{}, &corev1.NamespaceList{}, func(n *corev1.Namespace) {
		n.Annotations, n.Spec, n.Status = nil, corev1.NamespaceSpec{}, corev1.NamespaceStatus{}
	}, kubernetes.Handler[*corev1.Namespace]{
		Changed: func(old, now *corev1.Namespace) {
			if old != nil && !maps.Equal(old.Labels, now.Labels) {
				w.refresh.add(now.Name)
			}
		}})
	svcs := kubernetes.NewInformer(c, core("services"), "", &corev1.Service{}, &corev1.ServiceList{}, trimService,
		kubernetes.Handler[*corev1.Service]{
			Changed: func(_, s *corev1.Service) {
				w.serviceChanged(s)
				w.note("service", w.parts.Services.SetService(w.ctx, services.Key{Namespace: s.Namespace, Name: s.Name}, s))
			},
			Deleted: func(s *corev1.Service) {
				w.serviceDeleted(s)
				w.note("service", w.parts.Services.SetService(w.ctx, services.Key{Namespace: s.Namespace, Name: s.Name}, nil))
			}})
	slices := kubernetes.NewInformer(c, kubernetes.Resource{Group: discoveryv1.SchemeGroupVersion, Name: "endpointslices"}, "", &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{}, trimSlice,
		kubernetes.Handler[*discoveryv1.EndpointSlice]{
			Changed: func(old, s *discoveryv1.EndpointSlice) { w.slice(old, s, false) },
			Deleted: func(s *discoveryv1.EndpointSlice) { w.slice(s, s, true) }})
	nodesOfKubernetes := kubernetes.NewInformer(c, nodeResource, "", &corev1.Node{}, &corev1.NodeList{}, func(n *corev1.Node) {
		n.Annotations, n.Status.Images, n.Status.Conditions, n.Status.VolumesAttached, n.Status.VolumesInUse = nil, nil, nil, nil, nil
	}, kubernetes.Handler[*corev1.Node]{
		Changed: func(_, n *corev1.Node) { w.node(n) },
		Deleted: func(n *corev1.Node) { w.nodeDeleted(n) }})
	cns := kubernetes.NewInformer(c, ciliumNodes, "", &ciliumv2.CiliumNode{}, &ciliumv2.CiliumNodeList{}, nil, kubernetes.Handler[*ciliumv2.CiliumNode]{
		Changed: func(_, n *ciliumv2.CiliumNode) {
			w.own(n.Name)
			if node, ok := nodes.FromCilium(n); ok {
				w.note("node", w.parts.Nodes.Set(w.ctx, node))
			}
		},
		Deleted: func(n *ciliumv2.CiliumNode) {
			w.own(n.Name)
			w.note("node", w.parts.Nodes.Remove(w.ctx, n.Name))
		}})
	w.ids = kubernetes.NewInformer(c, identities.Resource, "", &ciliumv2.CiliumIdentity{}, &ciliumv2.CiliumIdentityList{}, nil, kubernetes.Handler[*ciliumv2.CiliumIdentity]{
		Changed: func(_, i *ciliumv2.CiliumIdentity) {
			if id, labels, ok := identities.LabelsOf(i); ok {
				w.parts.Registry.Learn(id, labels)
				w.note("identity", w.parts.Policies.SetIdentity(w.ctx, id, labels))
			}
		},
		Deleted: func(i *ciliumv2.CiliumIdentity) {
			if id, ok := identities.IDOf(i); ok && !w.parts.Cache.Uses(uint32(id)) && !w.parts.Endpoints.Has(id) {
				w.parts.Registry.Forget(id)
				w.note("identity", w.parts.Policies.RemoveIdentity(w.ctx, id))
			}
		},
		Release: identities.Release})
	w.ceps = kubernetes.NewInformer(c, endpointResource, "", &ciliumv2.CiliumEndpoint{}, &ciliumv2.CiliumEndpointList{}, func(e *ciliumv2.CiliumEndpoint) {
		e.Labels, e.Annotations, e.Status.Log, e.Status.Controllers, e.Status.Health = nil, nil, nil, nil, nil
	}, kubernetes.Handler[*ciliumv2.CiliumEndpoint]{Changed: w.endpoint, Deleted: w.endpointDeleted})

	w.cnps = kubernetes.NewInformer(c, cilium("ciliumnetworkpolicies"), "", &ciliumv2.CiliumNetworkPolicy{}, &ciliumv2.CiliumNetworkPolicyList{}, nil, kubernetes.Handler[*ciliumv2.CiliumNetworkPolicy]{
		Changed: func(old, p *ciliumv2.CiliumNetworkPolicy) {
			if old == nil || edited(old, p) {
				parsed, _ := policy.FromRules(refOf(policy.KindCiliumNetworkPolicy, p), p.Spec, p.Specs)
				w.upsert(parsed)
			}
		},
		Deleted: func(p *ciliumv2.CiliumNetworkPolicy) { w.withdraw(refOf(policy.KindCiliumNetworkPolicy, p)) }})
	w.ccnps = kubernetes.NewInformer(c, cilium("ciliumclusterwidenetworkpolicies"), "", &ciliumv2.CiliumClusterwideNetworkPolicy{}, &ciliumv2.CiliumClusterwideNetworkPolicyList{}, nil, kubernetes.Handler[*ciliumv2.CiliumClusterwideNetworkPolicy]{
		Changed: func(old, p *ciliumv2.CiliumClusterwideNetworkPolicy) {
			if old == nil || edited(old, p) {
				parsed, _ := policy.FromRules(refOf(policy.KindCiliumClusterwidePolicy, p), p.Spec, p.Specs)
				w.upsert(parsed)
			}
		},
		Deleted: func(p *ciliumv2.CiliumClusterwideNetworkPolicy) {
			w.withdraw(refOf(policy.KindCiliumClusterwidePolicy, p))
		}})
	nps := kubernetes.NewInformer(c, kubernetes.Resource{Group: networkingv1.SchemeGroupVersion, Name: "networkpolicies"}, "", &networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicyList{}, nil, kubernetes.Handler[*networkingv1.NetworkPolicy]{
		Changed: func(old, p *networkingv1.NetworkPolicy) {
			if old != nil && !edited(old, p) {
				return
			}
			document, err := json.Marshal(p)
			if err != nil {
				w.note("policy", err)
				return
			}
			parsed, _ := policy.Parse(policy.KindKubernetesNetworkPolicy, document)
			w.upsert(parsed)
		},
		Deleted: func(p *networkingv1.NetworkPolicy) { w.withdraw(refOf(policy.KindKubernetesNetworkPolicy, p)) }})
	groups := kubernetes.NewInformer(c, cilium("ciliumcidrgroups"), "", &ciliumv2.CiliumCIDRGroup{}, &ciliumv2.CiliumCIDRGroupList{}, nil, kubernetes.Handler[*ciliumv2.CiliumCIDRGroup]{
		Changed: func(_, g *ciliumv2.CiliumCIDRGroup) { w.group(g) },
		Deleted: func(g *ciliumv2.CiliumCIDRGroup) {
			w.note("CIDR group", w.parts.Policies.RemoveCIDRGroup(w.ctx, g.Name))
			w.note("refused networks", w.refusals.setGroup(w.ctx, g.Name, nil))
			w.policyMoved()
		}})
	w.all = []watched{groups, w.pods, w.namespaces, svcs, slices, nodesOfKubernetes, cns, w.ids, w.ceps, w.cnps, w.ccnps, nps}
}

// edited tells whether the specification may differ. The generation alone does not say it: an object that was deleted
// and made again while the watch was down starts at generation 1 again.
func edited(old, now kubernetes.Object) bool {
	return old.GetUID() != now.GetUID() || old.GetGeneration() != now.GetGeneration()
}

func refOf(kind policy.Kind, o kubernetes.Object) policy.Ref {
	return policy.Ref{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName(), UID: string(o.GetUID()), ResourceVersion: o.GetResourceVersion()}
}

func (w *watcher) upsert(p policy.Policy) {
	w.note("policy "+p.Ref.String(), w.parts.Policies.Upsert(w.ctx, p))
	w.log.Info("policy", "policy", p.Ref.String(), "valid", p.Valid(), "problems", len(p.Problems))
	w.policyMoved()
}

// policyMoved wakes the one who writes policies' conditions.
func (w *watcher) policyMoved() {
	select {
	case w.policyChanged <- struct{}{}:
	default:
	}
}

func (w *watcher) withdraw(ref policy.Ref) {
	w.note("policy "+ref.String(), w.parts.Policies.Delete(w.ctx, ref))
	w.log.Info("policy withdrawn", "policy", ref.String())
}

func trimPod(p *corev1.Pod) {
	maps.DeleteFunc(p.Annotations, func(name, _ string) bool {
		return name != configHashAnnotation && !slices.Contains(endpoints.BandwidthAnnotations, name)
	})
	lasting := kubernetes.LastingContainers(p)
	containers := make([]corev1.Container, 0, len(lasting))
	for _, c := range lasting {
		containers = append(containers, corev1.Container{Name: c.Name, Ports: c.Ports})
	}
	p.Spec = corev1.PodSpec{Containers: containers, NodeName: p.Spec.NodeName, ServiceAccountName: p.Spec.ServiceAccountName, HostNetwork: p.Spec.HostNetwork}
	p.Status = corev1.PodStatus{Phase: p.Status.Phase, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs}
}

func trimSlice(s *discoveryv1.EndpointSlice) {
	s.Annotations, s.OwnerReferences = nil, nil
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		*e = discoveryv1.Endpoint{Addresses: e.Addresses, Conditions: e.Conditions, NodeName: e.NodeName, Hints: e.Hints}
	}
}

// slice also keeps the API server's own addresses under their identity, and what toServices stands for.
func (w *watcher) slice(old, s *discoveryv1.EndpointSlice, deleted bool) {
	if old != nil && old.Labels[discoveryv1.LabelServiceName] != s.Labels[discoveryv1.LabelServiceName] {
		// It was another service's, which nobody else tells that it lost these endpoints.
		w.slice(nil, old, true)
	}
	w.note("endpoint slice", w.parts.Services.SetSlice(w.ctx, s, deleted))
	w.sliceForPolicy(s, deleted)
}

// own is told of each change of a CiliumNode; this node's is nobody else's to write.
func (w *watcher) own(name string) {
	if name != w.self {
		return
	}
	select {
	case w.selfChanged <- struct{}{}:
	default:
	}
}

func endpointPrefixes(e *ciliumv2.CiliumEndpoint) (out []netip.Prefix, node netip.Addr) {
	if e == nil || e.Status.Networking == nil {
		return nil, netip.Addr{}
	}
	node, _ = netip.ParseAddr(e.Status.Networking.NodeIP)
	for _, pair := range e.Status.Networking.Addressing {
		for _, text := range []string{pair.IPV4, pair.IPV6} {
			if a, err := netip.ParseAddr(text); err == nil {
				out = append(out, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return out, node
}

// namedPorts reads what cluster.object writes.
func namedPorts(e *ciliumv2.CiliumEndpoint) policy.NamedPorts {
	out := policy.NamedPorts{}
	for _, p := range e.Status.NamedPorts {
		for _, protocol := range []uint8{policy.ProtocolTCP, policy.ProtocolUDP, policy.ProtocolSCTP} {
			if policy.ProtocolName(protocol) == p.Protocol {
				name := strings.ToLower(p.Name)
				out[name] = append(out[name], policy.NamedPort{Protocol: protocol, Port: p.Port})
			}
		}
	}
	return out
}

// endpoint takes in what another node's agent wrote.
func (w *watcher) endpoint(old, e *ciliumv2.CiliumEndpoint) {
	now, node := endpointPrefixes(e)
	if before, elsewhere := endpointPrefixes(old); node == w.parts.Settings.Primary() && elsewhere != node {
		// A pod of that name came here while the watch was down: where it was before is nobody's any more.
		for _, p := range before {
			w.note("endpoint", w.parts.Cache.Delete(w.ctx, ipcache.SourceEndpointObject, p, &ipcache.Owner{Namespace: e.Namespace, PodName: e.Name}))
		}
	}
	if node == w.parts.Settings.Primary() || e.Status.Identity == nil || !node.IsValid() {
		return
	}
	id := policy.NumericIdentity(e.Status.Identity.ID)
	if labels, err := policy.ParseLabels(e.Status.Identity.Labels); err == nil && !id.IsReserved() {
		// Policy lines first, then the address: nobody may be judged by an identity that no line knows.
		w.parts.Registry.Learn(id, labels)
		w.note("identity", w.parts.Policies.SetIdentity(w.ctx, id, labels))
		w.note("named ports", w.parts.Policies.AddPorts(w.ctx, id, namedPorts(e)))
	}
	owner := ipcache.Owner{Namespace: e.Namespace, PodName: e.Name, NodeName: w.parts.Nodes.NameOf(node)}
	if o := e.OwnerReferences; len(o) > 0 {
		owner.WorkloadName, owner.WorkloadKind = o[0].Name, o[0].Kind
	}
	for _, p := range now {
		w.note("endpoint", w.parts.Cache.Upsert(w.ctx, ipcache.SourceEndpointObject, ipcache.Entry{
			IPEntry: datapath.IPEntry{Prefix: p, Identity: uint32(id), TunnelEndpoint: node}, Owner: owner}))
		if a, ok := w.parts.Cache.Get(ipcache.SourceAnnouncement, p); ok && a.Identity == uint32(id) {
			w.note("endpoint", w.parts.Cache.Delete(w.ctx, ipcache.SourceAnnouncement, p, nil))
		}
	}
	before, _ := endpointPrefixes(old)
	for _, p := range before {
		if !slices.Contains(now, p) {
			w.note("endpoint", w.parts.Cache.Delete(w.ctx, ipcache.SourceEndpointObject, p, &owner))
		}
	}
}

func (w *watcher) endpointDeleted(e *ciliumv2.CiliumEndpoint) {
	prefixes, _ := endpointPrefixes(e)
	owner := ipcache.Owner{Namespace: e.Namespace, PodName: e.Name}
	for _, p := range prefixes {
		w.note("endpoint", w.parts.Cache.Delete(w.ctx, ipcache.SourceEndpointObject, p, &owner))
		w.note("endpoint", w.parts.Cache.Delete(w.ctx, ipcache.SourceAnnouncement, p, &owner))
	}
}
