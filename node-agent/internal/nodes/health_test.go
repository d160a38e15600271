package nodes

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
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

// Asked are the node's addresses of each family, and where it says that it answers in the pods' network.
func TestWhereNodesAreProbed(t *testing.T) {
	address := netip.MustParseAddr
	for name, test := range map[string]struct {
		node datapath.Node
		want map[string]string
	}{
		"both families": {datapath.Node{Address: address("192.0.2.1"), Address6: address("2001:db8::1"), RouterAddress: address("10.0.0.1"), RouterAddress6: address("fd00::1"),
			HealthAddress: address("10.0.0.9"), HealthAddress6: address("fd00::9")}, map[string]string{"host": "192.0.2.1", "endpoint": "10.0.0.9", "host6": "2001:db8::1", "endpoint6": "fd00::9"}},
		"IPv6 alone":      {datapath.Node{Address6: address("2001:db8::1"), RouterAddress6: address("fd00::1"), HealthAddress6: address("fd00::9")}, map[string]string{"host": "2001:db8::1", "endpoint": "fd00::9"}},
		"pods of IPv4":    {datapath.Node{Address: address("192.0.2.1"), Address6: address("2001:db8::1"), RouterAddress: address("10.0.0.1")}, map[string]string{"host": "192.0.2.1", "endpoint": "10.0.0.1", "host6": "2001:db8::1"}},
		"no pods' range":  {datapath.Node{Address: address("192.0.2.1")}, map[string]string{"host": "192.0.2.1"}},
		"older, IPv6 too": {datapath.Node{Address6: address("2001:db8::1"), RouterAddress6: address("fd00::1")}, map[string]string{"host": "2001:db8::1", "endpoint": "fd00::1"}},
	} {
		p := NewProber()
		var mu sync.Mutex
		asked := map[netip.Addr]bool{}
		p.ping = func(_ context.Context, to netip.Addr) (time.Duration, error) {
			mu.Lock()
			defer mu.Unlock()
			asked[to] = true
			return time.Millisecond, nil
		}
		p.client.Transport = nobody{}
		p.round(t.Context(), []datapath.Node{test.node})
		got := p.Results()[0]
		paths, want := map[string]string{}, map[netip.Addr]bool{}
		for name, path := range got.Paths() {
			paths[name] = path.Address.String()
			want[path.Address] = true
		}
		if !maps.Equal(paths, test.want) || !maps.Equal(asked, want) {
			t.Errorf("%s: asked %v, %+v", name, asked, paths)
		}
	}
}

// nobody answers no request.
type nobody struct{}

func (nobody) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("nobody is there")
}

func TestPingAnswersOfThisMachine(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it opens a socket for ICMP")
	}
	if latency, err := ping(t.Context(), netip.MustParseAddr("127.0.0.1")); err != nil || latency <= 0 {
		t.Errorf("%v, %v", latency, err)
	}
}
