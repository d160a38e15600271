package l7

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fairlead.dev/node-agent/policy"
)

// rig is a proxy between a test's clients and a server.
type rig struct {
	t       testing.TB
	proxy   *Proxy
	address string
	dials   atomic.Int64
	answer  atomic.Pointer[policy.AnswerL7]

	mu      sync.Mutex
	records []Record
}

func rule(method, path string, headers ...policy.HeaderRule) policy.AttributedHTTP {
	out := policy.AttributedHTTP{Rule: 7, HTTPRule: policy.HTTPRule{Headers: headers}}
	if method != "" {
		out.Method = regexp.MustCompile(`^(?:` + method + `)$`)
	}
	if path != "" {
		out.Path = regexp.MustCompile(`^(?:` + path + `)$`)
	}
	return out
}

func newRig(t testing.TB, backend string, rules ...policy.AttributedHTTP) *rig {
	t.Helper()
	r := &rig{t: t}
	r.answer.Store(&policy.AnswerL7{HTTP: rules})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	r.proxy = New(Options{
		Rules: func(*Connection) policy.AnswerL7 { return *r.answer.Load() },
		Dial: func(ctx context.Context, _ *Connection) (net.Conn, error) {
			r.dials.Add(1)
			return (&net.Dialer{}).DialContext(ctx, "tcp", backend)
		},
		Record: func(record Record) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.records = append(r.records, record)
		},
		Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.proxy.Serve(ctx, l, policy.Ingress)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Error("the proxy did not end")
		}
	})
	return r
}

func (r *rig) taken() []Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Record(nil), r.records...)
}

func backend(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Trailer", "X-Sum")
	for name, values := range r.Header {
		if strings.HasPrefix(name, "X-") {
			w.Header()[name] = values
		}
	}
	fmt.Fprintf(w, "%s %s %d", r.Method, r.RequestURI, len(body))
	w.Header().Set("X-Sum", fmt.Sprint(len(body), r.Trailer.Get("X-In")))
}

// client keeps connections.
func client(t testing.TB) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func do(t testing.TB, c *http.Client, method, url string, body io.Reader) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	response, err := c.Do(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s %s: reading: %v", method, url, err)
	}
	return response, string(text)
}

// raw sends text and reads until the other side ends or says nothing for a while.
func (r *rig) raw(t *testing.T, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if half, ok := conn.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	out, _ := io.ReadAll(conn)
	return string(out)
}
