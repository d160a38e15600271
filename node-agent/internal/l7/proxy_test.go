package l7

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fairlead.dev/node-agent/policy"
)

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

// A rule may ask for the host, whole, as the client wrote it; in HTTP/1 and HTTP/2.
func TestHosts(t *testing.T) {
	wanted := rule("GET", "/.*")
	wanted.Host = regexp.MustCompile(`^(?:web[.]example[.]org)$`)
	r := newRig(t, backend(t, echo), wanted)
	transport := &http.Transport{Protocols: onlyHTTP2(), DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, r.address)
	}}
	defer transport.CloseIdleConnections()
	for host, code := range map[string]int{"web.example.org": 200, "other.example.org": 403, "web.example.org.evil.test": 403, "a.web.example.org": 403, "webxexample.org": 403} {
		for _, request := range []string{"GET /a HTTP/1.1\r\nHost: " + host, "GET http://" + host + "/a HTTP/1.1\r\nHost: " + host} {
			if out := r.raw(t, request+"\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(out, fmt.Sprintf("HTTP/1.1 %d ", code)) {
				t.Errorf("%q gave %.40q, want %d", request, out, code)
			}
		}
		if response, _ := do(t, &http.Client{Transport: transport, Timeout: 10 * time.Second}, "GET", "http://"+host+"/a", nil); response.ProtoMajor != 2 || response.StatusCode != code {
			t.Errorf("%s by HTTP/2: %s %s, want %d", host, response.Proto, response.Status, code)
		}
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
