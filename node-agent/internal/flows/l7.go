package flows

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"

	"fairlead.dev/node-agent/internal/datapath"
)

func (r *record) isL7() bool { return r.l7 != nil }

func (r *record) verdictL7() flowpb.Verdict {
	switch r.l7.Verdict {
	case datapath.L7Dropped:
		return flowpb.Verdict_DROPPED
	case datapath.L7Error:
		return flowpb.Verdict_ERROR
	default:
		return flowpb.Verdict_FORWARDED
	}
}

// layer7 is what Hubble's clients read.
func (r *record) layer7() *flowpb.Layer7 {
	out := &flowpb.Layer7{Type: flowpb.L7FlowType_REQUEST, LatencyNs: uint64(r.l7.Latency)}
	if r.has(bitReply) {
		out.Type = flowpb.L7FlowType_RESPONSE
	}
	switch {
	case r.l7.HTTP != nil:
		h := r.l7.HTTP
		http := &flowpb.HTTP{Code: h.Code, Method: h.Method, Url: h.URL, Protocol: h.Protocol}
		for i := 0; i+1 < len(h.Headers); i += 2 {
			http.Headers = append(http.Headers, &flowpb.HTTPHeader{Key: h.Headers[i], Value: h.Headers[i+1]})
		}
		out.Record = &flowpb.Layer7_Http{Http: http}
	case r.l7.DNS != nil:
		d := r.l7.DNS
		dns := &flowpb.DNS{Query: d.Query, Ttl: d.TTL, Cnames: d.CNames, ObservationSource: "proxy", Rcode: d.RCode, Qtypes: d.Types, Rrtypes: d.AnswerKind}
		for _, ip := range d.IPs {
			dns.Ips = append(dns.Ips, ip.String())
		}
		out.Record = &flowpb.Layer7_Dns{Dns: dns}
	}
	return out
}

var rcodeNames = map[uint32]string{1: "Format Error", 2: "Server Failure", 3: "Non-Existent Domain", 4: "Not Implemented", 5: "Query Refused"}

// summaryL7 is the text at the end of a line, as Hubble writes it.
func (r *record) summaryL7() string {
	response := r.has(bitReply)
	switch {
	case r.l7.HTTP != nil:
		h := r.l7.HTTP
		if response {
			return fmt.Sprintf("%s %d %dms (%s %s)", h.Protocol, h.Code, r.l7.Latency.Milliseconds(), h.Method, h.URL)
		}
		return strings.TrimSpace(fmt.Sprintf("%s %s %s", h.Protocol, h.Method, h.URL))
	case r.l7.DNS != nil:
		d := r.l7.DNS
		query := strings.TrimSpace(d.Query + " " + strings.Join(d.Types, ","))
		if !response {
			return "DNS Query " + query
		}
		if d.RCode != 0 {
			name := rcodeNames[d.RCode]
			if name == "" {
				name = fmt.Sprint(d.RCode)
			}
			return fmt.Sprintf("DNS Answer RCode: %s (Query %s)", name, query)
		}
		var parts []string
		if len(d.IPs) > 0 {
			var ips []string
			for _, ip := range d.IPs {
				ips = append(ips, ip.String())
			}
			parts = append(parts, fmt.Sprintf("%q", strings.Join(ips, ",")))
		}
		if d.TTL > 0 {
			parts = append(parts, fmt.Sprintf("TTL: %d", d.TTL))
		}
		if len(d.CNames) > 0 {
			parts = append(parts, fmt.Sprintf("CNAMEs: %q", strings.Join(d.CNames, ",")))
		}
		return "DNS Answer " + strings.TrimSpace(strings.Join(parts, " ")+" (Query "+query+")")
	}
	return ""
}

// application adds the conditions on the application layer.
func (c *compiler) application(ff *flowpb.FlowFilter) {
	http := func(match func(*datapath.L7HTTP) bool) predicate {
		return func(v *view) bool { return v.l7 != nil && v.l7.HTTP != nil && match(v.l7.HTTP) }
	}
	if wanted := ff.GetHttpStatusCode(); wanted != nil {
		match, err := statusCodes(wanted)
		c.try("http_status_code", func(v *view) bool {
			return v.l7 != nil && v.l7.HTTP != nil && v.has(bitReply) && match(v.l7.HTTP.Code)
		}, err)
	}
	if wanted := ff.GetHttpMethod(); wanted != nil {
		c.add(http(func(h *datapath.L7HTTP) bool {
			return slices.ContainsFunc(wanted, func(m string) bool { return strings.EqualFold(m, h.Method) })
		}))
	}
	for _, part := range []struct {
		field    string
		patterns []string
		of       func(*datapath.L7HTTP) string
	}{
		{"http_path", ff.GetHttpPath(), func(h *datapath.L7HTTP) string {
			if u, err := url.Parse(h.URL); err == nil {
				return u.Path
			}
			return ""
		}},
		{"http_url", ff.GetHttpUrl(), func(h *datapath.L7HTTP) string { return h.URL }},
	} {
		if part.patterns == nil {
			continue
		}
		match, err := anyOf(part.patterns)
		c.try(part.field, http(func(h *datapath.L7HTTP) bool { return match(part.of(h)) }), err)
	}
	if wanted := ff.GetHttpHeader(); wanted != nil {
		c.add(http(func(h *datapath.L7HTTP) bool {
			for i := 0; i+1 < len(h.Headers); i += 2 {
				if slices.ContainsFunc(wanted, func(w *flowpb.HTTPHeader) bool {
					return strings.EqualFold(w.GetKey(), h.Headers[i]) && w.GetValue() == h.Headers[i+1]
				}) {
					return true
				}
			}
			return false
		}))
	}
	if wanted := ff.GetDnsQuery(); wanted != nil {
		match, err := anyOf(wanted)
		c.try("dns_query", func(v *view) bool { return v.l7 != nil && v.l7.DNS != nil && match(v.l7.DNS.Query) }, err)
	}
}

func anyOf(patterns []string) (func(string) bool, error) {
	var all []*regexp.Regexp
	for _, p := range patterns {
		compiled, err := regexp.Compile(p)
		if err != nil {
			return nil, fmt.Errorf("%q is not a regular expression: %w", p, err)
		}
		all = append(all, compiled)
	}
	return func(text string) bool {
		return slices.ContainsFunc(all, func(p *regexp.Regexp) bool { return p.MatchString(text) })
	}, nil
}

var statusCode = regexp.MustCompile(`^[1-5]([0-9]{2}|[0-9]?\+)$`)

// statusCodes compiles "404", "40+" and "5+" as Hubble reads them.
func statusCodes(texts []string) (func(uint32) bool, error) {
	for _, text := range texts {
		if !statusCode.MatchString(text) {
			return nil, fmt.Errorf("invalid status code %q: a number of three digits, or a beginning with + is expected", text)
		}
	}
	return func(code uint32) bool {
		text := fmt.Sprint(code)
		return slices.ContainsFunc(texts, func(want string) bool {
			prefix, open := strings.CutSuffix(want, "+")
			return text == want || open && strings.HasPrefix(text, prefix)
		})
	}, nil
}
