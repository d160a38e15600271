package l7

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

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
