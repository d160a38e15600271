package l7

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestClientThatWaitsForTheEnd: a client that reads until the connection ends is shown the end at once, after an answer of the
// server's and after one of the proxy's own.
func TestClientThatWaitsForTheEnd(t *testing.T) {
	r := newRig(t, backend(t, echo), rule("GET", ""))
	began := time.Now()
	const rounds = 5
	for range rounds {
		for method, want := range map[string]string{"GET": " 200 ", "PUT": " 403 "} {
			c, err := net.Dial("tcp", r.address)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, method+" / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(c)
			if err != nil || !strings.Contains(string(answer), want) {
				t.Errorf("%s: %q, %v", method, answer, err)
			}
			c.Close()
		}
	}
	if took := time.Since(began); took > rounds*lingering {
		t.Errorf("%d connections took %s: their ends were waited for", 2*rounds, took)
	}
}
