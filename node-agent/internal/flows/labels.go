package flows

import (
	"fmt"
	"slices"
	"strings"

	k8slabels "k8s.io/apimachinery/pkg/labels"
)

// labelSet lets Kubernetes selectors look at labels in Cilium's form. A selector's key is "source.key", where the source
// "any" stands for all of them.
type labelSet []string

// Lookup finds the value of a label by its "source.key".
func (s labelSet) Lookup(key string) (string, bool) {
	wantedSource, wantedKey, _ := strings.Cut(key, ".")
	for _, label := range s {
		source, rest, ok := strings.Cut(label, ":")
		if !ok {
			source, rest = "", label
		}
		name, value, _ := strings.Cut(rest, "=")
		if name == wantedKey && (wantedSource == "any" || wantedSource == source) {
			return value, true
		}
	}
	return "", false
}

// Has tells whether there is such a label.
func (s labelSet) Has(key string) bool { _, ok := s.Lookup(key); return ok }

// Get is the label's value, or "".
func (s labelSet) Get(key string) string { value, _ := s.Lookup(key); return value }

// labelSelectors compiles alternatives in Kubernetes' selector syntax, whose keys may have a source: "k8s:app=web",
// "app in (a, b)", "!k8s:app", "reserved:host".
func labelSelectors(texts []string) (func(labels []string) bool, error) {
	var selectors []k8slabels.Selector
	for _, text := range texts {
		selector, err := k8slabels.Parse(translateSelector(text))
		if err != nil {
			return nil, fmt.Errorf("invalid label selector %q: %w", text, err)
		}
		selectors = append(selectors, selector)
	}
	return func(labels []string) bool {
		return slices.ContainsFunc(selectors, func(s k8slabels.Selector) bool { return s.Matches(labelSet(labels)) })
	}, nil
}

// translateSelector writes "any." before every key without a source and "source." for "source:", because Kubernetes
// allows no colon in a key.
func translateSelector(selector string) string {
	var out, key strings.Builder
	nesting, inKey, leading := 0, true, true
	flush := func() {
		text := key.String()
		key.Reset()
		if text == "" {
			return
		}
		if !strings.Contains(text, ":") {
			text = "any:" + text
		}
		out.WriteString(strings.Replace(text, ":", ".", 1))
	}
	for _, r := range selector {
		if inKey {
			switch {
			case leading && (r == ' ' || r == '\t' || r == '!'):
				out.WriteRune(r)
				continue
			case r == ' ' || r == '\t' || r == '=' || r == '!' || r == ',':
				flush()
				inKey = r == ','
				leading = true
			default:
				leading = false
				key.WriteRune(r)
				continue
			}
		} else {
			switch r {
			case '(':
				nesting++
			case ')':
				nesting--
			case ',':
				inKey, leading = nesting == 0, true
			}
		}
		out.WriteRune(r)
	}
	flush()
	return out.String()
}
