package relay_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"fairlead.dev/node-agent/internal/flows/flowtest"
	"fairlead.dev/node-agent/internal/observer/observertest"
	"fairlead.dev/node-agent/internal/peer"
	"fairlead.dev/node-agent/internal/relay"
)

// cluster is a real agent-like server over mTLS, one node that is down, a client of the relay before them, and its metrics.
func cluster(t *testing.T) (observerpb.ObserverClient, *observertest.Server, func() map[string]float64) {
	t.Helper()
	directory, err := os.MkdirTemp("", "relay")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	server, err := observertest.Start(directory, flowtest.NewStore(255))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	certificate, err := tls.LoadX509KeyPair(server.Certificate, server.Key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(server.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	peers := &peer.Registry{}
	peers.Set([]peer.Peer{
		{Name: "node1", Address: server.Address, ServerName: server.ServerName},
		// The same node under another name stands for a second one.
		{Name: "node2", Address: server.Address, ServerName: server.ServerName},
		{Name: "node3", Address: "127.0.0.1:1", ServerName: "node3"},
	})
	r := relay.NewServer(relay.Options{Peers: peers, TLS: &tls.Config{
		Certificates: []tls.Certificate{certificate}, RootCAs: pool, MinVersion: tls.VersionTLS13,
	}})
	t.Cleanup(r.Close)
	g := grpc.NewServer(r.ServerOptions()...)
	r.Register(g)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(listener) }()
	t.Cleanup(g.Stop)
	connection, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	handler := r.MetricsHandler()
	scrape := func() map[string]float64 {
		t.Helper()
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		series := map[string]float64{}
		for line := range strings.Lines(answer.Body.String()) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok && !strings.HasPrefix(line, "#") {
				series[name+"}"], _ = strconv.ParseFloat(value, 64)
			} else if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
				series[name], _ = strconv.ParseFloat(value, 64)
			}
		}
		return series
	}
	return observerpb.NewObserverClient(connection), server, scrape
}

func TestMetrics(t *testing.T) {
	client, server, scrape := cluster(t)
	const ready, failing = `hubble_relay_pool_peer_connection_status{status="READY"}`,
		`hubble_relay_pool_peer_connection_status{status="TRANSIENT_FAILURE"}`
	// The first scrape of a relay that nobody has asked tries the connections.
	if got := scrape(); got[ready] != 0 || got[failing] != 0 || got[`hubble_relay_pool_peer_connection_status{status="IDLE"}`] != 3 {
		t.Errorf("before anybody asked: %v", got)
	}
	deadline := time.Now().Add(10 * time.Second)
	got := scrape()
	for ; got[ready] != 2 || got[failing] != 1; got = scrape() {
		if time.Now().After(deadline) {
			t.Fatalf("connections: %v", got)
		}
		time.Sleep(10 * time.Millisecond) // a scrape is the only way to ask
	}
	if got["fairlead_relay_flows_forwarded_total"] != 0 || got[`fairlead_relay_flows_lost_total{source="perf_event_ring_buffer"}`] != 0 {
		t.Errorf("flows that nobody asked for: %v", got)
	}
	server.Store.Ingest(flowtest.Delivered(time.Now(), 1, 0x02))
	server.Store.Lost(9)
	stream, err := client.GetFlows(t.Context(), &observerpb.GetFlowsRequest{Number: 10})
	for err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if _, err := client.ServerStatus(t.Context(), &observerpb.ServerStatusRequest{}); err != nil {
		t.Fatal(err)
	}
	const flows, sum = `{grpc_method="GetFlows",grpc_service="observer.Observer",grpc_type="server_stream"}`,
		`{grpc_method="ServerStatus",grpc_service="observer.Observer",grpc_type="unary"}`
	got = scrape()
	for name, want := range map[string]float64{
		// Both names of the one node that answers.
		"fairlead_relay_flows_forwarded_total":                                       2,
		`fairlead_relay_flows_lost_total{source="perf_event_ring_buffer"}`:           18,
		`fairlead_relay_flows_lost_total{source="hubble_ring_buffer"}`:               0,
		`fairlead_relay_peer_failures_total{peer="node3"}`:                           2,
		"grpc_server_started_total" + flows:                                          1,
		"grpc_server_started_total" + sum:                                            1,
		"grpc_server_handling_seconds_count" + flows:                                 1,
		`grpc_server_handled_total{grpc_code="OK",` + strings.TrimPrefix(flows, "{"): 1,
		`grpc_server_handled_total{grpc_code="OK",` + strings.TrimPrefix(sum, "{"):   1,
		`hubble_relay_pool_peer_connection_status{status="NIL_CONNECTION"}`:          0,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v (there: %v), want %v", name, value, ok, want)
		}
	}
}

func TestRelay(t *testing.T) {
	client, server, _ := cluster(t)
	start := time.Now()
	for i := range uint16(10) {
		server.Store.Ingest(flowtest.Delivered(start.Add(time.Duration(i)*time.Second), i+1, 0x02))
	}
	sum, err := client.ServerStatus(t.Context(), &observerpb.ServerStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if sum.GetNumFlows() != 20 || sum.GetNumConnectedNodes().GetValue() != 2 || !slices.Equal(sum.GetUnavailableNodes(), []string{"node3"}) {
		t.Errorf("status %v", sum)
	}
	nodes, err := client.GetNodes(t.Context(), &observerpb.GetNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if n := nodes.GetNodes(); len(n) != 3 || n[0].GetState() != relaypb.NodeState_NODE_CONNECTED ||
		n[2].GetState() != relaypb.NodeState_NODE_UNAVAILABLE {
		t.Errorf("nodes %v", nodes)
	}
	for _, test := range []struct {
		name    string
		request *observerpb.GetFlowsRequest
		want    []uint32
	}{
		{"newest of all nodes, in order", &observerpb.GetFlowsRequest{Number: 4}, []uint32{9, 9, 10, 10}},
		{"oldest of all nodes", &observerpb.GetFlowsRequest{Number: 3, First: true}, []uint32{1, 1, 2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			stream, err := client.GetFlows(t.Context(), test.request)
			if err != nil {
				t.Fatal(err)
			}
			var got []uint32
			var down []string
			for {
				response, err := stream.Recv()
				if err != nil {
					break
				}
				if s := response.GetNodeStatus(); s != nil {
					down = append(down, s.GetNodeNames()...)
				} else {
					got = append(got, response.GetFlow().GetL4().GetTCP().GetSourcePort())
				}
			}
			if !slices.Equal(got, test.want) || !slices.Equal(down, []string{"node3"}) {
				t.Errorf("got %v (down: %v), want %v", got, down, test.want)
			}
		})
	}
}
