package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/endpoints"
	"fairlead.dev/node-agent/internal/kubernetes"
)

func TestWarningsAreGivenOnce(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	written := map[string]string{}
	var asked int
	var refuse error
	create := func(_ context.Context, r kubernetes.Resource, in runtime.Object) error {
		e := in.(*corev1.Event)
		if asked++; refuse != nil {
			return refuse
		}
		if r.Name != "events" || r.Namespace != "a" || e.Namespace != "a" || e.InvolvedObject.UID != "u1" || e.Type != corev1.EventTypeWarning {
			t.Errorf("written to %+v: %+v", r, e)
		}
		if _, there := written[e.Name]; there {
			return apierrors.NewAlreadyExists(schema.GroupResource{Resource: "events"}, e.Name)
		}
		written[e.Name] = e.Message
		return nil
	}
	agent := func() *warnings {
		w := newWarnings(create, slog.New(slog.DiscardHandler))
		w.now = func() time.Time { return at }
		return w
	}
	pod := podReference(endpoints.Endpoint{Namespace: "a", PodName: "p", PodUID: "u1"})
	w := agent()
	for range 3 {
		w.warn(context.Background(), pod, "InvalidBandwidth", "no quantity")
	}
	if asked != 1 || len(written) != 1 {
		t.Fatalf("%d requests, written %v", asked, written)
	}
	// Another agent, or the same one again: the server has it.
	agent().warn(context.Background(), pod, "InvalidBandwidth", "no quantity")
	if len(written) != 1 {
		t.Errorf("written %v", written)
	}
	w.warn(context.Background(), pod, "InvalidBandwidth", "something else")
	if len(written) != 2 {
		t.Errorf("another warning was not given: %v", written)
	}
	at = at.Add(2 * warnAgain)
	w.warn(context.Background(), pod, "InvalidBandwidth", "no quantity")
	if len(written) != 3 {
		t.Errorf("it was not given again when the server had forgotten it: %v", written)
	}
	refuse, asked = errors.New("forbidden"), 0
	w.warn(context.Background(), pod, "Other", "x")
	w.warn(context.Background(), pod, "Other", "x")
	at = at.Add(2 * warnRetry)
	w.warn(context.Background(), pod, "Other", "x")
	if asked != 2 {
		t.Errorf("a refused warning was tried %d times, want once and again after a while", asked)
	}
}

func TestBandwidthComponent(t *testing.T) {
	list := []endpoints.Endpoint{{Namespace: "a", PodName: "p", Bandwidth: endpoints.Bandwidth{Egress: 5}}, {Namespace: "a", PodName: "q"}}
	wrong := append(slices.Clone(list), endpoints.Endpoint{Namespace: "b", PodName: "r", Bandwidth: endpoints.Bandwidth{Problem: "not a quantity"}})
	for name, test := range map[string]struct {
		mode  datapath.Bandwidth
		list  []endpoints.Endpoint
		state api.State
		says  []string
		fix   string
	}{
		"off":           {datapath.Bandwidth{Mode: datapath.BandwidthOff}, nil, api.StateOff, []string{"bandwidthManager.enabled is false"}, ""},
		"off, asked":    {datapath.Bandwidth{Mode: datapath.BandwidthOff}, list, api.StateOff, []string{"1 pods have limits, which nobody enforces"}, ""},
		"paced":         {datapath.Bandwidth{Mode: datapath.BandwidthPaced}, list, api.StateOK, []string{"1 pods", "waits"}, ""},
		"policed":       {datapath.Bandwidth{Mode: datapath.BandwidthPoliced, Why: "no fq here", Fix: "load it"}, list, api.StateDegraded, []string{"dropped", "no fq here"}, "load it"},
		"misunderstood": {datapath.Bandwidth{Mode: datapath.BandwidthPaced}, wrong, api.StateDegraded, []string{"b/r: not a quantity"}, "Correct the annotation"},
	} {
		got := bandwidthComponent(test.mode, test.list)
		if got.State != test.state || !strings.HasPrefix(got.Fix, test.fix) || (test.fix == "") != (got.Fix == "") {
			t.Errorf("%s: %+v", name, got)
		}
		for _, text := range test.says {
			if !strings.Contains(got.Message, text) {
				t.Errorf("%s: %q does not say %q", name, got.Message, text)
			}
		}
	}
}
