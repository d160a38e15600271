// Package l7 is the HTTP proxy of the agent: it lets requests pass that a policy allows, and answers 403 to all others.
//
// A connection of a pod comes in by a transparent listener, so that its own address is the server's. For each of them the
// proxy keeps one connection to that server, with the client's address as source: neither side sees anybody but the other.
// Messages pass as they are, headers and bodies untouched unless a rule asks for it, and nothing is kept back.
package l7

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"fairlead.dev/node-agent/policy"
)

const (
	// headTimeout bounds a head that has begun, lingering how long a client is given to close after the proxy.
	headTimeout = 60 * time.Second
	lingering   = time.Second
	dialTimeout = 10 * time.Second
	// discardLimit is how much of a refused request's body is read to keep its connection.
	discardLimit = 1 << 20
	// acceptPause is waited after an error of accept that is no end, such as too many files.
	acceptPause = 50 * time.Millisecond
)

// Connection is what is known of a client's connection.
type Connection struct {
	// Client and Server are the addresses as client and server see them.
	Client, Server netip.AddrPort
	// Direction of the policy that asks for the proxy.
	Direction policy.Direction
}

// Verdict of a record.
type Verdict uint8

// The verdicts.
const (
	Forwarded Verdict = iota
	Dropped
	Failed
)

// Record tells of one request or response.
type Record struct {
	Connection
	Time     time.Time
	Response bool
	Verdict  Verdict
	// Rule is the policy's rule that decided; 0 where none did.
	Rule                  policy.RuleID
	Method, URL, Protocol string
	Code                  int
	// Headers are names and values in turn.
	Headers []string
	// Latency of a response since its request.
	Latency time.Duration
}

// Options of a Proxy; all functions are called concurrently.
type Options struct {
	// Rules tells what applies to a connection now; it is asked for every request.
	Rules func(c *Connection) policy.AnswerL7
	// Dial opens the connection to the server, with the client's address as source.
	Dial func(ctx context.Context, c *Connection) (net.Conn, error)
	// Record takes what happened; nil: nobody cares.
	Record func(Record)
	Log    *slog.Logger
}

// Proxy serves connections.
type Proxy struct {
	Options
	mu sync.Mutex
	// unread are connections that pass without a look, because everything is allowed on them.
	unread map[*session]struct{}
	all    map[net.Conn]struct{}
	wait   sync.WaitGroup
	stats  stats
}

type stats struct{ connections, requests, denied, failed atomic.Uint64 }

// Stats counts since the start.
type Stats struct{ Connections, Requests, Denied, Failed, Open uint64 }

// New makes a proxy.
func New(o Options) *Proxy {
	return &Proxy{Options: o, unread: map[*session]struct{}{}, all: map[net.Conn]struct{}{}}
}

// Stats tells how much was served.
func (p *Proxy) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{Connections: p.stats.connections.Load(), Requests: p.stats.requests.Load(), Denied: p.stats.denied.Load(),
		Failed: p.stats.failed.Load(), Open: uint64(len(p.all))}
}

// Serve takes connections until ctx ends, and then closes those that it has. The listener is transparent: a connection's own
// address is the one that the client wanted to reach.
func (p *Proxy) Serve(ctx context.Context, l net.Listener, direction policy.Direction) error {
	stop := context.AfterFunc(ctx, func() {
		l.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		for c := range p.all {
			c.Close()
		}
	})
	defer stop()
	defer p.wait.Wait()
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			p.Log.Warn("a connection could not be accepted", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		p.stats.connections.Add(1)
		p.wait.Go(func() { p.serve(ctx, conn, direction) })
	}
}

// Changed tells that policies changed: connections that nobody looked into are closed where rules apply to them now.
func (p *Proxy) Changed() {
	p.mu.Lock()
	sessions := make([]*session, 0, len(p.unread))
	for s := range p.unread {
		sessions = append(sessions, s)
	}
	p.mu.Unlock()
	for _, s := range sessions {
		if !p.Rules(&s.Connection).Open {
			s.client.Close()
		}
	}
}

func (p *Proxy) track(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[c] = struct{}{}
}

func (p *Proxy) drop(c net.Conn) {
	if c == nil {
		return
	}
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, c)
}

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4096) }}

func reader(c net.Conn) *bufio.Reader {
	r := readers.Get().(*bufio.Reader)
	r.Reset(c)
	return r
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
}

func (p *Proxy) record(r Record) {
	if p.Options.Record != nil {
		p.Options.Record(r)
	}
}
