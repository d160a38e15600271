package relay_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"slices"
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

// cluster is a real agent-like server over mTLS, one node that is down, and a client of the relay before them.
func cluster(t *testing.T) (observerpb.ObserverClient, *observertest.Server) {
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
	g := grpc.NewServer()
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
	return observerpb.NewObserverClient(connection), server
}

func TestRelay(t *testing.T) {
	client, server := cluster(t)
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
