package agent

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
	"fairlead.dev/node-agent/internal/kubernetes"
	"fairlead.dev/node-agent/internal/policies"
	"fairlead.dev/node-agent/policy"
)

// statusServer holds the conditions of one policy as the API server does.
type statusServer struct {
	t       *testing.T
	object  policyObject
	patches int
	refuse  error
}

func (s *statusServer) patch(_ context.Context, r kubernetes.Resource, name string, patch []byte) error {
	s.patches++
	if s.refuse != nil {
		return s.refuse
	}
	if r.Name != s.object.resource || r.Namespace != s.object.ref.Namespace || name != s.object.ref.Name {
		s.t.Errorf("patched %s %s/%s", r.Name, r.Namespace, name)
	}
	var body struct {
		Status ciliumv2.CiliumNetworkPolicyStatus `json:"status"`
	}
	if err := json.Unmarshal(patch, &body); err != nil {
		s.t.Fatal(err)
	}
	s.object.conditions = body.Status.Conditions
	return nil
}

func described(ref policy.Ref, problems ...policy.Problem) policies.Description {
	return policies.Description{Ref: ref, Valid: !policy.HasErrors(problems), Problems: problems}
}

func TestConditionsAreWrittenOnceAndKeepOthers(t *testing.T) {
	ctx := context.Background()
	ref := policy.Ref{Kind: policy.KindCiliumNetworkPolicy, Namespace: "a", Name: "p", UID: "1"}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := &statusServer{t: t, object: policyObject{ref: ref, resource: "ciliumnetworkpolicies",
		conditions: []ciliumv2.NetworkPolicyCondition{{Type: "Reviewed", Status: "True"}}}}
	write := func(d policies.Description, at time.Time) map[policy.RefKey]error {
		return writeConditions(ctx, []policyObject{s.object}, []policies.Description{d}, s.patch, at)
	}
	problem := policy.Problem{Severity: policy.SeverityError, Code: "invalid-cidr", Path: "spec.ingress[0]", What: "\"x\" is not a range of addresses"}
	for round := range 3 {
		if failed := write(described(ref), start.Add(time.Duration(round)*time.Minute)); len(failed) > 0 || s.patches != 1 {
			t.Fatalf("round %d: %d patches, %v", round, s.patches, failed)
		}
	}
	if c := s.object.conditions; len(c) != 2 || c[0].Type != "Reviewed" || c[1].Type != "Valid" || c[1].Status != "True" {
		t.Fatalf("conditions %+v", c)
	}
	// It becomes invalid: the reason's text is there, and the time of the transition.
	later := start.Add(time.Hour)
	_ = write(described(ref, problem), later)
	_ = write(described(ref, problem), later.Add(time.Minute))
	if c := s.object.conditions[1]; s.patches != 2 || c.Status != "False" || !strings.Contains(c.Message, "spec.ingress[0]: \"x\" is not a range") ||
		!c.LastTransitionTime.Time.Equal(later) {
		t.Fatalf("%d patches, condition %+v", s.patches, c)
	}
	// Another text of the same status is no transition.
	problem.What = "is something else"
	_ = write(described(ref, problem), later.Add(time.Hour))
	if c := s.object.conditions[1]; s.patches != 3 || !c.LastTransitionTime.Time.Equal(later) || !strings.HasSuffix(c.Message, "something else") {
		t.Fatalf("%d patches, condition %+v", s.patches, c)
	}
	// A server that refuses is asked once per call, and its error comes back.
	s.refuse = errors.New("forbidden")
	if failed := write(described(ref), later); s.patches != 4 || failed[ref.Key()] == nil {
		t.Fatalf("%d patches, %v", s.patches, failed)
	}
	// Of an object that was made again under the name nothing is known yet.
	s.refuse, s.object.ref.UID = nil, "2"
	if _ = write(described(ref), later); s.patches != 4 {
		t.Fatal("the condition of a former object was written into the new one")
	}
}

// A cluster-wide policy is written to its own resource, which has no namespace.
func TestConditionsOfClusterwidePolicies(t *testing.T) {
	ref := policy.Ref{Kind: policy.KindCiliumClusterwidePolicy, Name: "wide", UID: "1"}
	s := &statusServer{t: t, object: policyObject{ref: ref, resource: "ciliumclusterwidenetworkpolicies"}}
	failed := writeConditions(context.Background(), []policyObject{s.object}, []policies.Description{described(ref)}, s.patch, time.Now())
	if c := s.object.conditions; len(failed) > 0 || s.patches != 1 || len(c) != 1 || c[0].Type != ciliumv2.ConditionValid || c[0].Status != "True" {
		t.Errorf("%d patches, conditions %+v, %v", s.patches, c, failed)
	}
}

// Each policy is patched under its own resource, and only the edition that it was listed as.
func TestPolicyObjects(t *testing.T) {
	named := func(namespace, name, uid, version string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid), ResourceVersion: version}
	}
	reviewed := []ciliumv2.NetworkPolicyCondition{{Type: "Reviewed", Status: "True"}}
	status := ciliumv2.CiliumNetworkPolicyStatus{Conditions: reviewed}
	ref := func(kind policy.Kind, namespace, name, uid, version string) policy.Ref {
		return policy.Ref{Kind: kind, Namespace: namespace, Name: name, UID: uid, ResourceVersion: version}
	}
	for _, test := range []struct {
		name        string
		namespaced  []*ciliumv2.CiliumNetworkPolicy
		clusterwide []*ciliumv2.CiliumClusterwideNetworkPolicy
		want        []policyObject
	}{
		{name: "none"},
		{
			name:       "of a namespace, with the conditions of others",
			namespaced: []*ciliumv2.CiliumNetworkPolicy{{ObjectMeta: named("a", "p", "1", "10"), Status: status}},
			want:       []policyObject{{ref(policy.KindCiliumNetworkPolicy, "a", "p", "1", "10"), "ciliumnetworkpolicies", reviewed}},
		},
		{
			name:        "of the cluster, without any condition",
			clusterwide: []*ciliumv2.CiliumClusterwideNetworkPolicy{{ObjectMeta: named("", "p", "2", "11")}},
			want:        []policyObject{{ref(policy.KindCiliumClusterwidePolicy, "", "p", "2", "11"), "ciliumclusterwidenetworkpolicies", nil}},
		},
		{
			name: "of one name in two namespaces and in the cluster",
			namespaced: []*ciliumv2.CiliumNetworkPolicy{
				{ObjectMeta: named("a", "p", "1", "10")}, {ObjectMeta: named("b", "p", "3", "12"), Status: status}},
			clusterwide: []*ciliumv2.CiliumClusterwideNetworkPolicy{{ObjectMeta: named("", "p", "2", "11"), Status: status}},
			want: []policyObject{
				{ref(policy.KindCiliumNetworkPolicy, "a", "p", "1", "10"), "ciliumnetworkpolicies", nil},
				{ref(policy.KindCiliumNetworkPolicy, "b", "p", "3", "12"), "ciliumnetworkpolicies", reviewed},
				{ref(policy.KindCiliumClusterwidePolicy, "", "p", "2", "11"), "ciliumclusterwidenetworkpolicies", reviewed},
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := policyObjects(test.namespaced, test.clusterwide)
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			keys := map[policy.RefKey]bool{}
			for _, o := range got {
				keys[o.ref.Key()] = true
			}
			if len(keys) != len(got) {
				t.Errorf("%d policies are told apart of %d", len(keys), len(got))
			}
		})
	}
}
