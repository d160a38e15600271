package l7

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"fairlead.dev/node-agent/policy"
)

// Question is what is asked of the rules on content: an HTTP request, or a name in DNS.
type Question struct {
	// Method and URL of a request, or Name.
	Method string
	URL    *url.URL
	Name   string
}

// ParseQuestion reads "GET http://host/path", "GET /path" or "DNS name".
func ParseQuestion(text string) (Question, error) {
	method, rest, ok := strings.Cut(strings.TrimSpace(text), " ")
	rest = strings.TrimSpace(rest)
	if !ok || rest == "" || strings.ContainsAny(rest, " \t") {
		return Question{}, fmt.Errorf("%q is no question; write \"GET http://host/path\" or \"DNS name\"", text)
	}
	if strings.EqualFold(method, "DNS") {
		return Question{Name: rest}, nil
	}
	u, err := url.Parse(rest)
	if err != nil {
		return Question{}, fmt.Errorf("reading %q: %w", rest, err)
	}
	if u.Path == "" {
		u.Path = "/"
	}
	return Question{Method: strings.ToUpper(method), URL: u}, nil
}

// Decide tells what a proxy would answer: whether it lets this pass, and by which rule. It is the judgement that the proxies
// use.
func Decide(answer policy.AnswerL7, q Question) (rule policy.RuleID, allowed bool) {
	if q.URL == nil {
		if answer.Open || answer.Denied {
			return answer.Rule, answer.Open
		}
		for _, r := range answer.DNS {
			if r.Matches(q.Name) {
				return r.Rule, true
			}
		}
		return 0, false
	}
	headers := http.Header{}
	target := q.URL.EscapedPath()
	if q.URL.RawQuery != "" {
		target += "?" + q.URL.RawQuery
	}
	rule, _, allowed = judge(answer, message{method: q.Method, path: target, host: q.URL.Host, header: headers.Values})
	return rule, allowed
}
