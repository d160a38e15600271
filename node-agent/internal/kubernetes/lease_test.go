package kubernetes

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// leases is an API server of one lease; whoever renews it has a clock that jumps.
type leases struct {
	mu      sync.Mutex
	lease   *coordinationv1.Lease
	version int
}

var jumps = []time.Time{time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2124, 1, 1, 0, 0, 0, 0, time.UTC), {}}

func (l *leases) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	refuse := func(code int32, reason metav1.StatusReason) {
		w.WriteHeader(int(code))
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: reason, Code: code})
	}
	if r.Method != http.MethodGet {
		body, _ := io.ReadAll(r.Body)
		decoded, _, err := codecs.UniversalDeserializer().Decode(body, nil, nil)
		if err != nil {
			refuse(http.StatusBadRequest, metav1.StatusReasonBadRequest)
			return
		}
		lease := decoded.(*coordinationv1.Lease)
		if l.lease != nil && lease.ResourceVersion != l.lease.ResourceVersion {
			refuse(http.StatusConflict, metav1.StatusReasonConflict)
			return
		}
		l.version++
		lease.ResourceVersion = strconv.Itoa(l.version)
		at := metav1.NewMicroTime(jumps[l.version%len(jumps)])
		lease.Spec.RenewTime, lease.Spec.AcquireTime = &at, &at
		l.lease = lease
	}
	if l.lease == nil {
		refuse(http.StatusNotFound, metav1.StatusReasonNotFound)
		return
	}
	out := l.lease.DeepCopy()
	out.TypeMeta = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
	_ = json.NewEncoder(w).Encode(out)
}

// The times in a lease are of other machines' clocks, which may jump by years: nobody takes over from a holder that renews, and
// somebody does from one that does not, within the duration.
func TestLeasesDoNotCompareClocks(t *testing.T) {
	s := httptest.NewServer(&leases{})
	defer s.Close()
	c, err := New(&rest.Config{Host: s.URL}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	const duration = time.Second
	run := func(name string) (held, lost chan time.Time, stop func()) {
		held, lost = make(chan time.Time, 10), make(chan time.Time, 10)
		l := &Lease{Client: c, Namespace: "kube-system", Name: "duties", Holder: name, Duration: duration, Log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.Run(ctx, func(ctx context.Context) {
				held <- time.Now()
				<-ctx.Done()
				lost <- time.Now()
			})
		}()
		return held, lost, func() { cancel(); <-done }
	}
	first, firstLost, stopFirst := run("first")
	<-first
	second, _, stopSecond := run("second")
	defer stopSecond()
	select {
	case <-second:
		t.Fatal("the second took over from a holder that renews")
	case <-firstLost:
		t.Fatal("the first lost what it renews")
	case <-time.After(4 * duration):
	}
	stopFirst()
	ended := time.Now()
	select {
	case at := <-second:
		if took := at.Sub(ended); took < duration/2 {
			t.Errorf("taken over after %s: the last renewal was not waited out", took)
		}
	case <-time.After(10 * duration):
		t.Fatal("nobody took over")
	}
}
