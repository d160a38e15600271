package endpoints

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/datapathtest"
)

func TestBandwidthOf(t *testing.T) {
	for _, test := range []struct {
		ingress, egress string
		want            Bandwidth
		problems        []string
	}{
		{"", "", Bandwidth{}, nil},
		{"", "10M", Bandwidth{Egress: 1_250_000}, nil},
		{"1Mi", " 1.5G ", Bandwidth{Ingress: 131072, Egress: 187_500_000}, nil},
		{"8000", "1k", Bandwidth{Ingress: 1000, Egress: 125}, nil},
		{"1P", "", Bandwidth{Ingress: 125e12}, nil},
		{"10Mbit", "10M", Bandwidth{Egress: 1_250_000}, []string{AnnotationIngressBandwidth, `"10Mbit" is no quantity`}},
		{"10M", "0", Bandwidth{Ingress: 1_250_000}, []string{AnnotationEgressBandwidth, "between 1k and 1P"}},
		{"-1M", "2P", Bandwidth{}, []string{AnnotationEgressBandwidth, AnnotationIngressBandwidth}},
		{"10", "", Bandwidth{}, []string{"between 1k and 1P"}},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"other": "1"}}}
		for name, text := range map[string]string{AnnotationIngressBandwidth: test.ingress, AnnotationEgressBandwidth: test.egress} {
			if text != "" {
				pod.Annotations[name] = text
			}
		}
		got := bandwidthOf(pod)
		problem := got.Problem
		got.Problem = ""
		if got != test.want || (problem == "") != (test.problems == nil) {
			t.Errorf("%q and %q: %+v, problem %q", test.ingress, test.egress, got, problem)
		}
		for _, text := range test.problems {
			if !strings.Contains(problem, text) {
				t.Errorf("%q and %q: the problem %q does not name %q", test.ingress, test.egress, problem, text)
			}
		}
	}
}

// A pod's limits are in the datapath when it is attached, follow its annotations without a new identity or announcement,
// and are there after a restart. What is no limit keeps no pod from starting.
func TestLimitsFollowAnnotations(t *testing.T) {
	ctx := context.Background()
	directory := t.TempDir()
	n := start(t, &datapathtest.Fake{}, directory)
	r := n.pod("web", map[string]string{"app": "web"})
	annotate := func(annotations map[string]string) { n.cluster.pods["a/web"].Annotations = annotations }
	limits := func() [2]uint64 {
		t.Helper()
		all, err := n.dp.Endpoints()
		if err != nil || len(all) != 1 {
			t.Fatalf("%d endpoints, %v", len(all), err)
		}
		return [2]uint64{datapath.Ingress: all[0].IngressBandwidth, datapath.Egress: all[0].EgressBandwidth}
	}
	annotate(map[string]string{AnnotationEgressBandwidth: "8M", AnnotationIngressBandwidth: "plenty"})
	e := n.add(t, r)
	if got := limits(); got != [2]uint64{0, 1_000_000} || !strings.Contains(e.Bandwidth.Problem, "plenty") {
		t.Errorf("attached with %v, problem %q", got, e.Bandwidth.Problem)
	}
	announced := len(n.cluster.announced)
	annotate(map[string]string{AnnotationEgressBandwidth: "16M", AnnotationIngressBandwidth: "8M"})
	for range 2 {
		if err := n.Refresh(ctx, "a", "web"); err != nil {
			t.Fatal(err)
		}
	}
	if got := limits(); got != [2]uint64{1_000_000, 2_000_000} || n.List()[0].Bandwidth.Problem != "" {
		t.Errorf("after a change %v, problem %q", got, n.List()[0].Bandwidth.Problem)
	}
	if len(n.cluster.announced) != announced || n.List()[0].Identity != e.Identity {
		t.Error("a change of limits was announced to the cluster")
	}
	again := start(t, n.dp, directory)
	if got := again.List()[0].Bandwidth; got != (Bandwidth{Ingress: 1_000_000, Egress: 2_000_000}) {
		t.Errorf("after a restart %+v", got)
	}
	again.cluster.pods = n.cluster.pods
	annotate(nil)
	again.Restored(ctx)
	if got := limits(); got != [2]uint64{} {
		t.Errorf("annotations that went while the agent was away: %v", got)
	}
	// Together with labels.
	n.cluster.pods["a/web"].Labels = map[string]string{"app": "other"}
	annotate(map[string]string{AnnotationEgressBandwidth: "8M"})
	if err := again.Refresh(ctx, "a", "web"); err != nil {
		t.Fatal(err)
	}
	if got := limits(); got != [2]uint64{0, 1_000_000} {
		t.Errorf("changed together with labels: %v", got)
	}
}
