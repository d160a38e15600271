package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"fairlead.dev/node-agent/policy"
)

func rules(t testing.TB, patterns ...string) []policy.NameRule {
	t.Helper()
	var list strings.Builder
	for _, p := range patterns {
		kind := "matchName"
		if strings.Contains(p, "*") {
			kind = "matchPattern"
		}
		fmt.Fprintf(&list, `{"%s":"%s"},`, kind, p)
	}
	document := `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"n","namespace":"a"},"spec":{"endpointSelector":{},"egress":[{"toFQDNs":[` +
		strings.TrimSuffix(list.String(), ",") + `]}]}}`
	p, problems := policy.Parse(policy.KindAuto, []byte(document))
	if !p.Valid() {
		t.Fatal(problems)
	}
	return p.Names()
}

func address(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestCache(t *testing.T) {
	now := time.Unix(1000, 0)
	c := NewCache(Options{MaxIPsPerHost: 3, Now: func() time.Time { return now }})
	if changed := c.Learn(1, "www.example.org.", []netip.Addr{address("192.0.2.1")}, time.Minute); changed != nil {
		t.Errorf("what no rule names is kept: %v", changed)
	}
	c.SetRules(rules(t, "*.example.org", "www.example.org"))
	changed := c.Learn(1, "WWW.Example.Org.", []netip.Addr{address("192.0.2.1"), address("192.0.2.2")}, time.Minute)
	if want := []string{"*.example.org", "www.example.org"}; !slices.Equal(changed[address("192.0.2.1")], want) || len(changed) != 2 {
		t.Errorf("learned %v", changed)
	}
	if changed := c.Learn(1, "www.example.org", []netip.Addr{address("192.0.2.1")}, 2*time.Minute); len(changed) != 0 {
		t.Errorf("the same again changes %v", changed)
	}
	// Another pod, another name, the same address.
	if changed := c.Learn(2, "ftp.example.org", []netip.Addr{address("192.0.2.2")}, time.Hour); len(changed) != 0 {
		t.Errorf("a rule that selects it already: %v", changed)
	}
	alive := func(uint32) bool { return true }
	now = now.Add(90 * time.Second)
	used := map[netip.Addr]struct{}{address("192.0.2.2"): {}}
	if changed := c.Expire(alive, func() map[netip.Addr]struct{} { return used }); len(changed) != 0 {
		t.Errorf("an address in use ran out: %v", changed)
	}
	clear(used)
	if changed := c.Expire(alive, func() map[netip.Addr]struct{} { return used }); len(changed) != 1 || !slices.Equal(changed[address("192.0.2.2")], []string{"*.example.org"}) {
		t.Errorf("after its time: %v", changed)
	}
	// The oldest goes where there are too many; none of the present answer.
	var many []netip.Addr
	for i := range 5 {
		many = append(many, netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}))
	}
	c.Learn(1, "www.example.org", many[:2], time.Hour)
	if changed := c.Learn(1, "www.example.org", many[2:4], 2*time.Hour); !slices.Equal(changed[address("192.0.2.1")], nil) || len(c.Entries()) != 4 {
		t.Errorf("too many: %v, %v", changed, c.Entries())
	}
	// Restart without forgetting.
	path := filepath.Join(t.TempDir(), "names.json")
	if err := c.Save(path); err != nil {
		t.Fatal(err)
	}
	again := NewCache(Options{Now: func() time.Time { return now }})
	if err := again.Load(path); err != nil {
		t.Fatal(err)
	}
	restored := again.SetRules(rules(t, "www.example.org"))
	if len(restored) != 3 || len(again.Entries()) != len(c.Entries()) {
		t.Errorf("after a restart: %v", restored)
	}
	if changed := again.SetRules(nil); len(changed) != 3 || len(changed[many[3]]) != 0 {
		t.Errorf("without rules: %v", changed)
	}
	if changed := c.Expire(func(e uint32) bool { return e != 2 }, func() map[netip.Addr]struct{} { return nil }); len(changed) != 1 {
		t.Errorf("a pod that is gone: %v", changed)
	}
}

// upstream is a DNS server on loopback, for datagrams and connections.
func upstream(t testing.TB) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", conn.LocalAddr().String())
	if err != nil {
		t.Skipf("the port is taken for connections: %v", err)
	}
	handler := mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg)
		m.SetReply(q)
		name := q.Question[0].Name
		switch {
		case strings.HasPrefix(name, "no."):
			m.Rcode = mdns.RcodeNameError
		case q.Question[0].Qtype == mdns.TypeAAAA:
			m.Answer = append(m.Answer, &mdns.AAAA{Hdr: mdns.RR_Header{Name: name, Rrtype: mdns.TypeAAAA, Class: mdns.ClassINET, Ttl: 60}, AAAA: net.ParseIP("2001:db8::1")})
		default:
			m.Answer = append(m.Answer,
				&mdns.CNAME{Hdr: mdns.RR_Header{Name: name, Rrtype: mdns.TypeCNAME, Class: mdns.ClassINET, Ttl: 300}, Target: "real.example.org."},
				&mdns.A{Hdr: mdns.RR_Header{Name: "real.example.org.", Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 30}, A: net.ParseIP("192.0.2.1")})
		}
		_ = w.WriteMsg(m)
	})
	for _, s := range []*mdns.Server{{PacketConn: conn, Handler: handler}, {Listener: l, Handler: handler}} {
		go func() { _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return conn.LocalAddr().String()
}

// socket is a PacketReader whose datagrams were all meant for one server.
type socket struct {
	*net.UDPConn
	server netip.AddrPort
}

func (s socket) ReadFrom(b []byte) (int, netip.AddrPort, netip.AddrPort, error) {
	n, from, err := s.ReadFromUDPAddrPort(b)
	return n, from, s.server, err
}

// unclosed answers by the proxy's own socket, since loopback has no transparent one without privileges.
type unclosed struct{ net.PacketConn }

func (unclosed) Close() error { return nil }

type proxied struct {
	udp, tcp string
	proxy    *Proxy
	mu       sync.Mutex
	records  []Record
	learned  map[string][]netip.Addr
	slow     chan struct{}
}

func startProxy(t testing.TB, answer policy.AnswerL7) *proxied {
	t.Helper()
	server := upstream(t)
	out := &proxied{learned: map[string][]netip.Addr{}}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out.udp, out.tcp = conn.LocalAddr().String(), l.Addr().String()
	out.proxy = NewProxy(ProxyOptions{
		Rules: func(*Query) policy.AnswerL7 { return answer },
		Dial: func(ctx context.Context, network string, _ netip.Addr, _ netip.AddrPort) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server)
		},
		Answer: func(context.Context, netip.AddrPort) (net.PacketConn, error) { return unclosed{conn}, nil },
		Learn: func(_ context.Context, q *Query, addresses []netip.Addr, ttl time.Duration) {
			if out.slow != nil {
				<-out.slow
			}
			out.mu.Lock()
			defer out.mu.Unlock()
			out.learned[fmt.Sprint(q.Name, ttl)] = addresses
		},
		MaxDelay: 50 * time.Millisecond,
		Record: func(r Record) {
			out.mu.Lock()
			defer out.mu.Unlock()
			out.records = append(out.records, r)
		},
		Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = out.proxy.ServePackets(ctx, socket{conn, netip.MustParseAddrPort("192.0.2.53:53")}) })
	done.Go(func() { _ = out.proxy.ServeStreams(ctx, l) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return out
}

func ask(t testing.TB, network, to, name string, kind uint16) *mdns.Msg {
	t.Helper()
	m := new(mdns.Msg)
	m.SetQuestion(name, kind)
	r, _, err := (&mdns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(m, to)
	if err != nil {
		t.Fatalf("asking for %s by %s: %v", name, network, err)
	}
	return r
}

func TestNamesThatARuleAllows(t *testing.T) {
	var answer policy.AnswerL7
	for _, r := range rules(t, "*.example.org") {
		answer.DNS = append(answer.DNS, policy.AttributedName{NameRule: r, Rule: 9})
	}
	p := startProxy(t, answer)
	for network, to := range map[string]string{"udp": p.udp, "tcp": p.tcp} {
		if r := ask(t, network, to, "www.example.org.", mdns.TypeA); r.Rcode != mdns.RcodeSuccess || len(r.Answer) != 2 {
			t.Errorf("%s: %v", network, r)
		}
		if r := ask(t, network, to, "WWW.EXAMPLE.ORG.", mdns.TypeAAAA); r.Rcode != mdns.RcodeSuccess || len(r.Answer) != 1 {
			t.Errorf("%s: %v", network, r)
		}
		if r := ask(t, network, to, "evil.example.com.", mdns.TypeA); r.Rcode != mdns.RcodeRefused || len(r.Answer) != 0 {
			t.Errorf("%s, denied: %v", network, r)
		}
		if r := ask(t, network, to, "no.example.org.", mdns.TypeA); r.Rcode != mdns.RcodeNameError {
			t.Errorf("%s, no such name: %v", network, r)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := p.learned["www.example.org.30s"]; len(got) != 1 || got[0] != address("192.0.2.1") {
		t.Errorf("learned %v: the least TTL counts", p.learned)
	}
	if len(p.records) != 14 {
		t.Fatalf("%d records: %+v", len(p.records), p.records)
	}
	for _, r := range p.records {
		switch {
		case r.Denied && (r.Name != "evil.example.com." || r.RCode != mdns.RcodeRefused || r.Response):
			t.Errorf("denied %+v", r)
		case !r.Denied && r.Rule != 9:
			t.Errorf("without its rule: %+v", r)
		case r.Response && r.Name == "www.example.org." && (r.TTL != 30 || len(r.CNames) != 1 || !slices.Equal(r.Answers, []string{"A", "CNAME"})):
			t.Errorf("answer %+v", r)
		}
	}
}

func TestAnswersWaitForTheirAddresses(t *testing.T) {
	p := startProxy(t, policy.AnswerL7{Open: true})
	p.slow = make(chan struct{})
	start := time.Now()
	if r := ask(t, "udp", p.udp, "www.example.org.", mdns.TypeA); r.Rcode != mdns.RcodeSuccess {
		t.Error(r)
	}
	if took := time.Since(start); took < 50*time.Millisecond {
		t.Errorf("the answer came after %s, before its address was allowed", took)
	}
	if s := p.proxy.Stats(); s.Late != 1 {
		t.Errorf("%+v", s)
	}
	close(p.slow)
	if r := ask(t, "udp", p.udp, "www.example.org.", mdns.TypeA); r.Rcode != mdns.RcodeSuccess {
		t.Error(r)
	}
	if s := p.proxy.Stats(); s.Late != 1 || s.Queries != 2 {
		t.Errorf("%+v", s)
	}
}

func TestWhatIsNoQueryIsRefused(t *testing.T) {
	p := startProxy(t, policy.AnswerL7{Open: true})
	for name, change := range map[string]func(*mdns.Msg){
		"two questions": func(m *mdns.Msg) { m.Question = append(m.Question, mdns.Question{Name: "b.", Qtype: 1, Qclass: 1}) },
		"no question":   func(m *mdns.Msg) { m.Question = nil },
	} {
		m := new(mdns.Msg)
		m.SetQuestion("a.", mdns.TypeA)
		change(m)
		r, _, err := (&mdns.Client{Timeout: 5 * time.Second}).Exchange(m, p.udp)
		if err != nil || r.Rcode != mdns.RcodeRefused {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}

func TestManyQueriesAtOnce(t *testing.T) {
	p := startProxy(t, policy.AnswerL7{Open: true})
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			if r := ask(t, "udp", p.udp, fmt.Sprintf("n%d.example.org.", i), mdns.TypeA); r.Question[0].Name != fmt.Sprintf("n%d.example.org.", i) {
				t.Errorf("query %d got the answer for %s", i, r.Question[0].Name)
			}
		})
	}
	all.Wait()
}
