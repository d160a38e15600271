package kubernetes

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
)

// heard is what a handler was told.
type heard struct {
	mu  sync.Mutex
	all []string
}

func (h *heard) add(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, fmt.Sprintf(format, args...))
}

func (h *heard) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.all
	h.all = nil
	slices.Sort(out)
	return out
}

func (h *heard) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.all)
}

func until(t *testing.T, what string, fn func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !fn(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

func startInformer(t *testing.T, c *Client) (*Informer[*ciliumv2.CiliumNode], *heard) {
	t.Helper()
	h := &heard{}
	i := NewInformer(c, Resource{Group: ciliumv2.GroupVersion, Name: "ciliumnodes"}, "", &ciliumv2.CiliumNode{}, &ciliumv2.CiliumNodeList{}, nil,
		Handler[*ciliumv2.CiliumNode]{
			Changed: func(old, now *ciliumv2.CiliumNode) {
				was := "new"
				if old != nil {
					was = old.Labels["value"]
				}
				if len(now.OwnerReferences) == 0 {
					h.add("%s: released before it was told of", now.Name)
				}
				h.add("%s: %s → %s", now.Name, was, now.Labels["value"])
			},
			Deleted: func(n *ciliumv2.CiliumNode) { h.add("%s: gone", n.Name) },
			Release: func(n *ciliumv2.CiliumNode) { n.OwnerReferences = nil },
		})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { i.Run(ctx); close(done) }()
	t.Cleanup(func() { stop(); <-done })
	return i, h
}

// While the API server is away nothing is taken for gone. When it is back, whatever it still knows of its past, exactly the
// differences are told, once each.
func TestResyncAfterALossOfTheAPIServer(t *testing.T) {
	for _, test := range []struct {
		name   string
		forget bool
	}{{"with its history", false}, {"its history compacted: 410 Gone", true}} {
		t.Run(test.name, func(t *testing.T) {
			s, c := newServer(t)
			for _, name := range []string{"a", "b", "c"} {
				s.happen(name, "1")
			}
			i, h := startInformer(t, c)
			until(t, "the first list", func() bool { return i.Synced() && h.count() == 3 })
			h.take()
			s.bookmark()
			s.happen("a", "2")
			until(t, "a change", func() bool { return h.count() == 1 })
			if got := h.take(); !slices.Equal(got, []string{"a: 1 → 2"}) {
				t.Fatalf("told %v", got)
			}
			s.leave()
			s.happen("a", "3")
			s.happen("b", "")
			s.happen("d", "1")
			s.happen("e", "1")
			s.happen("e", "")
			until(t, "attempts to reach it", func() bool { return s.attempts() >= 3 })
			if got := h.take(); len(got) > 0 {
				t.Errorf("while it was away: %v", got)
			}
			if _, ok := i.Get("", "b"); !ok || len(i.List()) != 3 || !i.Synced() {
				t.Errorf("while it was away %d are known, synced %v", len(i.List()), i.Synced())
			}
			s.back(test.forget)
			until(t, "the differences", func() bool { _, b := i.Get("", "b"); d, ok := i.Get("", "d"); return !b && ok && d != nil })
			s.happen("c", "2")
			until(t, "a change afterwards", func() bool { n, ok := i.Get("", "c"); return ok && n.Labels["value"] == "2" })
			got := h.take()
			want := []string{"a: 2 → 3", "b: gone", "c: 1 → 2", "d: new → 1"}
			if !test.forget {
				// Who has the history may tell of what came and went.
				got = slices.DeleteFunc(got, func(x string) bool { return strings.HasPrefix(x, "e: ") })
			}
			if !slices.Equal(got, want) {
				t.Errorf("told %v, want %v", got, want)
			}
			if lists, _ := s.counts(); test.forget && lists < 2 {
				t.Errorf("%d lists; without history a new one is needed", lists)
			}
		})
	}
}

// What is kept has neither what only the handler needed nor kubectl's second copy.
func TestWhatIsKeptIsLean(t *testing.T) {
	s, c := newServer(t)
	s.happen("a", "1")
	i, h := startInformer(t, c)
	until(t, "the first list", func() bool { return i.Synced() && h.count() == 1 })
	s.happen("b", "1")
	until(t, "news", func() bool { return h.count() == 2 })
	s.happen("a", "2")
	until(t, "a change", func() bool { return h.count() == 3 })
	// The handler is done with a when it is told of what came after it.
	s.happen("c", "1")
	until(t, "more news", func() bool { return h.count() == 4 })
	if got, want := h.take(), []string{"a: 1 → 2", "a: new → 1", "b: new → 1", "c: new → 1"}; !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
	for _, name := range []string{"a", "b"} {
		n, ok := i.Get("", name)
		if !ok || len(n.OwnerReferences) > 0 || n.Annotations[lastApplied] != "" || n.Annotations["other"] != "x" {
			t.Errorf("%s is kept as %+v", name, n)
		}
	}
}

// A watch may end with an error in the middle of its stream, too.
func TestResyncAfterAWatchThatExpired(t *testing.T) {
	s, c := newServer(t)
	s.happen("a", "1")
	s.happen("b", "1")
	i, h := startInformer(t, c)
	until(t, "the first list", func() bool { return i.Synced() && h.count() == 2 })
	until(t, "the watch", func() bool { _, watches := s.counts(); return watches > 0 })
	h.take()
	s.breakWatches()
	s.happen("b", "2")
	s.happen("a", "")
	until(t, "the differences", func() bool { _, ok := i.Get("", "a"); return !ok })
	until(t, "all of them", func() bool { return h.count() >= 2 })
	if got, want := h.take(), []string{"a: gone", "b: 1 → 2"}; !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
}
