// Package dns is the agent's DNS proxy: it lets pods ask for the names that their policies allow, and learns from the answers
// which addresses rules on names mean.
package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"

	"fairlead.dev/node-agent/policy"
)

const (
	// serverTimeout is how long a server may take, idleTimeout how long a connection may be silent.
	serverTimeout = 10 * time.Second
	idleTimeout   = 30 * time.Second
	// concurrent queries; more are dropped, and asked again by their clients.
	concurrent = 1024
	// largest message that a datagram can carry.
	largest = 65535
)

// Query is one question of a pod.
type Query struct {
	Client, Server netip.AddrPort
	// TCP tells that it came by connection.
	TCP  bool
	Name string
	Type uint16
}

// Record tells of a query or its answer.
type Record struct {
	Query
	Time     time.Time
	Response bool
	Denied   bool
	Failed   bool
	Rule     policy.RuleID
	RCode    int
	IPs      []netip.Addr
	CNames   []string
	TTL      uint32
	Answers  []string
	Latency  time.Duration
}

// ProxyOptions are what a Proxy works with; all functions are called concurrently.
type ProxyOptions struct {
	// Rules tells what applies to a query now.
	Rules func(q *Query) policy.AnswerL7
	// Dial opens a way to the server with the client's address as source; Answer one back with the server's.
	Dial   func(ctx context.Context, network string, client netip.Addr, server netip.AddrPort) (net.Conn, error)
	Answer func(ctx context.Context, server netip.AddrPort) (net.PacketConn, error)
	// Learn takes in the addresses of a name, and returns when they are allowed.
	Learn func(ctx context.Context, q *Query, addresses []netip.Addr, ttl time.Duration)
	// MaxDelay is how long an answer waits for that.
	MaxDelay time.Duration
	// Record takes what happened; nil: nobody cares.
	Record func(Record)
	Log    *slog.Logger
}

// Proxy serves queries.
type Proxy struct {
	ProxyOptions
	slots   chan struct{}
	back    backSockets
	stats   counters
	serving sync.WaitGroup
}

type counters struct{ queries, denied, failed, dropped, late atomic.Uint64 }

// Stats counts since the start. Late answers went out before their addresses were allowed.
type Stats struct{ Queries, Denied, Failed, Dropped, Late uint64 }

// NewProxy makes a proxy.
func NewProxy(o ProxyOptions) *Proxy {
	return &Proxy{ProxyOptions: o, slots: make(chan struct{}, concurrent), back: backSockets{open: o.Answer, all: map[netip.AddrPort]net.PacketConn{}}}
}

// Stats tells how much was served.
func (p *Proxy) Stats() Stats {
	return Stats{p.stats.queries.Load(), p.stats.denied.Load(), p.stats.failed.Load(), p.stats.dropped.Load(), p.stats.late.Load()}
}

// PacketReader is a transparent socket: it tells where a datagram was sent to.
type PacketReader interface {
	// ReadFrom gives a datagram with its source and its destination.
	ReadFrom(b []byte) (n int, client, server netip.AddrPort, err error)
	Close() error
}

// ServePackets serves datagrams until ctx ends.
func (p *Proxy) ServePackets(ctx context.Context, c PacketReader) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer p.serving.Wait()
	defer p.back.close()
	b := make([]byte, largest)
	for {
		n, client, server, err := c.ReadFrom(b)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			p.Log.Debug("a datagram could not be read", "error", err)
			continue
		}
		select {
		case p.slots <- struct{}{}:
		default:
			p.stats.dropped.Add(1)
			continue
		}
		message := slices.Clone(b[:n])
		p.serving.Go(func() {
			defer func() { <-p.slots }()
			answer := p.handle(ctx, message, &Query{Client: client, Server: server}, func(ctx context.Context, m []byte) ([]byte, error) {
				return p.exchange(ctx, m, client.Addr(), server)
			})
			if answer != nil {
				if err := p.back.send(ctx, answer, server, client); err != nil && ctx.Err() == nil {
					p.Log.Debug("an answer could not be sent", "to", client, "error", err)
				}
			}
		})
	}
}

// exchange asks the server by datagram.
func (p *Proxy) exchange(ctx context.Context, message []byte, client netip.Addr, server netip.AddrPort) ([]byte, error) {
	conn, err := p.Dial(ctx, "udp", client, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if _, err := conn.Write(message); err != nil {
		return nil, fmt.Errorf("asking %s: %w", server, err)
	}
	b := make([]byte, largest)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return nil, fmt.Errorf("hearing from %s: %w", server, err)
		}
		// The answer to another question is not ours.
		if n >= 12 && binary.BigEndian.Uint16(b) == binary.BigEndian.Uint16(message) {
			return slices.Clone(b[:n]), nil
		}
	}
}

// ServeStreams serves connections until ctx ends.
func (p *Proxy) ServeStreams(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wait sync.WaitGroup
	defer wait.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return errors.Join(ctx.Err(), err)
		}
		if err != nil {
			p.Log.Warn("a connection could not be accepted", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		wait.Go(func() {
			end := context.AfterFunc(ctx, func() { conn.Close() })
			defer end()
			defer conn.Close()
			p.stream(ctx, conn)
		})
	}
}

// stream serves one connection: query by query, over one connection to the server.
func (p *Proxy) stream(ctx context.Context, conn net.Conn) {
	client, server := addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr())
	var upstream net.Conn
	defer func() {
		if upstream != nil {
			upstream.Close()
		}
	}()
	for {
		_ = conn.SetDeadline(time.Now().Add(idleTimeout))
		message, err := readFrame(conn)
		if err != nil {
			return
		}
		answer := p.handle(ctx, message, &Query{Client: client, Server: server, TCP: true}, func(ctx context.Context, m []byte) ([]byte, error) {
			if upstream == nil {
				var err error
				if upstream, err = p.Dial(ctx, "tcp", client.Addr(), server); err != nil {
					return nil, err
				}
			}
			deadline, _ := ctx.Deadline()
			_ = upstream.SetDeadline(deadline)
			if err := writeFrame(upstream, m); err != nil {
				return nil, err
			}
			return readFrame(upstream)
		})
		if answer == nil || writeFrame(conn, answer) != nil {
			return
		}
	}
}

func readFrame(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeFrame(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, len(b)+2), uint16(len(b))), b...))
	return err
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// handle judges a query, has it answered, and gives what to send back; nil for nothing.
func (p *Proxy) handle(ctx context.Context, message []byte, q *Query, ask func(context.Context, []byte) ([]byte, error)) []byte {
	p.stats.queries.Add(1)
	var m mdns.Msg
	if err := m.Unpack(message); err != nil || m.Response || len(m.Question) != 1 {
		// What cannot be judged is refused; what has no proper head is not worth an answer.
		p.stats.denied.Add(1)
		if len(message) < 12 || m.Response {
			return nil
		}
		return refusal(&m, message)
	}
	q.Name, q.Type = m.Question[0].Name, m.Question[0].Qtype
	asked := Record{Query: *q, Time: time.Now()}
	rule, allowed := judge(p.Rules(q), q.Name)
	asked.Rule = rule
	if !allowed {
		p.stats.denied.Add(1)
		asked.Denied, asked.RCode = true, mdns.RcodeRefused
		p.record(asked)
		return refusal(&m, message)
	}
	p.record(asked)
	asking, cancel := context.WithTimeout(ctx, serverTimeout)
	defer cancel()
	answer, err := ask(asking, message)
	asked.Response, asked.Latency = true, time.Since(asked.Time)
	if err != nil {
		p.stats.failed.Add(1)
		p.Log.Debug("a query was not answered", "name", q.Name, "by", q.Server, "error", err)
		asked.Failed, asked.RCode = true, mdns.RcodeServerFailure
		p.record(asked)
		return nil
	}
	var r mdns.Msg
	if err := r.Unpack(answer); err != nil && !r.Truncated || r.Id != m.Id {
		p.stats.failed.Add(1)
		asked.Failed, asked.RCode = true, mdns.RcodeServerFailure
		p.record(asked)
		return nil
	}
	p.digest(&r, &asked)
	// An answer to another question teaches nothing.
	if len(asked.IPs) > 0 && r.Rcode == mdns.RcodeSuccess && len(r.Question) == 1 && normal(r.Question[0].Name) == normal(q.Name) {
		p.learn(ctx, q, asked.IPs, time.Duration(asked.TTL)*time.Second)
	}
	p.record(asked)
	return answer
}

// judge finds the rule that allows a name.
func judge(answer policy.AnswerL7, name string) (policy.RuleID, bool) {
	switch {
	case answer.Open:
		return answer.Rule, true
	case answer.Denied:
		return answer.Rule, false
	}
	for _, rule := range answer.DNS {
		if rule.Matches(name) {
			return rule.Rule, true
		}
	}
	return 0, false
}

func refusal(m *mdns.Msg, message []byte) []byte {
	out := new(mdns.Msg)
	if len(m.Question) > 0 {
		out.SetRcode(m, mdns.RcodeRefused)
	} else {
		out.Id, out.Response, out.Rcode = binary.BigEndian.Uint16(message), true, mdns.RcodeRefused
	}
	packed, err := out.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// digest takes addresses, names and the least TTL out of an answer.
func (p *Proxy) digest(r *mdns.Msg, into *Record) {
	into.RCode = r.Rcode
	for i, rr := range r.Answer {
		switch rr := rr.(type) {
		case *mdns.A:
			if a, ok := netip.AddrFromSlice(rr.A); ok {
				into.IPs = append(into.IPs, a.Unmap())
			}
		case *mdns.AAAA:
			if a, ok := netip.AddrFromSlice(rr.AAAA); ok {
				into.IPs = append(into.IPs, a)
			}
		case *mdns.CNAME:
			into.CNames = append(into.CNames, rr.Target)
		}
		into.Answers = append(into.Answers, mdns.TypeToString[rr.Header().Rrtype])
		if ttl := rr.Header().Ttl; i == 0 || ttl < into.TTL {
			into.TTL = ttl
		}
	}
	slices.Sort(into.Answers)
	into.Answers = slices.Compact(into.Answers)
}

// learn waits until the addresses are allowed, but not longer than MaxDelay: the client connects as soon as it has the answer.
func (p *Proxy) learn(ctx context.Context, q *Query, addresses []netip.Addr, ttl time.Duration) {
	done := make(chan struct{})
	p.serving.Go(func() {
		defer close(done)
		p.Learn(ctx, q, addresses, ttl)
	})
	limit := time.NewTimer(p.MaxDelay)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
		p.stats.late.Add(1)
		p.Log.Warn("an answer goes out before its addresses are allowed", "name", q.Name, "after", p.MaxDelay)
	}
}

func (p *Proxy) record(r Record) {
	if p.ProxyOptions.Record != nil {
		p.ProxyOptions.Record(r)
	}
}

// backSockets answer with the servers' addresses; one for each server.
type backSockets struct {
	open func(ctx context.Context, server netip.AddrPort) (net.PacketConn, error)
	mu   sync.Mutex
	all  map[netip.AddrPort]net.PacketConn
}

// backLimit bounds the servers that are kept at hand.
const backLimit = 64

func (s *backSockets) send(ctx context.Context, b []byte, server, client netip.AddrPort) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.all[server]
	if c == nil {
		for other, old := range s.all {
			if len(s.all) < backLimit {
				break
			}
			old.Close()
			delete(s.all, other)
		}
		var err error
		if c, err = s.open(ctx, server); err != nil {
			return fmt.Errorf("opening a socket with the address of %s: %w", server, err)
		}
		s.all[server] = c
	}
	_, err := c.WriteTo(b, net.UDPAddrFromAddrPort(client))
	return err
}

func (s *backSockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for server, c := range s.all {
		c.Close()
		delete(s.all, server)
	}
}
