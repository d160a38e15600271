package agent

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
	"fairlead.dev/node-agent/internal/kubernetes"
	"fairlead.dev/node-agent/internal/policies"
	"fairlead.dev/node-agent/policy"
)

// validCondition says of a policy whether it is enforced, and why not.
func validCondition(d policies.Description) ciliumv2.NetworkPolicyCondition {
	if d.Valid {
		return ciliumv2.NetworkPolicyCondition{Type: ciliumv2.ConditionValid, Status: "True", Message: "Policy validation succeeded"}
	}
	var problems []string
	for _, p := range d.Problems {
		if p.Severity == policy.SeverityError {
			problems = append(problems, p.String())
		}
	}
	return ciliumv2.NetworkPolicyCondition{Type: ciliumv2.ConditionValid, Status: "False", Reason: "Invalid", Message: strings.Join(problems, "; ")}
}

// withCondition replaces the condition of that type and keeps the others; false where it is there already. The time of the
// last transition stays where only the text differs.
func withCondition(all []ciliumv2.NetworkPolicyCondition, want ciliumv2.NetworkPolicyCondition, now time.Time) ([]ciliumv2.NetworkPolicyCondition, bool) {
	at := slices.IndexFunc(all, func(c ciliumv2.NetworkPolicyCondition) bool { return c.Type == want.Type })
	want.LastTransitionTime = metav1.NewTime(now)
	if at < 0 {
		return append(slices.Clone(all), want), true
	}
	have := all[at]
	if have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message {
		return all, false
	}
	if have.Status == want.Status {
		want.LastTransitionTime = have.LastTransitionTime
	}
	out := slices.Clone(all)
	out[at] = want
	return out, true
}

// policyObject is a policy of the API server with its conditions.
type policyObject struct {
	ref        policy.Ref
	resource   string
	conditions []ciliumv2.NetworkPolicyCondition
}

// policyObjects are the policies that have a condition of ours: those of Cilium's kinds. Kubernetes' own have no status.
func policyObjects(namespaced []*ciliumv2.CiliumNetworkPolicy, clusterwide []*ciliumv2.CiliumClusterwideNetworkPolicy) []policyObject {
	var out []policyObject
	for _, p := range namespaced {
		out = append(out, policyObject{refOf(policy.KindCiliumNetworkPolicy, p), "ciliumnetworkpolicies", p.Status.Conditions})
	}
	for _, p := range clusterwide {
		out = append(out, policyObject{refOf(policy.KindCiliumClusterwidePolicy, p), "ciliumclusterwidenetworkpolicies", p.Status.Conditions})
	}
	return out
}

// patchStatus sends a merge patch of an object's status.
type patchStatus func(ctx context.Context, r kubernetes.Resource, name string, patch []byte) error

// writeConditions says in every policy whether it is enforced; it writes only what differs, and once per call.
func writeConditions(ctx context.Context, objects []policyObject, described []policies.Description, patch patchStatus, now time.Time) map[policy.RefKey]error {
	known := make(map[policy.RefKey]policies.Description, len(described))
	for _, d := range described {
		known[d.Ref.Key()] = d
	}
	failed := map[policy.RefKey]error{}
	for _, o := range objects {
		key := o.ref.Key()
		// Of an edition that the manager has not seen yet there is nothing to say; it wakes us when it has.
		d, ok := known[key]
		if !ok || d.Ref.UID != o.ref.UID {
			continue
		}
		conditions, changed := withCondition(o.conditions, validCondition(d), now)
		if !changed {
			continue
		}
		text, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": conditions}})
		if err == nil {
			err = patch(ctx, kubernetes.Resource{Group: ciliumv2.GroupVersion, Name: o.resource, Namespace: key.Namespace}, key.Name, text)
		}
		if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			failed[key] = err
		}
	}
	return failed
}

// writeConditions is the duty of the agent that holds the lease.
func (a *agent) writeConditions(ctx context.Context, w *watcher) {
	patch := func(ctx context.Context, r kubernetes.Resource, name string, patch []byte) error {
		return a.client.MergePatch(ctx, r, name, patch, "status")
	}
	for key, err := range writeConditions(ctx, policyObjects(w.cnps.List(), w.ccnps.List()), w.parts.Policies.Describe(), patch, time.Now()) {
		a.log.Warn("a policy's condition was not written", "policy", key.String(), "error", err)
	}
}
