package l7

import (
	"bufio"
	"bytes"
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

func TestAllowedAndDeniedOnOneConnection(t *testing.T) {
	r := newRig(t, backend(t, echo), rule("POST", "/v1/request-landing"), rule("GET", "/v1/?"))
	c := client(t)
	for range 3 {
		if response, text := do(t, c, "POST", "http://"+r.address+"/v1/request-landing", strings.NewReader("please")); response.StatusCode != 200 || text != "POST /v1/request-landing 6" {
			t.Errorf("allowed: %d %q", response.StatusCode, text)
		}
		if response, text := do(t, c, "PUT", "http://"+r.address+"/v1/exhaust-port", strings.NewReader("boom")); response.StatusCode != 403 || text != "Access denied\r\n" {
			t.Errorf("denied: %d %q", response.StatusCode, text)
		}
	}
	if s := r.proxy.Stats(); s.Connections != 1 || s.Requests != 6 || s.Denied != 3 {
		t.Errorf("%+v: a denied request must keep its connection", s)
	}
	if r.dials.Load() != 1 {
		t.Errorf("%d connections to the server", r.dials.Load())
	}
	records := r.taken()
	if len(records) != 9 {
		t.Fatalf("%d records: %+v", len(records), records)
	}
	request, response, refused := records[0], records[1], records[2]
	if request.Response || request.Verdict != Forwarded || request.Method != "POST" || request.URL != "http://"+r.address+"/v1/request-landing" ||
		request.Protocol != "HTTP/1.1" || request.Rule != 7 || !request.Client.IsValid() || request.Server.String() != r.address {
		t.Errorf("request %+v", request)
	}
	if !response.Response || response.Code != 200 || response.Latency <= 0 {
		t.Errorf("response %+v", response)
	}
	if refused.Response || refused.Verdict != Dropped || refused.Code != 403 || refused.Method != "PUT" {
		t.Errorf("refused %+v", refused)
	}
}

func TestTenThousandRequests(t *testing.T) {
	r := newRig(t, backend(t, echo), rule("GET", "/n/.*"))
	c := client(t)
	for i := range 10_000 {
		if response, text := do(t, c, "GET", fmt.Sprintf("http://%s/n/%d", r.address, i), nil); response.StatusCode != 200 || text != fmt.Sprintf("GET /n/%d 0", i) {
			t.Fatalf("request %d: %d %q", i, response.StatusCode, text)
		}
	}
	if s := r.proxy.Stats(); s.Connections != 1 || r.dials.Load() != 1 {
		t.Errorf("%+v, %d dials", s, r.dials.Load())
	}
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

func TestPipelining(t *testing.T) {
	r := newRig(t, backend(t, echo), rule("GET", "/ok.*"))
	out := r.raw(t, "GET /ok1 HTTP/1.1\r\nHost: a\r\n\r\nGET /no HTTP/1.1\r\nHost: a\r\n\r\nGET /ok2 HTTP/1.1\r\nHost: a\r\n\r\n")
	first, second, third := strings.Index(out, "GET /ok1 0"), strings.Index(out, "403 Forbidden"), strings.Index(out, "GET /ok2 0")
	if first < 0 || second < first || third < second {
		t.Errorf("answers out of order or missing: %q", out)
	}
}

func TestAmbiguousRequestsAreRefused(t *testing.T) {
	reached := make(chan string, 100)
	r := newRig(t, backend(t, func(w http.ResponseWriter, r *http.Request) { reached <- r.RequestURI }), rule("GET|POST", "/ok"))
	for name, text := range map[string]string{
		"two lengths":              "POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
		"the same length twice":    "POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
		"a list of lengths":        "POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx",
		"length and chunks":        "POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /no HTTP/1.1\r\nHost: a\r\n\r\n",
		"another coding":           "POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"a hidden coding":          "POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"chunked in 1.0":           "POST /ok HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"space before the colon":   "POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"a continued line":         "POST /ok HTTP/1.1\r\nHost: a\r\nX: 1\r\n Transfer-Encoding: chunked\r\n\r\n",
		"bare line feeds":          "GET /ok HTTP/1.1\nHost: a\n\n",
		"one bare line feed":       "GET /ok HTTP/1.1\r\nX: 1\nHost: a\r\n\r\n",
		"a carriage return inside": "GET /ok HTTP/1.1\r\nX: 1\rY: 2\r\nHost: a\r\n\r\n",
		"a zero byte":              "GET /ok HTTP/1.1\r\nX: \x00\r\nHost: a\r\n\r\n",
		"no host":                  "GET /ok HTTP/1.1\r\n\r\n",
		"two hosts":                "GET /ok HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"target and host differ":   "GET http://b/ok HTTP/1.1\r\nHost: a\r\n\r\n",
		"no path":                  "GET ok HTTP/1.1\r\nHost: a\r\n\r\n",
		"spaces in the target":     "GET /ok /no HTTP/1.1\r\nHost: a\r\n\r\n",
		"a tab as separator":       "GET\t/ok HTTP/1.1\r\nHost: a\r\n\r\n",
		"negative length":          "POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
		"signed length":            "POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
		"TLS":                      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			if out := r.raw(t, text); !strings.HasPrefix(out, "HTTP/1.1 400 ") || strings.Count(out, "HTTP/1.1") != 1 {
				t.Errorf("answered %q", out)
			}
		})
	}
	if out := r.raw(t, "GET /ok HTTP/2.5\r\nHost: a\r\n\r\n"); !strings.HasPrefix(out, "HTTP/1.1 505 ") {
		t.Errorf("another version: %q", out)
	}
	if out := r.raw(t, "GET /ok HTTP/1.1\r\nHost: a\r\nX: "+strings.Repeat("x", headLimit)+"\r\n\r\n"); !strings.HasPrefix(out, "HTTP/1.1 431 ") {
		t.Errorf("a large head: %.80q", out)
	}
	select {
	case path := <-reached:
		t.Errorf("the server was asked for %s", path)
	default:
	}
}

func TestBadChunksReachNoServer(t *testing.T) {
	for name, body := range map[string]string{
		"no number": "zz\r\nx\r\n0\r\n\r\n", "longer than said": "1\r\nxyz\r\n0\r\n\r\n", "bare line feed": "1\nx\n0\n\n", "sign": "+1\r\nx\r\n0\r\n\r\n",
		"huge": "fffffffffffffffff\r\nx\r\n0\r\n\r\n", "smuggled": "0\r\nGET /no HTTP/1.1\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var whole atomic.Int64
			r := newRig(t, backend(t, func(_ http.ResponseWriter, r *http.Request) {
				if _, err := io.ReadAll(r.Body); err == nil {
					whole.Add(1)
				}
			}), rule("POST", "/ok"))
			out := r.raw(t, "POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+body)
			if whole.Load() != 0 || strings.Contains(out, " 200 ") {
				t.Errorf("the server took it for a whole body; answered %q", out)
			}
		})
	}
}

func TestEveryReadingOfAPath(t *testing.T) {
	r := newRig(t, backend(t, echo), rule("GET", "/public/.*"), rule("GET", "/a%2Fb"), rule("GET", "/a/b"))
	for path, code := range map[string]int{
		"/public/x": 200, "/public/x?next=/../y": 200, "/public/a/../b": 200, "/public/%20": 200, "/a%2Fb": 200,
		"/public/../secret": 403, "/public/%2e%2e/secret": 403, "/public/..%2fsecret": 403, "/public/..\\secret": 403, "/public/%2e%2E%5csecret": 403,
		"//secret/../public/../x": 403, "/public/..;/secret": 403, "/secret": 403, "/public": 403,
	} {
		if out := r.raw(t, "GET "+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(out, fmt.Sprintf("HTTP/1.1 %d ", code)) {
			t.Errorf("%s gave %.40q, want %d", path, out, code)
		}
	}
}

func TestHeaders(t *testing.T) {
	need := policy.HeaderRule{Name: "X-Key", Value: "sesame"}
	r := newRig(t, backend(t, echo), rule("GET", "/need", need), rule("GET", "/there", policy.HeaderRule{Name: "X-Any", AnyValue: true}),
		rule("GET", "/edit", policy.HeaderRule{Name: "X-Add", Value: "1", Mismatch: policy.MismatchAdd}, policy.HeaderRule{Name: "X-Del", Value: "1", Mismatch: policy.MismatchDelete},
			policy.HeaderRule{Name: "X-Rep", Value: "1", Mismatch: policy.MismatchReplace}, policy.HeaderRule{Name: "X-Log", Value: "1", Mismatch: policy.MismatchLog}))
	get := func(path, headers string) string {
		return r.raw(t, "GET "+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"+headers+"\r\n")
	}
	for _, test := range []struct {
		path, headers string
		code          int
	}{{"/need", "x-key: sesame\r\n", 200}, {"/need", "x-key: other\r\n", 403}, {"/need", "", 403}, {"/there", "x-any:\r\n", 200}, {"/there", "", 403}} {
		if out := get(test.path, test.headers); !strings.HasPrefix(out, fmt.Sprintf("HTTP/1.1 %d ", test.code)) {
			t.Errorf("%s with %q: %.40q", test.path, test.headers, out)
		}
	}
	out := get("/edit", "X-Del: 2\r\nX-Rep: 2\r\nX-Log: 2\r\n")
	if !strings.Contains(out, "X-Add: 1") || strings.Contains(out, "X-Del") || !strings.Contains(out, "X-Rep: 1") || strings.Contains(out, "X-Rep: 2") || !strings.Contains(out, "X-Log: 2") {
		t.Errorf("edited: %q", out)
	}
	if out := get("/edit", "X-Del: 1\r\nX-Rep: 1\r\n"); !strings.Contains(out, "X-Del: 1") || strings.Count(out, "X-Rep: 1") != 1 {
		t.Errorf("what matches is left alone: %q", out)
	}
}

func TestBodiesStream(t *testing.T) {
	r := newRig(t, backend(t, func(w http.ResponseWriter, r *http.Request) {
		// Answers each piece as it comes, which is possible only where nothing is kept back.
		_ = http.NewResponseController(w).EnableFullDuplex()
		b := make([]byte, 100)
		for {
			n, err := r.Body.Read(b)
			if n > 0 {
				_, _ = w.Write(bytes.ToUpper(b[:n]))
				w.(http.Flusher).Flush()
			}
			if err != nil {
				return
			}
		}
	}), rule("POST", "/stream"))
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, "POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	in := bufio.NewReader(conn)
	var response *http.Response
	for i := range 5 {
		piece := fmt.Sprintf("piece-%d", i)
		fmt.Fprintf(conn, "%x\r\n%s\r\n", len(piece), piece)
		if response == nil {
			if response, err = http.ReadResponse(in, nil); err != nil {
				t.Fatal(err)
			}
		}
		b := make([]byte, len(piece))
		if _, err := io.ReadFull(response.Body, b); err != nil || string(b) != strings.ToUpper(piece) {
			t.Fatalf("piece %d came back as %q: %v", i, b, err)
		}
	}
	fmt.Fprint(conn, "0\r\n\r\n")
	if rest, err := io.ReadAll(response.Body); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

func TestLargeBodiesAndTrailers(t *testing.T) {
	r := newRig(t, backend(t, echo), rule("POST", "/.*"))
	c := client(t)
	const size = 5 << 20
	if _, text := do(t, c, "POST", "http://"+r.address+"/length", bytes.NewReader(make([]byte, size))); text != fmt.Sprintf("POST /length %d", size) {
		t.Errorf("with a length: %q", text)
	}
	request, _ := http.NewRequest("POST", "http://"+r.address+"/chunks", io.MultiReader(bytes.NewReader(make([]byte, size)), strings.NewReader("x")))
	request.Trailer = http.Header{"X-In": {"!"}}
	response, err := c.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, _ := io.ReadAll(response.Body); string(text) != fmt.Sprintf("POST /chunks %d", size+1) || response.Trailer.Get("X-Sum") != fmt.Sprint(size+1, "!") {
		t.Errorf("in chunks: %q, trailer %q", text, response.Trailer)
	}
	if s := r.proxy.Stats(); s.Connections != 1 {
		t.Errorf("%+v", s)
	}
}

func TestExpectContinue(t *testing.T) {
	r := newRig(t, backend(t, echo), rule("POST", "/ok"))
	for path, want := range map[string]string{"/ok": "100 Continue", "/no": "403 Forbidden"} {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", path)
		in := bufio.NewReader(conn)
		if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, want) {
			t.Errorf("%s: %q, %v", path, line, err)
		}
		if path == "/ok" {
			_, _ = in.ReadString('\n')
			fmt.Fprint(conn, "hello")
			if response, err := http.ReadResponse(in, nil); err != nil || response.StatusCode != 200 {
				t.Errorf("after the body: %v, %v", response, err)
			}
		}
		conn.Close()
	}
}

// upgrading is a server that answers 101 and then echoes lines, as a websocket does.
func upgrading(t *testing.T) string {
	return backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprint(w, "plain")
			return
		}
		conn, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprint(conn, "echo ", line)
		}
	})
}

func TestUpgrade(t *testing.T) {
	r := newRig(t, upgrading(t), rule("GET", "/ws"))
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	// What follows may come in the same packet.
	fmt.Fprint(conn, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\none\n")
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, nil)
	if err != nil || response.StatusCode != 101 {
		t.Fatalf("%v, %v", response, err)
	}
	for _, line := range []string{"one", "two", "three"} {
		if line != "one" {
			fmt.Fprintln(conn, line)
		}
		if got, err := in.ReadString('\n'); err != nil || got != "echo "+line+"\n" {
			t.Errorf("%q came back as %q, %v", line, got, err)
		}
	}
	if out := r.raw(t, "GET /other HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"); !strings.HasPrefix(out, "HTTP/1.1 403 ") {
		t.Errorf("an upgrade that no rule allows: %q", out)
	}
	if out := r.raw(t, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"); !strings.Contains(out, "plain") {
		t.Errorf("an upgrade to HTTP/2, which would pass unseen: %q", out)
	}
}

func TestHTTP2(t *testing.T) {
	r := newRig(t, backend(t, echo), rule("POST", "/pkg.Service/Allowed"), rule("GET", "/ok"))
	transport := &http.Transport{Protocols: onlyHTTP2(), DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, r.address)
	}}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			body := strings.Repeat("x", i*1000)
			response, text := do(t, c, "POST", "http://server.test/pkg.Service/Allowed", strings.NewReader(body))
			if response.ProtoMajor != 2 || response.StatusCode != 200 || text != fmt.Sprintf("POST /pkg.Service/Allowed %d", len(body)) || response.Trailer.Get("X-Sum") == "" {
				t.Errorf("allowed: %s %q %v", response.Status, text, response.Trailer)
			}
			if response, text := do(t, c, "POST", "http://server.test/pkg.Service/Denied", strings.NewReader(body)); response.StatusCode != 403 || text != "Access denied\r\n" {
				t.Errorf("denied: %s %q", response.Status, text)
			}
		})
	}
	all.Wait()
	if clients := r.proxy.Stats().Connections; uint64(r.dials.Load()) > clients {
		t.Errorf("%d connections of clients, %d to the server", clients, r.dials.Load())
	}
	allowed, refused := 0, 0
	for _, record := range r.taken() {
		if record.Protocol != "HTTP/2" || !strings.HasPrefix(record.URL, "http://server.test/pkg.Service/") {
			t.Fatalf("%+v", record)
		}
		if record.Verdict == Dropped {
			refused++
		} else if record.Response {
			allowed++
		}
	}
	if allowed != 50 || refused != 50 {
		t.Errorf("%d allowed, %d refused", allowed, refused)
	}
}

func TestServerThatEndsIdleConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	closed := make(chan struct{}, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = http.ReadRequest(bufio.NewReader(c))
				fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				c.Close()
				closed <- struct{}{}
			}()
		}
	}()
	r := newRig(t, l.Addr().String(), rule("", ""))
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(conn)
	for i := range 5 {
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
		response, err := http.ReadResponse(in, nil)
		if err != nil || response.StatusCode != 200 {
			t.Fatalf("request %d: %v, %v", i, response, err)
		}
		if text, _ := io.ReadAll(response.Body); string(text) != "ok" {
			t.Fatalf("request %d: %q", i, text)
		}
		<-closed
	}
}

func TestServerThatIsNot(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	if out := newRig(t, address, rule("", "")).raw(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(out, "HTTP/1.1 503 ") {
		t.Errorf("%q", out)
	}
}

func TestPolicyChangesApplyToOpenConnections(t *testing.T) {
	r := newRig(t, backend(t, echo), rule("GET", "/ok"))
	c := client(t)
	if response, _ := do(t, c, "GET", "http://"+r.address+"/ok", nil); response.StatusCode != 200 {
		t.Fatal(response.Status)
	}
	r.answer.Store(&policy.AnswerL7{HTTP: []policy.AttributedHTTP{rule("GET", "/other")}})
	if response, _ := do(t, c, "GET", "http://"+r.address+"/ok", nil); response.StatusCode != 403 {
		t.Errorf("after the change: %s", response.Status)
	}
	// Where everything is allowed bytes pass unread, until rules apply.
	r.answer.Store(&policy.AnswerL7{Open: true})
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(conn)
	fmt.Fprint(conn, "GET /any HTTP/1.1\r\nHost: a\r\n\r\n")
	response, err := http.ReadResponse(in, nil)
	if err != nil || response.StatusCode != 200 {
		t.Fatalf("%v, %v", response, err)
	}
	_, _ = io.Copy(io.Discard, response.Body)
	r.proxy.Changed()
	fmt.Fprint(conn, "GET /any HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, err := http.ReadResponse(in, nil); err != nil {
		t.Errorf("a change that keeps it open: %v", err)
	}
	r.answer.Store(&policy.AnswerL7{Denied: true})
	r.proxy.Changed()
	if _, err := in.Peek(1); err == nil {
		_, err = io.Copy(io.Discard, in)
		if err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("the connection stays: %v", err)
		}
	}
}
