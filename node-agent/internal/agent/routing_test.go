package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/kubernetes"
	"fairlead.dev/node-agent/internal/nodes"
)

// oneNode is an API server that has at most one CiliumNode, and remembers what its routing was said to be.
type oneNode struct {
	mu   sync.Mutex
	node *ciliumv2.CiliumNode
	said []string
}

func (s *oneNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if r.Method != http.MethodGet {
		var n ciliumv2.CiliumNode
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.node = &n
		s.said = append(s.said, n.Annotations[nodes.RoutingAnnotation])
	}
	if s.node == nil || !strings.Contains(r.URL.Path, "ciliumnodes") {
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonNotFound, Code: 404})
		return
	}
	n := *s.node
	n.TypeMeta = metav1.TypeMeta{APIVersion: "cilium.io/v2", Kind: "CiliumNode"}
	_ = json.NewEncoder(w).Encode(n)
}

// A node says how it routes, beside what it said before; before it leaves the tunnel it says that it is about to, and only then.
func TestNodesSayHowTheyRoute(t *testing.T) {
	state := &oneNode{}
	server := httptest.NewServer(state)
	defer server.Close()
	c, err := kubernetes.New(&rest.Config{Host: server.URL}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, log := context.Background(), slog.New(slog.DiscardHandler)
	spec := ciliumv2.NodeSpec{Addresses: []ciliumv2.NodeAddress{{Type: ciliumv2.NodeInternalIP, IP: "192.0.2.1"}}}
	publish := func(routing datapath.RoutingMode) {
		t.Helper()
		if err := publishNode(ctx, c, "node1", "", spec, routing); err != nil {
			t.Fatal(err)
		}
	}
	waited := func() bool {
		start := time.Now()
		announceNative(ctx, c, "node1", log)
		return time.Since(start) >= heardTime
	}
	if waited() {
		t.Error("a new node waited for others to hear of its change")
	}
	publish(datapath.RoutingTunnel)
	publish(datapath.RoutingTunnel)
	if got, ok := nodes.FromCilium(state.node); !ok || got.Routing != datapath.RoutingTunnel || got.Address.String() != "192.0.2.1" {
		t.Errorf("read back as %+v, %v", got, ok)
	}
	state.mu.Lock()
	state.node.Annotations["others/note"] = "kept"
	state.mu.Unlock()
	if !waited() {
		t.Error("a node that leaves the tunnel did not wait")
	}
	publish(datapath.RoutingNative)
	if waited() {
		t.Error("a node without tunnel waited")
	}
	publish(datapath.RoutingTunnel)
	if want := []string{"tunnel", "to-native", "native", "tunnel"}; !slices.Equal(state.said, want) {
		t.Errorf("said %v, want %v", state.said, want)
	}
	if state.node.Annotations["others/note"] != "kept" || len(state.node.Spec.Addresses) != 1 {
		t.Errorf("left %+v", state.node)
	}
	// Nobody to be told: it goes on, soon.
	server.Close()
	start := time.Now()
	announceNative(ctx, c, "node1", log)
	if took := time.Since(start); took > announceTime+time.Second {
		t.Errorf("without an API server it waited for %s", took)
	}
}
