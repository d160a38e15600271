package nodes

import (
	"context"
	"errors"
	"net/http/httptest"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"fairlead.dev/node-agent/internal/datapath"
)

func TestProbesByHTTPAndICMPOnBothPaths(t *testing.T) {
	server := httptest.NewServer(HealthHandler())
	defer server.Close()
	_, text, _ := strings.Cut(strings.TrimPrefix(server.URL, "http://"), ":")
	p := NewProber()
	p.port, _ = strconv.Atoi(text)
	answering := netip.MustParseAddr("127.0.0.1")
	p.ping = func(_ context.Context, to netip.Addr) (time.Duration, error) {
		if to == answering {
			return time.Millisecond, nil
		}
		return 0, errors.New("no echo")
	}
	node := datapath.Node{Name: "node2", Address: answering, RouterAddress: answering}
	p.round(t.Context(), []datapath.Node{node})
	got := p.Results()
	if len(got) != 1 || !got[0].Host.HTTP.Reachable || !got[0].Host.ICMP.Reachable || !got[0].Endpoint.HTTP.Reachable || got[0].Host.ICMP.Latency != time.Millisecond || got[0].Seen.IsZero() {
		t.Fatalf("got %+v", got)
	}
	seen := got[0].Seen
	// It goes away: what is known of it stays, and why it does not answer is said for each probe.
	server.Close()
	node.RouterAddress = netip.MustParseAddr("127.0.0.2")
	p.round(t.Context(), []datapath.Node{node, {Name: "node3", Address: netip.MustParseAddr("127.0.0.3")}})
	got = p.Results()
	if got[0].Host.HTTP.Reachable || got[0].Host.HTTP.Err == "" || !got[0].Host.ICMP.Reachable || got[0].Endpoint.ICMP.Err != "no echo" || !got[0].Seen.Equal(seen) {
		t.Errorf("got %+v", got[0])
	}
	if got[1].Node != "node3" || got[1].Endpoint.HTTP.Err != "" || !got[1].Seen.IsZero() {
		t.Errorf("got %+v, want no question to an address that is not known", got[1])
	}
	// Nodes that went are forgotten.
	p.round(t.Context(), nil)
	if got := p.Results(); len(got) != 0 {
		t.Errorf("still there: %+v", got)
	}
}

func TestPingAnswersOfThisMachine(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it opens a socket for ICMP")
	}
	if latency, err := ping(t.Context(), netip.MustParseAddr("127.0.0.1")); err != nil || latency <= 0 {
		t.Errorf("%v, %v", latency, err)
	}
}
