package policy

import (
	"fmt"
	"strings"

	"fairlead.dev/node-agent/policy/spec"
)

// sectionElement is one element of any of the four sections, so that they share one conversion.
type sectionElement struct {
	path      string
	section   Section
	index     int
	direction Direction
	deny      bool
	endpoints []spec.LabelSelector
	requires  []spec.LabelSelector
	cidr      []string
	cidrSet   []spec.CIDRRule
	entities  []spec.Entity
	groups    []spec.Group
	nodes     []spec.LabelSelector
	services  []spec.ServiceSelector
	fqdns     []spec.FQDNSelector
	ports     []spec.PortRule
	icmps     []spec.ICMPRule
	auth      *spec.Authentication
}

// member gives the path of an L3 member, e.g. spec.ingress[0].fromCIDR.
func (s *sectionElement) member(name string) string {
	prefix := "from"
	if s.direction == Egress {
		prefix = "to"
	}
	return s.path + "." + prefix + name
}

func sectionElements(path string, r *spec.Rule) []sectionElement {
	var out []sectionElement
	for i, e := range r.Ingress {
		out = append(out, sectionElement{path: item(path+".ingress", i), section: SectionIngress, index: i, direction: Ingress,
			endpoints: e.FromEndpoints, requires: e.FromRequires, cidr: e.FromCIDR, cidrSet: e.FromCIDRSet, entities: e.FromEntities,
			groups: e.FromGroups, nodes: e.FromNodes, ports: e.ToPorts, icmps: e.ICMPs, auth: e.Authentication})
	}
	for i, e := range r.IngressDeny {
		out = append(out, sectionElement{path: item(path+".ingressDeny", i), section: SectionIngressDeny, index: i, direction: Ingress,
			deny: true, endpoints: e.FromEndpoints, requires: e.FromRequires, cidr: e.FromCIDR, cidrSet: e.FromCIDRSet,
			entities: e.FromEntities, groups: e.FromGroups, nodes: e.FromNodes, ports: denyPorts(e.ToPorts), icmps: e.ICMPs})
	}
	for i, e := range r.Egress {
		out = append(out, sectionElement{path: item(path+".egress", i), section: SectionEgress, index: i, direction: Egress,
			endpoints: e.ToEndpoints, requires: e.ToRequires, cidr: e.ToCIDR, cidrSet: e.ToCIDRSet, entities: e.ToEntities,
			groups: e.ToGroups, nodes: e.ToNodes, services: e.ToServices, fqdns: e.ToFQDNs, ports: e.ToPorts, icmps: e.ICMPs,
			auth: e.Authentication})
	}
	for i, e := range r.EgressDeny {
		out = append(out, sectionElement{path: item(path+".egressDeny", i), section: SectionEgressDeny, index: i, direction: Egress,
			deny: true, endpoints: e.ToEndpoints, requires: e.ToRequires, cidr: e.ToCIDR, cidrSet: e.ToCIDRSet,
			entities: e.ToEntities, groups: e.ToGroups, nodes: e.ToNodes, services: e.ToServices,
			ports: denyPorts(e.ToPorts), icmps: e.ICMPs})
	}
	return out
}

func denyPorts(rules []spec.PortDenyRule) []spec.PortRule {
	if rules == nil {
		return nil
	}
	out := make([]spec.PortRule, len(rules))
	for i, r := range rules {
		out[i].Ports = r.Ports
	}
	return out
}

func (c *converter) convertRule(path string, index int, source *spec.Rule) {
	r := rule{index: index, path: path}
	switch {
	case source.EndpointSelector == nil && source.NodeSelector == nil:
		c.fail("no-selector", path, "has neither endpointSelector nor nodeSelector",
			"It is not said whom the rule governs.", "Add `endpointSelector: {}` for all pods, or one with labels.")
	case source.EndpointSelector != nil && source.NodeSelector != nil:
		c.fail("two-selectors", path+".nodeSelector", "stands beside an endpointSelector",
			"A rule governs pods or nodes, not both.", "Make two rules under `specs`.")
	case source.NodeSelector != nil && c.ref.Kind == KindCiliumNetworkPolicy:
		c.fail("node-selector-in-namespace", path+".nodeSelector", "is not possible in a CiliumNetworkPolicy",
			"Nodes are in no namespace.", "Use a CiliumClusterwideNetworkPolicy.")
	case source.NodeSelector != nil:
		r.node = true
		r.subject, _ = c.nodeSelector(path+".nodeSelector", source.NodeSelector)
	default:
		r.subject = c.subjectSelector(path+".endpointSelector", source.EndpointSelector)
	}
	if len(source.Ingress)+len(source.IngressDeny)+len(source.Egress)+len(source.EgressDeny) == 0 {
		c.fail("no-section", path, "has no rule in ingress, ingressDeny, egress or egressDeny",
			"An empty list is not deny-all in this API; the rule would say nothing.",
			"To deny everything write `ingress: [{}]`; otherwise add what is allowed.")
	}
	r.active[Ingress] = len(source.Ingress)+len(source.IngressDeny) > 0
	r.active[Egress] = len(source.Egress)+len(source.EgressDeny) > 0
	r.defaultDeny = r.active
	if d := source.EnableDefaultDeny; d != nil {
		for direction, asked := range map[Direction]*bool{Ingress: d.Ingress, Egress: d.Egress} {
			if asked == nil {
				continue
			}
			if *asked && !r.active[direction] {
				c.warn("default-deny-without-section", path+".enableDefaultDeny."+direction.String(),
					"is true, and the rule has no "+direction.String()+" section",
					"Everything in that direction is denied to the selected pods, unless another policy allows it.",
					"Keep it if deny-all is meant.")
			}
			r.defaultDeny[direction] = *asked
			r.active[direction] = r.active[direction] || *asked
		}
	}
	for i, l := range source.Labels {
		if l.Key == "" {
			c.fail("missing-field", item(path+".labels", i)+".key", "is empty", "A label is known by its key.", "Give it a key.")
		}
	}
	if source.Log != nil && len(source.Log.Value) > 32 {
		c.fail("too-long", path+".log.value", fmt.Sprintf("has %d characters, the limit is 32", len(source.Log.Value)),
			"The API server refuses it.", "Shorten it.")
	}
	for _, s := range sectionElements(path, source) {
		c.convertElement(&s, &r)
	}
	c.warnDenyOnly(path, source, &r)
	c.rules = append(c.rules, r)
}

func (c *converter) convertElement(s *sectionElement, r *rule) {
	e := element{section: s.section, index: s.index, direction: s.direction, deny: s.deny}
	l3 := c.convertPeers(s, &e)
	l4 := c.convertPorts(s, &e)
	if s.auth != nil && s.auth.Mode != "disabled" {
		if s.auth.Mode == "required" || s.auth.Mode == "test-always-fail" {
			c.unsupported(s.path+".authentication", "mutual authentication", "Remove it.")
		} else {
			c.fail("invalid-value", s.path+".authentication.mode", fmt.Sprintf("is %q", s.auth.Mode),
				"It is not one of disabled, required, test-always-fail.", "Write one of these, or remove it.")
		}
	}
	if !l3 && !l4 {
		if s.deny {
			c.warn("allows-nothing", s.path, "denies nothing by itself",
				"An element without peers and ports matches nothing in this API.",
				"To deny everything write `"+strings.TrimPrefix(s.member("Entities"), s.path+".")+": [all]`.")
			return
		}
		c.warn("allows-nothing", s.path, "allows nothing",
			"In this API an empty element only switches default deny on; in a Kubernetes NetworkPolicy it would allow everything.",
			"Keep it if deny-all is meant; to allow everything write `"+
				strings.TrimPrefix(s.member("Entities"), s.path+".")+": [all]`.")
		return
	}
	if !e.anyPeer && len(e.peers)+len(e.references) == 0 && !HasErrors(c.problems) {
		c.warn("allows-nothing", s.path, "matches nobody",
			"A list of peers that is there but empty selects nobody.", "Add a peer, or remove the list to mean anybody.")
	}
	r.elements = append(r.elements, e)
}

// convertPeers fills e's peers. It returns false where no L3 member is present at all.
func (c *converter) convertPeers(s *sectionElement, e *element) bool {
	if s.requires != nil {
		c.fail("removed-field", s.member("Requires"), "was removed from the API", "Nothing enforces it any more.",
			"Put the labels into the endpointSelector of a policy of its own.")
	}
	members := []struct {
		name    string
		present bool
		length  int
	}{
		{"Endpoints", s.endpoints != nil, len(s.endpoints)},
		{"CIDR", s.cidr != nil, len(s.cidr)},
		{"CIDRSet", s.cidrSet != nil, len(s.cidrSet)},
		{"Entities", s.entities != nil, len(s.entities)},
		{"Nodes", s.nodes != nil, len(s.nodes)},
		{"Groups", s.groups != nil, len(s.groups)},
		{"Services", s.services != nil, len(s.services)},
		{"FQDNs", s.fqdns != nil, len(s.fqdns)},
	}
	present := false
	var used []string
	for _, m := range members {
		present = present || m.present
		if m.length > 0 {
			used = append(used, strings.TrimPrefix(s.member(m.name), s.path+"."))
		}
	}
	if len(used) > 1 {
		c.fail("combined-peers", s.path, "has "+strings.Join(used, " and ")+" together",
			"One element holds one sort of peers; whether both or either is meant cannot be told.",
			"Make one element of each: elements are alternatives.")
	}
	for i := range s.endpoints {
		if p, ok := c.peerSelector(item(s.member("Endpoints"), i), &s.endpoints[i]); ok {
			e.peers = append(e.peers, p)
		}
	}
	for i, text := range s.cidr {
		if prefix, ok := c.parseCIDR(item(s.member("CIDR"), i), text, true); ok {
			e.peers = append(e.peers, peer{kind: peerCIDR, prefix: prefix})
		}
	}
	for i := range s.cidrSet {
		at, source := item(s.member("CIDRSet"), i), &s.cidrSet[i]
		if source.CIDR == "" && (source.CIDRGroupRef != "") != (source.CIDRGroupSelector != nil) {
			if r, ok := c.groupReference(at, source); ok {
				e.references = append(e.references, r)
			}
		} else if p, ok := c.cidrRule(at, source); ok {
			e.peers = append(e.peers, p)
		}
	}
	for i, entity := range s.entities {
		c.convertEntity(item(s.member("Entities"), i), entity, e)
	}
	for i := range s.nodes {
		if selector, ok := c.nodeSelector(item(s.member("Nodes"), i), &s.nodes[i]); ok {
			e.peers = append(e.peers, peer{kind: peerNodes, selector: selector})
		}
	}
	if len(s.groups) > 0 {
		c.unsupported(s.member("Groups"), "selecting cloud machines by group", "Write their addresses as CIDR.")
	}
	for i := range s.services {
		if r, ok := c.serviceReference(item(s.member("Services"), i), &s.services[i]); ok {
			e.references = append(e.references, r)
		}
	}
	for i, f := range s.fqdns {
		if name, ok := c.convertName(item(s.member("FQDNs"), i), f); ok {
			e.peers = append(e.peers, peer{kind: peerName, name: name})
		}
	}
	if !present {
		e.anyPeer = true
	}
	if e.anyPeer {
		e.peers, e.references = nil, nil
	}
	e.own = len(e.peers)
	return present
}

func (c *converter) convertEntity(path string, entity spec.Entity, e *element) {
	reserved := func(names ...string) { e.peers = append(e.peers, peer{kind: peerReserved, reserved: names}) }
	switch entity {
	case spec.EntityAll:
		e.anyPeer = true
	case spec.EntityNone:
	case spec.EntityWorld:
		reserved("world", "world-ipv4", "world-ipv6")
	case spec.EntityCluster, spec.EntityClusterMesh:
		e.peers = append(e.peers, peer{kind: peerCluster})
	case spec.EntityHost, spec.EntityRemoteNode, spec.EntityKubeAPIServer, spec.EntityHealth, spec.EntityInit,
		spec.EntityUnmanaged, spec.EntityIngress:
		reserved(string(entity))
	default:
		known := []string{"all", "world", "cluster", "cluster-mesh", "host", "init", "ingress", "unmanaged", "remote-node",
			"health", "none", "kube-apiserver"}
		fix := "Write one of " + strings.Join(known, ", ") + "."
		if near := nearest(string(entity), known); near != "" {
			fix = "Write `" + near + "`."
		}
		c.fail("unknown-entity", path, fmt.Sprintf("%q is not an entity", string(entity)), "Nobody would be selected.", fix)
	}
	if e.deny && e.direction == Ingress && (entity == spec.EntityHost || entity == spec.EntityAll || entity == spec.EntityCluster) {
		c.warn("denies-host", path, "denies the node itself, and with it the kubelet's probes",
			"Pods with liveness or readiness probes will be restarted or taken out of their services.",
			"Leave the host out unless that is meant.")
	}
}
