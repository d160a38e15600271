package policy

import (
	"fmt"
	"net/textproto"
	"regexp"
	"slices"
	"strings"

	"fairlead.dev/node-agent/policy/spec"
)

// ProxyKind says which proxy of the agent has to look into traffic that a line lets pass.
type ProxyKind uint8

// The proxies.
const (
	// ProxyNone: the line alone decides.
	ProxyNone ProxyKind = 0
	ProxyHTTP ProxyKind = 1
	ProxyDNS  ProxyKind = 2
)

// String gives none, http or dns.
func (k ProxyKind) String() string {
	switch k {
	case ProxyHTTP:
		return "http"
	case ProxyDNS:
		return "dns"
	default:
		return "none"
	}
}

// Mismatch says what becomes of a request whose header differs from what a rule asks for.
type Mismatch uint8

// The actions. Only MismatchRefuse makes the rule not apply; the others let the request pass.
const (
	MismatchRefuse Mismatch = iota
	MismatchLog
	MismatchAdd
	MismatchDelete
	MismatchReplace
)

var mismatchNames = map[string]Mismatch{
	"": MismatchRefuse, "LOG": MismatchLog, "ADD": MismatchAdd, "DELETE": MismatchDelete, "REPLACE": MismatchReplace,
}

// HeaderRule is a requirement on one header of a request.
type HeaderRule struct {
	// Name is in canonical form (X-Token).
	Name string
	// Value is compared literally; AnyValue asks for presence alone.
	Value    string
	AnyValue bool
	Mismatch Mismatch
}

// HTTPRule is one kind of request that is allowed. A nil expression matches everything; the others match the whole text.
type HTTPRule struct {
	Method, Path, Host *regexp.Regexp
	Headers            []HeaderRule
	// Text describes the rule, e.g. `POST /v1/request-landing`.
	Text string
}

// NameRule is one kind of DNS name: `matchName` or `matchPattern`.
type NameRule struct {
	// Text is the name or pattern as written, in lower case and without the last dot.
	Text       string
	expression *regexp.Regexp
}

// Matches tells whether the rule means a name; case and a last dot do not matter.
func (r NameRule) Matches(name string) bool {
	name = normalName(name)
	if r.expression == nil {
		return name == r.Text
	}
	return r.expression.MatchString(name)
}

func normalName(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }

// rulesL7 is what one element of toPorts asks of the application layer. It is immutable.
type rulesL7 struct {
	kind ProxyKind
	http []HTTPRule
	dns  []NameRule
}

func (r *rulesL7) texts() []string {
	var out []string
	for _, rule := range r.http {
		out = append(out, rule.Text)
	}
	for _, rule := range r.dns {
		out = append(out, rule.Text)
	}
	return out
}

func (m portMatch) proxy() ProxyKind {
	if m.l7 == nil {
		return ProxyNone
	}
	return m.l7.kind
}

var (
	dnsName    = regexp.MustCompile(`^([-a-zA-Z0-9_]+[.]?)+$`)
	dnsPattern = regexp.MustCompile(`^([-a-zA-Z0-9_*]+[.]?)+$`)
)

// compilePattern: `*` stands for any characters of one label, a leading `**.` for any number of labels in front, and `*`
// alone for every name.
func compilePattern(pattern string) (*regexp.Regexp, error) {
	const characters = `[-a-zA-Z0-9_]`
	if pattern == "*" {
		return regexp.Compile(`^(?:` + characters + `+(?:[.]` + characters + `+)*)?$`)
	}
	prefix := ""
	if rest, deep := strings.CutPrefix(pattern, "**."); deep {
		prefix, pattern = characters+`+(?:[.]`+characters+`+)*[.]`, rest
	}
	text := strings.ReplaceAll(pattern, "*", "\x00")
	for strings.Contains(text, "\x00\x00") {
		text = strings.ReplaceAll(text, "\x00\x00", "\x00")
	}
	text = strings.ReplaceAll(regexp.QuoteMeta(text), "\x00", characters+"*")
	return regexp.Compile(`^` + prefix + text + `$`)
}

// convertName reads a matchName or matchPattern.
func (c *converter) convertName(path string, f spec.FQDNSelector) (NameRule, bool) {
	if (f.MatchName == "") == (f.MatchPattern == "") {
		c.fail("invalid-fqdn", path, "has not exactly one of matchName and matchPattern", "It does not say which names are meant.", "Write one of them.")
		return NameRule{}, false
	}
	if f.MatchName != "" {
		if !dnsName.MatchString(f.MatchName) || len(f.MatchName) > 255 {
			fix := "Write letters, digits, `-`, `_` and dots."
			if strings.Contains(f.MatchName, "*") {
				fix = "Write it as matchPattern."
			}
			c.fail("invalid-fqdn", path+".matchName", fmt.Sprintf("%q is not a DNS name", f.MatchName), "No name would be matched.", fix)
			return NameRule{}, false
		}
		return NameRule{Text: normalName(f.MatchName)}, true
	}
	if !dnsPattern.MatchString(f.MatchPattern) || len(f.MatchPattern) > 255 {
		c.fail("invalid-fqdn", path+".matchPattern", fmt.Sprintf("%q is not a pattern of DNS names", f.MatchPattern), "No name would be matched.",
			"Write a name in which `*` stands for characters of one label; `**.` in front stands for any number of labels.")
		return NameRule{}, false
	}
	text := normalName(f.MatchPattern)
	expression, err := compilePattern(text)
	if err != nil {
		c.fail("invalid-fqdn", path+".matchPattern", fmt.Sprintf("%q cannot be read: %v", f.MatchPattern, err), "No name would be matched.", "Correct it.")
		return NameRule{}, false
	}
	return NameRule{Text: text, expression: expression}, true
}

// convertHTTP reads one HTTP rule.
func (c *converter) convertHTTP(path string, source *spec.HTTPRule) (HTTPRule, bool) {
	var out HTTPRule
	ok := true
	var words []string
	for _, part := range []struct {
		field, text string
		into        **regexp.Regexp
	}{{"method", source.Method, &out.Method}, {"path", source.Path, &out.Path}, {"host", source.Host, &out.Host}} {
		if part.text == "" {
			continue
		}
		expression, err := regexp.Compile(`^(?:` + part.text + `)$`)
		if err != nil {
			c.fail("invalid-expression", path+"."+part.field, fmt.Sprintf("%q is not a regular expression: %v", part.text, err),
				"It would match nothing.", "Write an extended regular expression; it has to match the whole text.")
			ok = false
			continue
		}
		*part.into = expression
		if part.field == "host" {
			words = append(words, "to host "+part.text)
		} else {
			words = append(words, part.text)
		}
	}
	for i, header := range source.Headers {
		name, value, hasValue := strings.Cut(strings.TrimSpace(header), " ")
		if colon, rest, found := strings.Cut(name, ":"); found && rest != "" {
			name, value, hasValue = colon, strings.TrimSpace(rest+" "+value), true
		}
		rule := HeaderRule{Name: strings.TrimRight(name, ":"), Value: strings.TrimSpace(value), AnyValue: !hasValue}
		if c.checkHeader(item(path+".headers", i), &rule) {
			out.Headers = append(out.Headers, rule)
			words = append(words, "with "+rule.text())
		} else {
			ok = false
		}
	}
	for i, match := range source.HeaderMatches {
		at := item(path+".headerMatches", i)
		rule := HeaderRule{Name: match.Name, Value: match.Value, AnyValue: match.Value == ""}
		action, known := mismatchNames[match.Mismatch]
		rule.Mismatch = action
		if !known {
			c.fail("invalid-value", at+".mismatch", fmt.Sprintf("is %q", match.Mismatch), "The actions are LOG, ADD, DELETE and REPLACE.",
				"Write one of these, or leave it out to refuse the request.")
			ok = false
		}
		if match.Secret != nil {
			c.unsupported(at+".secret", "a header value out of a Kubernetes secret", "Write the value, or ask for presence alone.")
			ok = false
		} else if rule.AnyValue && (action == MismatchAdd || action == MismatchReplace) {
			c.fail("missing-field", at+".value", "is missing beside mismatch "+match.Mismatch, "It is not said what to write.", "Add a value.")
			ok = false
		}
		if !c.checkHeader(at+".name", &rule) {
			ok = false
			continue
		}
		out.Headers = append(out.Headers, rule)
		if action == MismatchRefuse {
			words = append(words, "with "+rule.text())
		}
	}
	out.Text = strings.Join(words, " ")
	if out.Text == "" {
		out.Text = "any request"
	}
	return out, ok
}

func (r HeaderRule) text() string {
	if r.AnyValue {
		return r.Name
	}
	return r.Name + ": " + r.Value
}

var headerName = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]+$")

func (c *converter) checkHeader(path string, r *HeaderRule) bool {
	if !headerName.MatchString(r.Name) || strings.ContainsAny(r.Value, "\r\n\x00") {
		c.fail("invalid-header", path, fmt.Sprintf("%q is not a header", r.text()), "No request can carry it.", "Write `Name: value`, or the name alone.")
		return false
	}
	r.Name = textproto.CanonicalMIMEHeaderKey(r.Name)
	return true
}

// checkL7 reads the application-layer part of one toPorts, and reports what cannot be enforced. nil: there is none.
func (c *converter) checkL7(path string, p *spec.PortRule, s *sectionElement) *rulesL7 {
	c.checkL7Extras(path, p, s)
	if p.Rules == nil || len(p.Rules.HTTP)+len(p.Rules.DNS) == 0 {
		return nil
	}
	http, dns := len(p.Rules.HTTP) > 0, len(p.Rules.DNS) > 0
	if http && dns {
		c.fail("two-l7-sorts", path+".rules", "has http and dns together", "A port speaks one of them.", "Make one element of toPorts for each.")
	}
	if dns && s.direction == Ingress {
		c.fail("dns-on-ingress", path+".rules.dns", "is not possible on ingress", "DNS rules look at what a pod asks.", "Move it to egress.")
	}
	if dns && len(p.Ports) == 0 {
		c.fail("dns-without-port", path+".ports", "is empty beside DNS rules", "Port 53 has to be named.", "Add port \"53\".")
	}
	for i, port := range p.Ports {
		at := item(path+".ports", i)
		if http && port.Protocol != "TCP" {
			c.fail("l7-protocol", at+".protocol", "must be TCP beside http rules", "HTTP is spoken over TCP; a missing protocol means ANY.",
				"Write `protocol: TCP`.")
		}
		if dns && port.Protocol == "SCTP" {
			c.fail("l7-protocol", at+".protocol", "must be UDP, TCP or ANY beside dns rules", "DNS is spoken over these.", "Write `protocol: ANY`.")
		}
		if port.Port == "0" {
			c.fail("l7-port", at+".port", "must not be 0 beside application rules", "Not every port speaks that protocol.", "Name the port.")
		}
		if dns && port.EndPort != 0 {
			c.fail("l7-port", at+".endPort", "is not possible beside DNS rules", "DNS rules take single ports.", "Remove it.")
		}
	}
	out := &rulesL7{kind: ProxyHTTP}
	for i := range p.Rules.HTTP {
		if rule, ok := c.convertHTTP(item(path+".rules.http", i), &p.Rules.HTTP[i]); ok {
			out.http = append(out.http, rule)
		}
	}
	for i, f := range p.Rules.DNS {
		out.kind = ProxyDNS
		if rule, ok := c.convertName(item(path+".rules.dns", i), f); ok {
			out.dns = append(out.dns, rule)
		}
	}
	return out
}

// checkL7Extras reports the parts of toPorts that no agent of this version enforces.
func (c *converter) checkL7Extras(path string, p *spec.PortRule, s *sectionElement) {
	if p.TerminatingTLS != nil {
		c.unsupported(path+".terminatingTLS", "TLS interception", "Remove it.")
	}
	if p.OriginatingTLS != nil {
		c.unsupported(path+".originatingTLS", "TLS interception", "Remove it.")
	}
	if len(p.ServerNames) > 0 {
		c.unsupported(path+".serverNames", "a rule on TLS server names", "Remove it.")
	}
	if p.Listener != nil {
		if s.direction == Ingress {
			c.fail("listener-on-ingress", path+".listener", "is not possible on ingress", "Listeners take outgoing traffic.", "Remove it.")
		}
		c.unsupported(path+".listener", "handing traffic to an Envoy listener", "Remove it.")
	}
}

// AnswerL7 is what the proxy has to know of a connection.
type AnswerL7 struct {
	// Denied: no rule lets the connection pass any more.
	Denied bool
	// Open: some rule lets everything pass on this port; Rule is the first by name.
	Open bool
	Rule RuleID
	// HTTP and DNS are the rules of which one has to match, where it is neither denied nor open.
	HTTP []AttributedHTTP
	DNS  []AttributedName
}

// AttributedHTTP is an HTTP rule with the policy's rule that it stands in.
type AttributedHTTP struct {
	HTTPRule
	Rule RuleID
}

// AttributedName is a DNS rule with the policy's rule that it stands in.
type AttributedName struct {
	NameRule
	Rule RuleID
}

// L7 gives the rules for connections of an endpoint with a peer on a port, out of the same elements that the kernel's lines
// are made of. block is as in LookupKernel.
func (e *Engine) L7(subject SubjectID, direction Direction, peer, block NumericIdentity, protocol uint8, port uint16) AnswerL7 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	p := e.subjects[subject]
	if p == nil || p.directions[direction].active == 0 {
		return AnswerL7{Open: true}
	}
	var elements []*liveElement
	for _, id := range []NumericIdentity{peer, AnyPeer} {
		if set := p.directions[direction].peers[id]; set != nil {
			elements = append(elements, set.elements...)
		}
	}
	slices.SortFunc(elements, func(a, b *liveElement) int { return compareRules(a.ref, b.ref) })
	names := p.ports
	if direction == Egress {
		names = nil
		if state := e.identities[peer]; state != nil {
			names = state.ports
		}
	}
	out := AnswerL7{}
	matched, unasked := false, false
	for _, element := range elements {
		if element.anyPort {
			if element.deny {
				return AnswerL7{Denied: true, Rule: element.id}
			}
			if element.ref.isDefaultAllow() {
				out.Rule, unasked = element.id, true
				continue
			}
			out.open(element.id)
			continue
		}
		for _, m := range element.ports {
			if !m.matches(protocol, port, names) {
				continue
			}
			switch {
			case element.deny:
				return AnswerL7{Denied: true, Rule: element.id}
			case m.l7 == nil:
				out.open(element.id)
			default:
				matched = true
				for _, rule := range m.l7.http {
					out.HTTP = append(out.HTTP, AttributedHTTP{rule, element.id})
				}
				for _, rule := range m.l7.dns {
					out.DNS = append(out.DNS, AttributedName{rule, element.id})
				}
			}
		}
	}
	if !out.Open && block != AnyPeer {
		p.openBlock(&out, direction, block, protocol, port)
	}
	if !out.Open && !matched {
		out.Open, out.Denied = unasked, !unasked
	}
	return out
}

// openBlock lets pass what an ipBlock around the peer's address allows: such rules know no application layer.
func (p *profile) openBlock(out *AnswerL7, direction Direction, block NumericIdentity, protocol uint8, port uint16) {
	set := p.directions[direction].peers[block]
	if set == nil {
		return
	}
	names := p.ports
	if direction == Egress {
		names = nil
	}
	for _, element := range slices.SortedFunc(slices.Values(set.elements), func(a, b *liveElement) int { return compareRules(a.ref, b.ref) }) {
		if element.matchesPort(protocol, port, names) {
			out.open(element.id)
			return
		}
	}
}

func (a *AnswerL7) open(rule RuleID) {
	if !a.Open {
		a.Open, a.Rule = true, rule
	}
}

// Names lists the names and patterns that the policy selects peers by.
func (p Policy) Names() []NameRule {
	var out []NameRule
	for _, r := range p.rules {
		for _, e := range r.elements {
			for _, peer := range e.peers {
				if peer.kind == peerName {
					out = append(out, peer.name)
				}
			}
		}
	}
	return out
}

// Names lists the names and patterns of toFQDNs rules of all policies in force, sorted: addresses that DNS gives for them
// need an identity with LabelForName.
func (e *Engine) Names() []NameRule {
	e.mu.RLock()
	defer e.mu.RUnlock()
	var out []NameRule
	for _, p := range e.policies {
		out = append(out, p.policy.Names()...)
	}
	slices.SortFunc(out, func(a, b NameRule) int { return strings.Compare(a.Text, b.Text) })
	return slices.CompactFunc(out, func(a, b NameRule) bool { return a.Text == b.Text })
}
