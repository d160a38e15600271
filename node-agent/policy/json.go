package policy

import (
	"encoding/json"
	"fmt"
)

// Validation is the answer to Validate, for the console.
type Validation struct {
	Ref      Ref       `json:"ref"`
	Valid    bool      `json:"valid"`
	Problems []Problem `json:"problems"`
	// Ingress and Egress tell in which directions the policy takes part; DefaultDeny where it switches default deny on.
	Ingress            bool     `json:"ingress"`
	Egress             bool     `json:"egress"`
	DefaultDenyIngress bool     `json:"defaultDenyIngress"`
	DefaultDenyEgress  bool     `json:"defaultDenyEgress"`
	Prefixes           []string `json:"prefixes"`
	// Selector is Policy.SelectorText, Meaning Policy.Meaning.
	Selector string   `json:"selector"`
	Meaning  []string `json:"meaning"`
	// Requires are the agents' settings without which the policy is not enforced; References the objects that it names.
	Requires   []string `json:"requires"`
	References []string `json:"references"`
}

// Validate parses a document and tells what it found.
func Validate(document []byte) Validation {
	p, problems := Parse(KindAuto, document)
	out := Validation{Ref: p.Ref, Valid: p.Valid(), Problems: problems, Prefixes: []string{},
		Selector: p.SelectorText(), Meaning: p.Meaning(), Requires: p.Requires(), References: append([]string{}, p.References()...)}
	if problems == nil {
		out.Problems = []Problem{}
	}
	out.Ingress, out.Egress, out.DefaultDenyIngress, out.DefaultDenyEgress = p.Directions()
	for _, prefix := range p.Prefixes() {
		out.Prefixes = append(out.Prefixes, prefix.String())
	}
	return out
}

// Call is the engine as functions from JSON to JSON, as the console calls it: `validate`, `selected`, `verdicts`, `explain`
// (and `labels`, the identity labels of each pod). An error says what of the request could not be read.
func Call(function string, request []byte) ([]byte, error) {
	var answer any
	var err error
	switch function {
	case "validate":
		return encode(Validate(request))
	case "selected":
		answer, err = callSelected(request)
	case "verdicts":
		answer, err = callVerdicts(request)
	case "explain":
		answer, err = callExplain(request)
	case "labels":
		answer, err = callLabels(request)
	default:
		return nil, fmt.Errorf("the policy engine has no function %q", function)
	}
	if err != nil {
		return nil, err
	}
	return encode(answer)
}

func encode(answer any) ([]byte, error) {
	out, err := json.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("encoding the policy engine's answer: %w", err)
	}
	return out, nil
}

func decode(function string, request []byte, into any) error {
	if err := json.Unmarshal(request, into); err != nil {
		return fmt.Errorf("reading the request of %s: %w", function, err)
	}
	return nil
}

func callSelected(request []byte) (any, error) {
	var r struct {
		Policy json.RawMessage `json:"policy"`
		Pods   []Pod           `json:"pods"`
	}
	if err := decode("selected", request, &r); err != nil {
		return nil, err
	}
	p, problems := Parse(KindAuto, r.Policy)
	return struct {
		Valid    bool      `json:"valid"`
		Problems []Problem `json:"problems"`
		Pods     []int     `json:"pods"`
	}{p.Valid(), append([]Problem{}, problems...), Selected(p, r.Pods)}, nil
}

// callReferences are the objects that policies of a request may name beside pods.
type callReferences struct {
	Groups   []CIDRGroup    `json:"groups"`
	Services []ServicePeers `json:"services"`
}

func (r callReferences) all() References { return NewReferences(r.Groups, r.Services) }

func parseAll(documents []json.RawMessage, references References) []Policy {
	out := make([]Policy, len(documents))
	for i, document := range documents {
		p, _ := Parse(KindAuto, document)
		out[i] = p.Resolve(references)
	}
	return out
}

// invalid lists the indexes of the policies that were left out because they are not valid.
func invalid(policies []Policy) []int {
	out := []int{}
	for i, p := range policies {
		if !p.Valid() {
			out = append(out, i)
		}
	}
	return out
}

func callVerdicts(request []byte) (any, error) {
	var r struct {
		Policies []json.RawMessage `json:"policies"`
		Pods     []Pod             `json:"pods"`
		Queries  []Query           `json:"queries"`
		callReferences
	}
	if err := decode("verdicts", request, &r); err != nil {
		return nil, err
	}
	policies := parseAll(r.Policies, r.all())
	answer := struct {
		Invalid  []int        `json:"invalid"`
		Verdicts []Connection `json:"verdicts"`
	}{invalid(policies), make([]Connection, len(r.Queries))}
	for i, q := range r.Queries {
		c, err := Connect(policies, r.Pods, q)
		if err != nil {
			return nil, fmt.Errorf("query %d: %w", i, err)
		}
		answer.Verdicts[i] = c
	}
	return answer, nil
}

// explainLimit keeps an answer readable, and small enough to be drawn.
const explainLimit = 2000

func callExplain(request []byte) (any, error) {
	var r struct {
		Policies  []json.RawMessage `json:"policies"`
		Candidate json.RawMessage   `json:"candidate"`
		Pods      []Pod             `json:"pods"`
		callReferences
	}
	if err := decode("explain", request, &r); err != nil {
		return nil, err
	}
	policies := parseAll(r.Policies, r.all())
	candidate, problems := Parse(KindAuto, r.Candidate)
	candidate = candidate.Resolve(r.all())
	return struct {
		Valid    bool      `json:"valid"`
		Problems []Problem `json:"problems"`
		Invalid  []int     `json:"invalid"`
		Explanation
	}{candidate.Valid(), append([]Problem{}, problems...), invalid(policies), Explain(policies, candidate, r.Pods, explainLimit)}, nil
}

func callLabels(request []byte) (any, error) {
	var r struct {
		Pods []Pod `json:"pods"`
	}
	if err := decode("labels", request, &r); err != nil {
		return nil, err
	}
	out := make([]Labels, len(r.Pods))
	for i, pod := range r.Pods {
		out[i] = pod.Identity()
	}
	return struct {
		Labels []Labels `json:"labels"`
	}{out}, nil
}
