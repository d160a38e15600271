package l7

import (
	"net/url"
	"path"
	"slices"
	"strings"

	"fairlead.dev/node-agent/policy"
)

// message is what rules look at: of HTTP/1 or HTTP/2.
type message struct {
	method, path, host string
	header             func(name string) []string
}

// edit is a change of the request that a rule asks for.
type edit struct {
	rule policy.HeaderRule
}

// judge finds the rule that allows a request. Every way in which a server may read the path has to be allowed: a rule for
// /public/.* does not open /public/../secret.
func judge(answer policy.AnswerL7, m message) (rule policy.RuleID, edits []edit, allowed bool) {
	if answer.Open {
		return answer.Rule, nil, true
	}
	if answer.Denied {
		return answer.Rule, nil, false
	}
	for i, reading := range readings(m.path) {
		found := slices.IndexFunc(answer.HTTP, func(r policy.AttributedHTTP) bool { return matches(&r.HTTPRule, m, reading) })
		if found < 0 {
			return 0, nil, false
		}
		if i == 0 {
			rule = answer.HTTP[found].Rule
			for _, h := range answer.HTTP[found].Headers {
				if h.Mismatch != policy.MismatchRefuse && !satisfied(h, m) {
					edits = append(edits, edit{h})
				}
			}
		}
	}
	return rule, edits, true
}

func matches(r *policy.HTTPRule, m message, reading string) bool {
	if r.Method != nil && !r.Method.MatchString(m.method) || r.Path != nil && !r.Path.MatchString(reading) ||
		r.Host != nil && !r.Host.MatchString(m.host) {
		return false
	}
	for _, h := range r.Headers {
		if h.Mismatch == policy.MismatchRefuse && !satisfied(h, m) {
			return false
		}
	}
	return true
}

func satisfied(h policy.HeaderRule, m message) bool {
	values := m.header(h.Name)
	return len(values) > 0 && (h.AnyValue || slices.Contains(values, h.Value))
}

// readings gives the ways to read a path: as it is; with dots and empty segments resolved; and that after decoding.
func readings(target string) []string {
	out := []string{target}
	plain, query, hasQuery := strings.Cut(target, "?")
	lower := strings.ToLower(plain)
	if !strings.HasPrefix(plain, "/") || !strings.Contains(lower, "//") && !strings.Contains(lower, "/.") && !strings.Contains(lower, "\\") &&
		!strings.Contains(lower, "%2e") && !strings.Contains(lower, "%2f") && !strings.Contains(lower, "%5c") && !strings.Contains(lower, ";") && !strings.Contains(lower, "#") {
		return out
	}
	add := func(p string) {
		slash := strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")
		if p = path.Clean("/" + p); slash && p != "/" {
			p += "/"
		}
		if hasQuery {
			p += "?" + query
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	add(plain)
	if decoded, err := url.PathUnescape(plain); err == nil {
		add(decoded)
		add(strings.ReplaceAll(decoded, "\\", "/"))
	}
	// Some servers cut parameters and fragments off before they resolve dots.
	if cut := strings.IndexAny(plain, ";#"); cut >= 0 {
		add(plain[:cut])
	}
	return out
}

// apply carries the edits out.
func (h *head) apply(edits []edit) {
	for _, e := range edits {
		named := func(f field) bool { return strings.EqualFold(f.name, e.rule.Name) }
		switch e.rule.Mismatch {
		case policy.MismatchAdd:
			h.add(e.rule.Name, e.rule.Value)
		case policy.MismatchDelete:
			h.remove(named)
		case policy.MismatchReplace:
			h.remove(named)
			h.add(e.rule.Name, e.rule.Value)
		}
	}
}
