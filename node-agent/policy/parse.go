package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"fairlead.dev/node-agent/policy/spec"
)

// Parse reads a CiliumNetworkPolicy, a CiliumClusterwideNetworkPolicy or a Kubernetes NetworkPolicy from JSON, strictly:
// an unknown field is an error with its path. kind is what the document has to be; KindAuto takes what it says it is. A
// document without a kind (as typed clients give them) is accepted where kind is given.
//
// All problems are returned, errors first; they are also in Policy.Problems. With an error the policy is not Valid, governs
// nothing, and Engine.Upsert refuses it; Policy.Ref is filled as far as it could be read. What this version cannot enforce
// (L7 rules, toFQDNs, toServices, nodes, authentication, groups) is an error with code "unsupported": a policy is enforced
// as a whole or not at all.
func Parse(kind Kind, document []byte) (Policy, []Problem) {
	c := &converter{}
	c.parse(kind, document)
	return c.finish()
}

// converter turns a document into rules and collects what is wrong with it.
type converter struct {
	ref      Ref
	rules    []rule
	problems []Problem
}

func (c *converter) finish() (Policy, []Problem) {
	slices.SortStableFunc(c.problems, func(a, b Problem) int {
		rank := map[Severity]int{SeverityError: 0, SeverityWarning: 1}
		return rank[a.Severity] - rank[b.Severity]
	})
	p := Policy{Ref: c.ref, Problems: c.problems, rules: c.rules}
	if !p.Valid() {
		p.rules = nil
	}
	return p, c.problems
}

func (c *converter) fail(code, path, what, why, fix string) {
	c.problems = append(c.problems, Problem{Severity: SeverityError, Code: code, Path: path, What: what, Why: why, Fix: fix})
}

func (c *converter) warn(code, path, what, why, fix string) {
	c.problems = append(c.problems, Problem{Severity: SeverityWarning, Code: code, Path: path, What: what, Why: why, Fix: fix})
}

func (c *converter) unsupported(path, feature, fix string) {
	c.fail("unsupported", path, feature+" cannot be enforced by this version",
		"A policy is enforced as a whole or not at all, so the whole policy is not enforced.", fix)
}

var apiVersions = map[Kind]string{
	KindCiliumNetworkPolicy:     "cilium.io/v2",
	KindCiliumClusterwidePolicy: "cilium.io/v2",
	KindKubernetesNetworkPolicy: "networking.k8s.io/v1",
}

var metadataFields = []string{"annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp",
	"finalizers", "generateName", "generation", "labels", "managedFields", "name", "namespace", "ownerReferences",
	"resourceVersion", "selfLink", "uid"}

func (c *converter) parse(kind Kind, document []byte) {
	if len(bytes.TrimSpace(document)) == 0 {
		c.fail("empty", "", "the document is empty", "There is nothing to enforce.", "Write a policy.")
		return
	}
	tree, err := readTree(document, func(path string) {
		c.fail("duplicate-field", path, "is written twice", "Only one of the two would count.", "Keep one of them.")
	})
	if err != nil {
		c.fail("not-json", "", "cannot be read: "+err.Error(), "Nothing of it can be enforced.", "Correct the syntax.")
		return
	}
	root, ok := tree.(*object)
	if !ok {
		c.fail("wrong-type", "", "must be an object with apiVersion, kind, metadata and spec, but is "+describe(tree),
			"Nothing of it can be enforced.", "Write one Kubernetes object.")
		return
	}
	if !c.readKind(kind, root) || !c.readMetadata(root) {
		return
	}
	allowed := []string{"apiVersion", "kind", "metadata", "spec", "status"}
	if c.ref.Kind != KindKubernetesNetworkPolicy {
		allowed = append(allowed, "specs")
	}
	for _, key := range root.keys {
		if !slices.Contains(allowed, key) {
			c.unknownField("", key, allowed)
		}
	}
	if c.ref.Kind == KindKubernetesNetworkPolicy {
		c.parseNetworkPolicy(root, document)
	} else {
		c.parseCiliumPolicy(root, document)
	}
	if len(c.rules) > 0 {
		c.warnConsequences()
	}
}

func (c *converter) readKind(want Kind, root *object) bool {
	text, _ := root.values["kind"].(string)
	got := Kind(text)
	if got == "" && want != KindAuto {
		got = want
	}
	c.ref.Kind = got
	version, known := apiVersions[got]
	if !known || (want != KindAuto && got != want) {
		possible := "CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy or NetworkPolicy"
		if want != KindAuto {
			possible = string(want)
		}
		what := fmt.Sprintf("must be %s, but is %q", possible, text)
		if text == "" {
			what = "is missing; it must be " + possible
		}
		c.fail("wrong-kind", "kind", what, "Only these objects are network policies.", "Write `kind: "+strings.Split(possible, ",")[0]+"`.")
		return false
	}
	if written, _ := root.values["apiVersion"].(string); written != version && (written != "" || want == KindAuto) {
		c.fail("wrong-api-version", "apiVersion", fmt.Sprintf("must be %s, but is %q", version, written),
			"The API server knows this kind under that version only.", "Write `apiVersion: "+version+"`.")
	}
	return true
}

func (c *converter) readMetadata(root *object) bool {
	o, ok := root.values["metadata"].(*object)
	if !ok {
		c.fail("missing-field", "metadata.name", "is missing", "A policy is known by its name.", "Add `metadata:` with a `name:`.")
		return true
	}
	for _, key := range o.keys {
		if !slices.Contains(metadataFields, key) {
			c.unknownField("metadata", key, metadataFields)
		}
	}
	for _, field := range []struct {
		key  string
		into *string
	}{{"namespace", &c.ref.Namespace}, {"name", &c.ref.Name}, {"uid", &c.ref.UID}, {"resourceVersion", &c.ref.ResourceVersion}} {
		value, there := o.values[field.key]
		if !there || value == nil {
			continue
		}
		text, ok := value.(string)
		if !ok {
			c.wrongType(child("metadata", field.key), value, "a text", "")
			continue
		}
		*field.into = text
	}
	if c.ref.Name == "" {
		if _, generated := o.values["generateName"]; !generated {
			c.fail("missing-field", "metadata.name", "is missing", "A policy is known by its name.", "Add `name:`.")
		}
	}
	if c.ref.Kind == KindCiliumClusterwidePolicy {
		if c.ref.Namespace != "" {
			c.fail("namespace-on-clusterwide", "metadata.namespace", "is set on a cluster-wide policy",
				"A CiliumClusterwideNetworkPolicy is in no namespace.",
				"Remove it, or write `kind: CiliumNetworkPolicy`.")
		}
	} else if c.ref.Namespace == "" {
		c.ref.Namespace = "default"
	}
	return true
}

func (c *converter) parseCiliumPolicy(root *object, document []byte) {
	fine := true
	if tree, there := root.values["spec"]; there {
		fine = c.checkShape(tree, reflect.TypeFor[*spec.Rule](), "spec")
	}
	if tree, there := root.values["specs"]; there {
		fine = c.checkShape(tree, reflect.TypeFor[[]*spec.Rule](), "specs") && fine
	}
	var decoded struct {
		Spec  *spec.Rule   `json:"spec"`
		Specs []*spec.Rule `json:"specs"`
	}
	if !fine {
		return
	}
	if err := json.Unmarshal(document, &decoded); err != nil {
		c.fail("not-json", "", "cannot be read: "+err.Error(), "Nothing of it can be enforced.", "Correct the value.")
		return
	}
	if decoded.Spec == nil && len(decoded.Specs) == 0 {
		c.fail("missing-field", "spec", "is missing", "The policy has no rule.", "Add `spec:` with an endpointSelector and rules.")
		return
	}
	c.convertRules(decoded.Spec, decoded.Specs)
}

// convertRules numbers the rules: spec is 0 and specs follow, from 0 where there is no spec, so that the index is the one
// in `specs` for a policy that has only those.
func (c *converter) convertRules(single *spec.Rule, list []*spec.Rule) {
	base := 0
	if single != nil {
		c.convertRule("spec", 0, single)
		base = 1
	}
	for i, r := range list {
		if r == nil {
			c.fail("wrong-type", item("specs", i), "is empty", "It says nothing.", "Remove it.")
			continue
		}
		c.convertRule(item("specs", i), base+i, r)
	}
}

func (c *converter) parseNetworkPolicy(root *object, document []byte) {
	tree, there := root.values["spec"]
	if !there || tree == nil {
		c.fail("missing-field", "spec", "is missing", "The policy says nothing.", "Add `spec:` with a podSelector.")
		return
	}
	if !c.checkShape(tree, reflect.TypeFor[spec.NetworkPolicy](), "spec") {
		return
	}
	var decoded struct {
		Spec spec.NetworkPolicy `json:"spec"`
	}
	if err := json.Unmarshal(document, &decoded); err != nil {
		c.fail("not-json", "", "cannot be read: "+err.Error(), "Nothing of it can be enforced.", "Correct the value.")
		return
	}
	c.convertNetworkPolicy(&decoded.Spec)
}

// FromRules makes a Policy of rules that are decoded already, e.g. by a typed client; problems as Parse finds them, but for
// unknown fields, which such a client has dropped. ref.Kind says which of the two Cilium kinds it is.
func FromRules(ref Ref, single *spec.Rule, list []*spec.Rule) (Policy, []Problem) {
	c := &converter{ref: ref}
	if single == nil && len(list) == 0 {
		c.fail("missing-field", "spec", "is missing", "The policy has no rule.", "Add `spec:` with an endpointSelector and rules.")
	} else {
		c.convertRules(single, list)
		c.warnConsequences()
	}
	return c.finish()
}

// FromNetworkPolicy is FromRules for a Kubernetes NetworkPolicy.
func FromNetworkPolicy(ref Ref, np *spec.NetworkPolicy) (Policy, []Problem) {
	c := &converter{ref: ref}
	c.convertNetworkPolicy(np)
	c.warnConsequences()
	return c.finish()
}
