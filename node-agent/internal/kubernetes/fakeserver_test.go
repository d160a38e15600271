package kubernetes

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
)

// server is an API server of CiliumNodes as far as a watch needs one: it has a history that it may forget, and can be away.
type server struct {
	t    *testing.T
	http *httptest.Server

	mu      sync.Mutex
	objects map[string]*ciliumv2.CiliumNode
	version int
	// oldest is the first version from which a watch may begin; history what happened since.
	oldest  int
	history []happened
	away    bool
	// changed is closed and made anew whenever something happens.
	changed chan struct{}
	lists   int
	watches int
	refused int
	// broken makes watches end with an error in their stream, as a server does that has forgotten what was asked for.
	broken bool
}

type happened struct {
	Type    string `json:"type"`
	Object  any    `json:"object"`
	version int
}

func newServer(t *testing.T) (*server, *Client) {
	t.Helper()
	s := &server{t: t, objects: map[string]*ciliumv2.CiliumNode{}, version: 100, oldest: 100, changed: make(chan struct{})}
	s.http = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() { s.leave(); s.http.Close() })
	c, err := New(&rest.Config{Host: s.http.URL}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// happen makes a change: an object with a label's value, or none any more.
func (s *server) happen(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	kind := "ADDED"
	old := s.objects[name]
	object := &ciliumv2.CiliumNode{TypeMeta: metav1.TypeMeta{APIVersion: "cilium.io/v2", Kind: "CiliumNode"},
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: strconv.Itoa(s.version), Labels: map[string]string{"value": value},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: name, UID: "u"}}, Annotations: map[string]string{lastApplied: "{}", "other": "x"}}}
	switch {
	case value == "":
		kind, object = "DELETED", old
		delete(s.objects, name)
	case old != nil:
		kind = "MODIFIED"
		s.objects[name] = object
	default:
		s.objects[name] = object
	}
	s.history = append(s.history, happened{kind, object, s.version})
	s.wake()
}

// bookmark tells watches how far they are, and nothing else.
func (s *server) bookmark() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.history = append(s.history, happened{"BOOKMARK", &ciliumv2.CiliumNode{TypeMeta: metav1.TypeMeta{APIVersion: "cilium.io/v2", Kind: "CiliumNode"},
		ObjectMeta: metav1.ObjectMeta{ResourceVersion: strconv.Itoa(s.version)}}, s.version})
	s.wake()
}

func (s *server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// leave ends all connections and answers nothing until back.
func (s *server) leave() {
	s.mu.Lock()
	s.away = true
	s.wake()
	s.mu.Unlock()
	s.http.CloseClientConnections()
}

// back answers again; forget: what happened until now is in nobody's history any more.
func (s *server) back(forget bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = false
	if forget {
		s.forget()
	}
}

func (s *server) forget() {
	s.version++
	s.oldest, s.history = s.version, nil
}

// breakWatches ends every watch with an error in its stream; its history is gone.
func (s *server) breakWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
	s.broken = true
	s.wake()
}

func (s *server) counts() (lists, watches int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists, s.watches
}

// attempts were made to reach it while it was away.
func (s *server) attempts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

func expired() metav1.Status {
	return metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Message: "too old resource version",
		Reason: metav1.StatusReasonExpired, Code: http.StatusGone}
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	away := s.away
	if away {
		s.refused++
	}
	s.mu.Unlock()
	if away {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	query := r.URL.Query()
	switch {
	case !strings.HasSuffix(r.URL.Path, "/ciliumnodes"):
		http.NotFound(w, r)
	case query.Get("sendInitialEvents") == "true":
		// As a server without this feature; the list follows.
		w.WriteHeader(http.StatusUnprocessableEntity)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonInvalid, Code: 422})
	case query.Get("watch") == "true":
		s.watch(w, r)
	default:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lists++
		list := ciliumv2.CiliumNodeList{TypeMeta: metav1.TypeMeta{APIVersion: "cilium.io/v2", Kind: "CiliumNodeList"},
			ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(s.version)}}
		for _, o := range s.objects {
			list.Items = append(list.Items, *o)
		}
		_ = json.NewEncoder(w).Encode(list)
	}
}

func (s *server) watch(w http.ResponseWriter, r *http.Request) {
	from, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.watches++
	tooOld := from < s.oldest
	s.broken = false
	s.mu.Unlock()
	if tooOld {
		w.WriteHeader(http.StatusGone)
		_ = json.NewEncoder(w).Encode(expired())
		return
	}
	out := json.NewEncoder(w)
	flush := w.(http.Flusher).Flush
	flush()
	for {
		s.mu.Lock()
		var due []happened
		for _, h := range s.history {
			if h.version > from {
				due, from = append(due, h), h.version
			}
		}
		away, broken, changed := s.away, s.broken, s.changed
		s.mu.Unlock()
		if away {
			panic(http.ErrAbortHandler)
		}
		for _, h := range due {
			if out.Encode(h) != nil {
				return
			}
		}
		if broken {
			_ = out.Encode(happened{Type: "ERROR", Object: expired()})
			flush()
			return
		}
		flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}
