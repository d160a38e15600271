package l7

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"fairlead.dev/node-agent/policy"
)

// preface is the first line of HTTP/2 without prior negotiation.
const preface = "PRI * HTTP/2.0"

// session is one client's connection with its connection to the server.
type session struct {
	Connection
	proxy    *Proxy
	client   net.Conn
	in       *bufio.Reader
	server   net.Conn
	serverIn *bufio.Reader
}

func (p *Proxy) serve(ctx context.Context, conn net.Conn, direction policy.Direction) {
	p.track(conn)
	s := &session{proxy: p, client: conn, in: reader(conn),
		Connection: Connection{Client: addrPort(conn.RemoteAddr()), Server: addrPort(conn.LocalAddr()), Direction: direction}}
	defer func() {
		p.drop(s.client)
		s.hangUp()
		s.in.Reset(nil)
		readers.Put(s.in)
	}()
	if p.Rules(&s.Connection).Open {
		s.passUnread(ctx)
		return
	}
	for s.exchange(ctx) {
	}
}

// passUnread moves bytes: everything is allowed, whatever is spoken.
func (s *session) passUnread(ctx context.Context) {
	if s.connect(ctx) != nil {
		return
	}
	s.proxy.mu.Lock()
	s.proxy.unread[s] = struct{}{}
	s.proxy.mu.Unlock()
	// What changed between the question and the entry is seen here.
	if s.proxy.Rules(&s.Connection).Open {
		tunnel(s.client, s.server, s.in, s.serverIn)
	}
	s.proxy.mu.Lock()
	delete(s.proxy.unread, s)
	s.proxy.mu.Unlock()
}

// connect opens the connection to the server where there is none that lives.
func (s *session) connect(ctx context.Context) error {
	if s.server != nil && s.serverIn.Buffered() == 0 && !ended(s.server) {
		return nil
	}
	s.hangUp()
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	server, err := s.proxy.Dial(dialing, &s.Connection)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", s.Server, err)
	}
	s.proxy.track(server)
	s.server, s.serverIn = server, reader(server)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}

func (s *session) hangUp() {
	if s.server == nil {
		return
	}
	s.proxy.drop(s.server)
	s.serverIn.Reset(nil)
	readers.Put(s.serverIn)
	s.server, s.serverIn = nil, nil
}

// ended tells whether the other side has closed a connection on which nothing is expected: a server may end an idle one at
// any time, and a request must not be lost for that.
func ended(c net.Conn) bool {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		gone = n >= 0 && err == nil || err != nil && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR)
		return true
	})
	return gone || err != nil
}

// exchange serves one request; false where the connection is to end.
func (s *session) exchange(ctx context.Context) bool {
	if _, err := s.in.Peek(1); err != nil {
		return false
	}
	_ = s.client.SetReadDeadline(time.Now().Add(headTimeout))
	if s.isHTTP2() {
		_ = s.client.SetReadDeadline(time.Time{})
		s.serveHTTP2(ctx)
		return false
	}
	h, err := readHead(s.in)
	var r *request
	if err == nil {
		r, err = parseRequest(h)
	}
	var refused *refusal
	switch {
	case errors.As(err, &refused):
		s.proxy.stats.failed.Add(1)
		s.proxy.record(Record{Connection: s.Connection, Time: time.Now(), Verdict: Dropped, Protocol: "HTTP/1.1", Code: refused.code})
		s.answer(refused.code, "HTTP/1.1", refused.why+"\r\n", false)
		s.linger()
		return false
	case err != nil:
		return false
	}
	_ = s.client.SetReadDeadline(time.Time{})
	s.proxy.stats.requests.Add(1)
	protocol := fmt.Sprintf("HTTP/1.%d", r.minor)
	rule, edits, allowed := judge(s.proxy.Rules(&s.Connection), message{method: r.method, path: r.path, host: r.host, header: r.header})
	asked := Record{Connection: s.Connection, Time: time.Now(), Rule: rule, Method: r.method, URL: urlOf(r.host, r.path), Protocol: protocol}
	if s.proxy.Options.Record != nil {
		asked.Headers = flowHeaders(h)
	}
	if !allowed {
		s.proxy.stats.denied.Add(1)
		asked.Verdict, asked.Code = Dropped, 403
		s.proxy.record(asked)
		return s.deny(r, protocol)
	}
	s.proxy.record(asked)
	r.apply(edits)
	return s.forward(ctx, r, asked)
}

// isHTTP2 looks whether the client begins with HTTP/2; only what has come is looked at, since a short request may be all.
func (s *session) isHTTP2() bool {
	for n := 1; n <= len(preface); n++ {
		b, err := s.in.Peek(n)
		if err != nil || b[n-1] != preface[n-1] {
			return false
		}
	}
	return true
}

func urlOf(host, path string) string {
	if !strings.HasPrefix(path, "/") {
		return path
	}
	return "http://" + host + path
}

func flowHeaders(h *head) []string {
	out := make([]string, 0, 2*len(h.fields))
	for _, f := range h.fields {
		if !strings.EqualFold(f.name, "Host") {
			out = append(out, canonical(f.name), f.value)
		}
	}
	return out
}

const denied = "Access denied\r\n"

// deny answers 403; the connection is kept where the request's body can be passed over.
func (s *session) deny(r *request, protocol string) bool {
	keep := r.keepAlive && !r.expect && !(r.method == "CONNECT") && !r.upgrade && (r.body.chunked || r.body.length <= discardLimit)
	if !s.answer(403, protocol, denied, keep) {
		return false
	}
	if keep && !r.body.none() {
		_ = s.client.SetReadDeadline(time.Now().Add(headTimeout))
		keep = copyBody(limited(discardLimit), s.in, s.client, r.body) == nil
		_ = s.client.SetReadDeadline(time.Time{})
	}
	if !keep {
		s.linger()
	}
	return keep
}

// limited is a writer that throws away so many bytes, and then fails.
func limited(n int64) io.Writer { return &limitedWriter{n} }

type limitedWriter struct{ left int64 }

func (w *limitedWriter) Write(b []byte) (int, error) {
	if w.left -= int64(len(b)); w.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(b), nil
}

var reasons = map[int]string{400: "Bad Request", 403: "Forbidden", 431: "Request Header Fields Too Large", 502: "Bad Gateway",
	503: "Service Unavailable", 505: "HTTP Version Not Supported"}

// answer sends a response of the proxy's own.
func (s *session) answer(code int, protocol, body string, keep bool) bool {
	connection := ""
	if !keep {
		connection = "connection: close\r\n"
	} else if protocol == "HTTP/1.0" {
		connection = "connection: keep-alive\r\n"
	}
	_, err := fmt.Fprintf(s.client, "%s %d %s\r\ncontent-length: %d\r\ncontent-type: text/plain\r\n%sdate: %s\r\nserver: fairlead\r\n\r\n%s",
		protocol, code, reasons[code], len(body), connection, time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"), body)
	return err == nil
}

// forward sends an allowed request on and its response back.
func (s *session) forward(ctx context.Context, r *request, asked Record) bool {
	if err := s.connect(ctx); err != nil {
		return s.unreachable(r, asked, err)
	}
	if _, err := s.server.Write(r.bytes()); err != nil {
		return s.unreachable(r, asked, err)
	}
	// A body that is all there is sent at once; any other as it comes, while the answer may come as well.
	var sending chan error
	switch {
	case r.body.none():
	case !r.body.chunked && r.body.length <= int64(s.in.Buffered()):
		if err := copyLength(s.server, s.in, s.client, r.body.length); err != nil {
			return s.unreachable(r, asked, err)
		}
	default:
		sending = make(chan error, 1)
		go func() {
			err := copyBody(s.server, s.in, s.client, r.body)
			var refused *refusal
			if errors.As(err, &refused) {
				// The server must not take the rest for something else.
				s.server.Close()
			}
			sending <- err
		}()
	}
	keep, tunnelled := s.respond(r, asked)
	if sending != nil {
		keep = s.settle(sending, keep && !tunnelled)
	}
	if tunnelled {
		tunnel(s.client, s.server, s.in, s.serverIn)
		return false
	}
	if !keep {
		s.hangUp()
	}
	return keep
}

// settle waits for the request's body where the connection is to be kept; where not, it is broken off.
func (s *session) settle(sending chan error, keep bool) bool {
	if keep {
		// A server may answer before it has read all; a client that has got its answer is given a moment to go on.
		_ = s.client.SetReadDeadline(time.Now().Add(lingering))
		err := <-sending
		_ = s.client.SetReadDeadline(time.Time{})
		return err == nil
	}
	_ = s.client.SetReadDeadline(time.Now())
	s.server.Close()
	<-sending
	return false
}

// unreachable answers for a server that does not.
func (s *session) unreachable(r *request, asked Record, err error) bool {
	s.proxy.stats.failed.Add(1)
	s.proxy.Log.Debug("a request could not be forwarded", "to", s.Server, "error", err)
	asked.Response, asked.Verdict, asked.Code, asked.Latency, asked.Headers = true, Failed, 503, time.Since(asked.Time), nil
	s.hangUp()
	s.proxy.record(asked)
	s.answer(503, asked.Protocol, "The server cannot be reached\r\n", false)
	s.linger()
	return false
}

// respond passes the response on; tunnelled where what follows is no HTTP any more.
func (s *session) respond(r *request, asked Record) (keep, tunnelled bool) {
	for {
		h, err := readHead(s.serverIn)
		var a *response
		if err == nil {
			a, err = parseResponse(h, r.method)
		}
		if err != nil {
			s.badAnswer(asked, err)
			return false, false
		}
		if a.code >= 100 && a.code < 200 && a.code != 101 {
			if _, err := s.client.Write(a.bytes()); err != nil {
				return false, false
			}
			continue
		}
		asked.Response, asked.Code, asked.Latency = true, a.code, time.Since(asked.Time)
		if s.proxy.Options.Record != nil {
			asked.Headers = flowHeaders(h)
		}
		s.proxy.record(asked)
		tunnelled = a.code == 101 && r.upgrade || r.method == "CONNECT" && a.code < 300
		if a.code == 101 && !tunnelled {
			return false, false
		}
		if err := s.sendResponse(a); err != nil || tunnelled {
			return false, tunnelled && err == nil
		}
		keep = r.keepAlive && a.keepAlive
		if !keep && a.body.length >= 0 {
			s.linger()
		}
		return keep, false
	}
}

// sendResponse writes head and body, in one piece where the body has come already.
func (s *session) sendResponse(a *response) error {
	if n := a.body.length; !a.body.chunked && n > 0 && n <= int64(s.serverIn.Buffered()) {
		body, err := s.serverIn.Peek(int(n))
		if err != nil {
			return err
		}
		buffers := net.Buffers{a.bytes(), body}
		_, err = buffers.WriteTo(s.client)
		_, _ = s.serverIn.Discard(int(n))
		return err
	}
	if _, err := s.client.Write(a.bytes()); err != nil {
		return err
	}
	if a.body.none() {
		return nil
	}
	return copyBody(s.client, s.serverIn, s.server, a.body)
}

func (s *session) badAnswer(asked Record, err error) {
	s.proxy.stats.failed.Add(1)
	s.proxy.Log.Debug("a server's answer could not be read", "from", s.Server, "error", err)
	code := 502
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		code = 503
	}
	asked.Response, asked.Verdict, asked.Code, asked.Latency, asked.Headers = true, Failed, code, time.Since(asked.Time), nil
	s.proxy.record(asked)
	if s.answer(code, asked.Protocol, "The server gave no answer in HTTP\r\n", false) {
		s.linger()
	}
}
