package l7

import (
	"bufio"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"fairlead.dev/node-agent/policy"
)

// replayed is a connection of which some bytes were read already.
type replayed struct {
	net.Conn
	in *bufio.Reader
}

// Read implements net.Conn.
func (c replayed) Read(b []byte) (int, error) { return c.in.Read(b) }

// serveHTTP2 serves a connection in HTTP/2 cleartext. Each stream is judged as a request of its own.
func (s *session) serveHTTP2(ctx context.Context) {
	transport := &onceTransport{session: s, ctx: ctx}
	defer transport.close()
	forwarder := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", r.In.Host
			// The library takes these out for proxies that add their own.
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v, ok := r.In.Header[name]; ok {
					r.Out.Header[name] = v
				}
			}
			if _, ok := r.In.Header["User-Agent"]; !ok {
				r.Out.Header["User-Agent"] = nil
			}
		},
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.stream(w, r, forwarder) })
	server := &http2.Server{MaxConcurrentStreams: 250}
	server.ServeConn(replayed{s.client, s.in}, &http2.ServeConnOpts{Context: ctx, Handler: handler,
		BaseConfig: &http.Server{ErrorLog: log.New(io.Discard, "", 0)}})
}

func (s *session) stream(w http.ResponseWriter, r *http.Request, forwarder *httputil.ReverseProxy) {
	s.proxy.stats.requests.Add(1)
	m := message{method: r.Method, path: r.URL.RequestURI(), host: r.Host,
		header: func(name string) []string { return r.Header[textproto.CanonicalMIMEHeaderKey(name)] }}
	rule, edits, allowed := judge(s.proxy.Rules(&s.Connection), m)
	asked := Record{Connection: s.Connection, Time: time.Now(), Rule: rule, Method: r.Method, URL: urlOf(r.Host, m.path), Protocol: "HTTP/2", Headers: pairs(r.Header)}
	if !allowed {
		s.proxy.stats.denied.Add(1)
		asked.Verdict, asked.Code = Dropped, http.StatusForbidden
		s.proxy.record(asked)
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, denied)
		return
	}
	s.proxy.record(asked)
	for _, e := range edits {
		switch e.rule.Mismatch {
		case policy.MismatchAdd:
			r.Header.Add(e.rule.Name, e.rule.Value)
		case policy.MismatchDelete:
			r.Header.Del(e.rule.Name)
		case policy.MismatchReplace:
			r.Header.Set(e.rule.Name, e.rule.Value)
		}
	}
	answered := *forwarder
	answered.ModifyResponse = func(response *http.Response) error {
		done := asked
		done.Response, done.Code, done.Latency, done.Headers = true, response.StatusCode, time.Since(asked.Time), pairs(response.Header)
		s.proxy.record(done)
		return nil
	}
	answered.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
		s.proxy.stats.failed.Add(1)
		s.proxy.Log.Debug("a stream could not be forwarded", "to", s.Server, "error", err)
		done := asked
		done.Response, done.Verdict, done.Code, done.Latency, done.Headers = true, Failed, http.StatusServiceUnavailable, time.Since(asked.Time), nil
		s.proxy.record(done)
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	answered.ServeHTTP(w, r)
}

func pairs(h http.Header) []string {
	out := make([]string, 0, 2*len(h))
	for name, values := range h {
		for _, v := range values {
			out = append(out, name, v)
		}
	}
	return out
}

// onceTransport speaks HTTP/2 to the session's server, on one connection that is opened with the first allowed stream.
type onceTransport struct {
	*session
	ctx context.Context

	mu        sync.Mutex
	conn      net.Conn
	connected *http2.ClientConn
}

// RoundTrip implements http.RoundTripper.
func (t *onceTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	c, err := t.get()
	if err != nil {
		return nil, err
	}
	return c.RoundTrip(r)
}

func (t *onceTransport) get() (*http2.ClientConn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.connected != nil && t.connected.CanTakeNewRequest() {
		return t.connected, nil
	}
	dialing, cancel := context.WithTimeout(t.ctx, dialTimeout)
	defer cancel()
	conn, err := t.proxy.Dial(dialing, &t.Connection)
	if err != nil {
		return nil, err
	}
	c, err := (&http2.Transport{AllowHTTP: true, DisableCompression: true}).NewClientConn(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if t.conn != nil {
		// Streams that are under way on the former one end with their own time.
		old, oldConn := t.connected, t.conn
		go func() {
			_ = old.Shutdown(t.ctx)
			t.proxy.drop(oldConn)
		}()
	}
	t.proxy.track(conn)
	t.conn, t.connected = conn, c
	return c, nil
}

func (t *onceTransport) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proxy.drop(t.conn)
}
