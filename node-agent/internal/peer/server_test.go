package peer

import (
	"context"
	"net/netip"
	"testing"

	peerpb "github.com/cilium/cilium/api/v1/peer"
	"google.golang.org/grpc"
)

// stream hands notifications to a test.
type stream struct {
	grpc.ServerStream
	ctx  context.Context
	sent chan *peerpb.ChangeNotification
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Send(n *peerpb.ChangeNotification) error { s.sent <- n; return nil }

func TestNotify(t *testing.T) {
	registry := &Registry{}
	registry.Upsert(ForNode("node1", "default", netip.MustParseAddr("172.18.0.2")))
	ctx, cancel := context.WithCancel(t.Context())
	s := &stream{ctx: ctx, sent: make(chan *peerpb.ChangeNotification)}
	done := make(chan error, 1)
	go func() { done <- NewServer(registry).Notify(nil, s) }()
	expect := func(kind peerpb.ChangeNotificationType, name, address string) {
		t.Helper()
		if n := <-s.sent; n.GetType() != kind || n.GetName() != name || n.GetAddress() != address {
			t.Errorf("got %v, want %v %s %s", n, kind, name, address)
		}
	}
	expect(peerpb.ChangeNotificationType_PEER_ADDED, "node1", "172.18.0.2:4244")
	registry.Upsert(ForNode("node2", "east", netip.MustParseAddr("fd00::3")))
	expect(peerpb.ChangeNotificationType_PEER_ADDED, "east/node2", "[fd00::3]:4244")
	registry.Upsert(ForNode("node2", "east", netip.MustParseAddr("fd00::3"))) // no change
	registry.Upsert(ForNode("node2", "east", netip.MustParseAddr("fd00::4")))
	expect(peerpb.ChangeNotificationType_PEER_UPDATED, "east/node2", "[fd00::4]:4244")
	registry.Delete("node1")
	expect(peerpb.ChangeNotificationType_PEER_DELETED, "node1", "172.18.0.2:4244")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestServerName(t *testing.T) {
	for _, test := range []struct{ node, cluster, want string }{
		{"node1", "", "node1.default.hubble-grpc.cilium.io"},
		{"ip-10-0-0-1.eu.internal", "my.cluster", "ip-10-0-0-1-eu-internal.my-cluster.hubble-grpc.cilium.io"},
	} {
		if got := ServerName(test.node, test.cluster); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}
