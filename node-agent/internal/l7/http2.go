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

	"fairlead.dev/node-agent/policy"
)

// replayed is a connection of which some bytes were read already. It is a listener as well, which gives itself once and ends
// with itself: the library serves listeners only.
type replayed struct {
	net.Conn
	in    *bufio.Reader
	given chan struct{}
	done  chan struct{}
	once  sync.Once
}

func replay(c net.Conn, in *bufio.Reader) *replayed {
	r := &replayed{Conn: c, in: in, given: make(chan struct{}, 1), done: make(chan struct{})}
	r.given <- struct{}{}
	return r
}

// Read implements net.Conn.
func (r *replayed) Read(b []byte) (int, error) { return r.in.Read(b) }

// Close implements net.Conn and net.Listener.
func (r *replayed) Close() error {
	r.once.Do(func() { close(r.done) })
	return r.Conn.Close()
}

// Accept implements net.Listener.
func (r *replayed) Accept() (net.Conn, error) {
	select {
	case <-r.given:
		return r, nil
	case <-r.done:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (r *replayed) Addr() net.Addr { return r.LocalAddr() }

// onlyHTTP2 without encryption or negotiation.
func onlyHTTP2() *http.Protocols {
	out := new(http.Protocols)
	out.SetUnencryptedHTTP2(true)
	return out
}

// streams is how many requests a client may have under way.
const streams = 250

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
	server := &http.Server{Handler: handler, Protocols: onlyHTTP2(), ErrorLog: log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx }, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: streams}}
	_ = server.Serve(replay(s.client, s.in))
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

// onceTransport speaks HTTP/2 to the session's server, on one connection that is opened with the first allowed stream, and on
// more where the server takes fewer streams at once than the client sends.
type onceTransport struct {
	*session
	ctx context.Context

	mu    sync.Mutex
	conns []net.Conn
	all   []*http.ClientConn
}

// RoundTrip implements http.RoundTripper.
func (t *onceTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	c, err := t.reserve()
	if err != nil {
		return nil, err
	}
	return c.RoundTrip(r)
}

// reserve finds or makes a connection with room for a stream.
func (t *onceTransport) reserve() (*http.ClientConn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.all {
		if c.Err() == nil && c.Reserve() == nil {
			return c, nil
		}
	}
	dialing, cancel := context.WithTimeout(t.ctx, dialTimeout)
	defer cancel()
	transport := &http.Transport{Protocols: onlyHTTP2(), DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := t.proxy.Dial(ctx, &t.Connection)
			if err == nil {
				t.proxy.track(conn)
				t.conns = append(t.conns, conn)
			}
			return conn, err
		}}
	c, err := transport.NewClientConn(dialing, "http", t.Server.String())
	if err != nil {
		return nil, err
	}
	t.all = append(t.all, c)
	return c, c.Reserve()
}

func (t *onceTransport) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.all {
		_ = c.Close()
	}
	for _, c := range t.conns {
		t.proxy.drop(c)
	}
}
