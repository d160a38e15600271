package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"fairlead.dev/node-agent/policy/spec"
)

// parseSelector turns a selector into requirements. defaultSource is the source of keys without a prefix; prefixes tells
// whether keys may carry one (not in a Kubernetes NetworkPolicy).
func (c *converter) parseSelector(path string, s *spec.LabelSelector, defaultSource string, prefixes bool) []requirement {
	var out []requirement
	keys := make([]string, 0, len(s.MatchLabels))
	for key := range s.MatchLabels {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		at := child(path+".matchLabels", key)
		source, name, ok := c.parseKey(at, key, defaultSource, prefixes)
		value := s.MatchLabels[key]
		if !c.checkValue(at, value) || !ok {
			continue
		}
		out = append(out, requirement{source: source, key: name, operator: opIn, values: []string{value}})
	}
	for i, e := range s.MatchExpressions {
		at := item(path+".matchExpressions", i)
		source, name, ok := c.parseKey(at+".key", e.Key, defaultSource, prefixes)
		r := requirement{source: source, key: name, values: slices.Clone(e.Values)}
		switch e.Operator {
		case "In":
			r.operator = opIn
		case "NotIn":
			r.operator = opNotIn
		case "Exists":
			r.operator = opExists
		case "DoesNotExist":
			r.operator = opDoesNotExist
		default:
			c.fail("invalid-operator", at+".operator", fmt.Sprintf("is %q", e.Operator),
				"The operators are In, NotIn, Exists and DoesNotExist.", "Write one of these, in exactly this spelling.")
			ok = false
		}
		if needs := e.Operator == "In" || e.Operator == "NotIn"; ok && needs != (len(e.Values) > 0) {
			if needs {
				c.fail("invalid-values", at+".values", "is empty", e.Operator+" compares with a list of values.", "Add values.")
			} else {
				c.fail("invalid-values", at+".values", "is not possible with "+e.Operator,
					e.Operator+" asks for the label, not for its value.", "Remove the values, or use In or NotIn.")
			}
			ok = false
		}
		for j, value := range e.Values {
			ok = c.checkValue(item(at+".values", j), value) && ok
		}
		if ok {
			out = append(out, r)
		}
	}
	return out
}

var (
	labelName   = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
	labelPrefix = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
)

var knownSources = []string{SourceK8s, SourceAny, SourceReserved, SourceCIDR, SourceNode}

func (c *converter) parseKey(path, key, defaultSource string, prefixes bool) (source, name string, ok bool) {
	source, name = defaultSource, key
	if before, after, found := strings.Cut(key, ":"); found && prefixes {
		source, name = before, after
		if !slices.Contains(knownSources, source) {
			c.fail("unknown-source", path, fmt.Sprintf("has the source %q before the colon", source),
				"Labels come from k8s, reserved or cidr; nothing would be selected.", "Write `k8s:"+name+"`, or leave the source out.")
			return "", "", false
		}
	}
	if source == SourceCIDR {
		return source, name, true
	}
	rest := name
	// Labels of the namespace are keys of their own behind a prefix, and may have a domain part again.
	rest = strings.TrimPrefix(rest, LabelNamespaceLabelPrefix)
	domain, last, found := strings.Cut(rest, "/")
	if !found {
		domain, last = "", rest
	}
	if !labelName.MatchString(last) || len(domain) > 253 || (found && !labelPrefix.MatchString(domain)) {
		c.fail("invalid-label-key", path, fmt.Sprintf("%q cannot be the key of a label", key),
			"No object can carry such a label, so nothing would be selected.",
			"A key is a word of up to 63 letters, digits, `-`, `_`, `.`, with a domain and `/` before it if need be.")
		return "", "", false
	}
	if source != SourceReserved && source != SourceNode && !RelevantPodLabel(name) && !isPolicyLabel(name) {
		c.warn("irrelevant-label", path, fmt.Sprintf("%q takes no part in the identity of pods", name),
			"Labels that differ from pod to pod or that the system writes are left out of identities, so this requirement sees no such label.",
			"Use a label that says what the pod is, such as app.")
	}
	return source, name, true
}

func isPolicyLabel(key string) bool {
	return key == LabelNamespace || strings.HasPrefix(key, "io.cilium.k8s.")
}

func (c *converter) checkValue(path, value string) bool {
	if value == "" || labelName.MatchString(value) {
		return true
	}
	c.fail("invalid-label-value", path, fmt.Sprintf("%q cannot be the value of a label", value),
		"No object can carry such a label, so nothing would be selected.",
		"A value is up to 63 letters, digits, `-`, `_`, `.`; it starts and ends with a letter or digit.")
	return false
}

func mentionsNamespace(requirements []requirement) bool {
	return slices.ContainsFunc(requirements, func(r requirement) bool {
		return r.source != SourceReserved && (r.key == LabelNamespace || strings.HasPrefix(r.key, LabelNamespaceLabelPrefix))
	})
}

func mentionsReserved(requirements []requirement) bool {
	return slices.ContainsFunc(requirements, func(r requirement) bool { return r.source == SourceReserved })
}

func inNamespace(namespace string) requirement {
	return requirement{source: SourceK8s, key: LabelNamespace, operator: opIn, values: []string{namespace}}
}

var inAnyNamespace = requirement{source: SourceK8s, key: LabelNamespace, operator: opExists}

// subjectSelector: a namespaced policy governs pods of its namespace only.
func (c *converter) subjectSelector(path string, s *spec.LabelSelector) labelSelector {
	requirements := c.parseSelector(path, s, SourceAny, true)
	c.warnContradiction(path, requirements)
	if c.ref.Kind == KindCiliumNetworkPolicy {
		for _, r := range requirements {
			if r.key == LabelNamespace && r.operator == opIn && !slices.Contains(r.values, c.ref.Namespace) {
				c.fail("foreign-namespace", path, fmt.Sprintf("selects pods of namespace %s, but the policy is in %s",
					strings.Join(r.values, " or "), c.ref.Namespace),
					"A CiliumNetworkPolicy governs pods of its own namespace only.",
					"Create the policy in that namespace, or use a CiliumClusterwideNetworkPolicy.")
			}
		}
		requirements = append(requirements, inNamespace(c.ref.Namespace))
	}
	return newLabelSelector(requirements)
}

// peerSelector: unless the selector speaks of namespaces itself, peers are those of the policy's namespace, and with a
// cluster-wide policy the pods of all namespaces.
func (c *converter) peerSelector(path string, s *spec.LabelSelector) (peer, bool) {
	before := len(c.problems)
	requirements := c.parseSelector(path, s, SourceAny, true)
	for _, p := range c.problems[before:] {
		if p.Severity == SeverityError {
			return peer{}, false
		}
	}
	c.warnContradiction(path, requirements)
	if !mentionsReserved(requirements) && !mentionsNamespace(requirements) {
		if c.ref.Kind == KindCiliumNetworkPolicy {
			requirements = append(requirements, inNamespace(c.ref.Namespace))
		} else {
			requirements = append(requirements, inAnyNamespace)
		}
	}
	return peer{kind: peerLabels, selector: newLabelSelector(requirements)}, true
}

// warnContradiction reports requirements that no set of labels can meet together.
func (c *converter) warnContradiction(path string, requirements []requirement) {
	for i, a := range requirements {
		for _, b := range requirements[i+1:] {
			if a.key != b.key || a.source != b.source {
				continue
			}
			if contradicts(a, b) || contradicts(b, a) {
				c.warn("selects-nothing", path, fmt.Sprintf("has requirements on %s that exclude each other", a.key),
					"All requirements of a selector have to hold at once, so nothing is selected.",
					"Correct one of them; for alternatives use In with several values.")
				return
			}
		}
	}
}

func contradicts(a, b requirement) bool {
	switch {
	case a.operator == opIn && b.operator == opIn:
		return !slices.ContainsFunc(a.values, func(v string) bool { return slices.Contains(b.values, v) })
	case a.operator == opIn && b.operator == opNotIn:
		return !slices.ContainsFunc(a.values, func(v string) bool { return !slices.Contains(b.values, v) })
	case a.operator == opIn || a.operator == opExists:
		return b.operator == opDoesNotExist
	default:
		return false
	}
}

// parseCIDR reads a range; a bare address is the range of this one where bare is true. Host bits are cut off, with a warning.
func (c *converter) parseCIDR(path, text string, bare bool) (netip.Prefix, bool) {
	if bare {
		if address, err := netip.ParseAddr(text); err == nil && address.Zone() == "" {
			return netip.PrefixFrom(address.Unmap(), address.Unmap().BitLen()), true
		}
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		fix := "Write an address and a length, such as 10.0.0.0/8 or fd00::/8."
		if _, err := netip.ParseAddr(text); err == nil {
			fix = "Write a length behind the address, such as " + text + "/32."
		}
		c.fail("invalid-cidr", path, fmt.Sprintf("%q is not a range of addresses", text), "Nothing would be selected.", fix)
		return netip.Prefix{}, false
	}
	// An IPv4 range in the clothes of IPv6 is what it is: packets have these addresses as IPv4.
	if address := prefix.Addr(); address.Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(address.Unmap(), prefix.Bits()-96)
	}
	if prefix != prefix.Masked() {
		c.warn("host-bits", path, fmt.Sprintf("%s has bits behind its length; the range is %s", text, prefix.Masked()),
			"The range may be wider than it looks.", fmt.Sprintf("Write %s.", prefix.Masked()))
	}
	return prefix.Masked(), true
}

func (c *converter) cidrRule(path string, r *spec.CIDRRule) (peer, bool) {
	given := 0
	for _, there := range []bool{r.CIDR != "", r.CIDRGroupRef != "", r.CIDRGroupSelector != nil} {
		if there {
			given++
		}
	}
	if given != 1 {
		c.fail("cidr-choice", path, "has not exactly one of cidr, cidrGroupRef and cidrGroupSelector",
			"It does not say which addresses are meant.", "Keep one of them.")
		return peer{}, false
	}
	return c.cidrPeer(path, r.CIDR, r.Except)
}

// groupReference reads the form of a CIDR rule that names a CiliumCIDRGroup.
func (c *converter) groupReference(path string, r *spec.CIDRRule) (reference, bool) {
	out, ok := reference{group: r.CIDRGroupRef}, true
	if r.CIDRGroupSelector != nil {
		selector, fine := c.objectSelector(path+".cidrGroupSelector", r.CIDRGroupSelector)
		out.groups, ok = &selector, fine
	} else if !isObjectName(r.CIDRGroupRef) {
		c.fail("invalid-name", path+".cidrGroupRef", fmt.Sprintf("%q cannot be the name of an object", r.CIDRGroupRef),
			"No CiliumCIDRGroup can have it, so nobody would be selected.", "Write the name of a CiliumCIDRGroup.")
		ok = false
	}
	for i, text := range r.Except {
		hole, fine := c.parseCIDR(item(path+".except", i), text, false)
		out.except, ok = append(out.except, hole), ok && fine
	}
	out.except = sortPrefixes(out.except)
	return out, ok
}

var objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

func isObjectName(s string) bool { return len(s) <= 253 && objectName.MatchString(s) }

// objectSelector reads a selector of API objects, which know no sources of labels.
func (c *converter) objectSelector(path string, s *spec.LabelSelector) (labelSelector, bool) {
	before := len(c.problems)
	requirements := c.parseSelector(path, s, SourceNode, false)
	for i := range requirements {
		requirements[i].source = SourceK8s
	}
	ok := !HasErrors(c.problems[before:])
	if ok {
		c.warnContradiction(path, requirements)
	}
	return newLabelSelector(requirements), ok
}

// nodeSelector reads a selector of nodes, for peers and for the nodes that a policy governs.
func (c *converter) nodeSelector(path string, s *spec.LabelSelector) (labelSelector, bool) {
	before := len(c.problems)
	requirements := c.parseSelector(path, s, SourceNode, true)
	for i, r := range requirements {
		// All labels of a node count, those of kubernetes.io too; where they come from is no question.
		if r.source == SourceK8s || r.source == SourceAny {
			requirements[i].source = SourceNode
		}
	}
	ok := !HasErrors(c.problems[before:])
	c.problems = slices.DeleteFunc(c.problems, func(p Problem) bool { return p.Code == "irrelevant-label" && strings.HasPrefix(p.Path, path) })
	if ok {
		c.warnContradiction(path, requirements)
	}
	return newLabelSelector(requirements), ok
}

// serviceReference reads one element of toServices.
func (c *converter) serviceReference(path string, s *spec.ServiceSelector) (reference, bool) {
	switch {
	case (s.K8sService == nil) == (s.K8sServiceSelector == nil):
		c.fail("service-choice", path, "has not exactly one of k8sService and k8sServiceSelector",
			"It does not say which services are meant.", "Keep one of them.")
		return reference{}, false
	case s.K8sService != nil && s.K8sService.ServiceName == "":
		c.fail("missing-field", path+".k8sService.serviceName", "is missing", "It is not said which service is meant.", "Add the service's name.")
		return reference{}, false
	case s.K8sService != nil:
		return reference{service: &ServiceName{Namespace: s.K8sService.Namespace, Name: s.K8sService.ServiceName}}, true
	}
	selector, ok := c.objectSelector(path+".k8sServiceSelector.selector", &s.K8sServiceSelector.Selector)
	return reference{services: &selector, namespace: s.K8sServiceSelector.Namespace}, ok
}

func (c *converter) cidrPeer(path, cidr string, except []string) (peer, bool) {
	prefix, ok := c.parseCIDR(path+".cidr", cidr, false)
	p := peer{kind: peerCIDR, prefix: prefix}
	for i, text := range except {
		at := item(path+".except", i)
		hole, fine := c.parseCIDR(at, text, false)
		if fine && ok && !contains(prefix, hole) {
			c.fail("except-outside", at, fmt.Sprintf("%s is not inside of %s", hole, prefix),
				"An exception takes addresses out of the range.", "Remove it, or correct one of the two.")
			fine = false
		}
		if fine && hole == prefix {
			c.warn("selects-nothing", at, "takes the whole range out", "Nothing is left of the range.", "Remove the element.")
		}
		ok = ok && fine
		p.except = append(p.except, hole)
	}
	p.except = sortPrefixes(p.except)
	return p, ok
}
