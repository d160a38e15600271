package edges

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"net"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/flows"
	"fairlead.dev/node-agent/internal/flows/flowtest"
)

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// gathered is what a watcher would be sent after these events, as text sorted by nothing: one edge per line.
func gathered(events ...datapath.Event) map[string]string {
	store := flowtest.NewStore(255)
	a := New(store)
	table := a.open()
	for _, e := range events {
		store.Ingest(e)
	}
	edges, _ := a.take(table)
	lines := map[string]string{}
	for k, c := range edges {
		m := message(k, c)
		name := fmt.Sprintf("%s>%s %d/%d", sideText(m.GetSource()), sideText(m.GetDestination()), m.GetProtocol(), m.GetDestinationPort())
		lines[name] = fmt.Sprintf("fwd=%d drop=%d new=%d bytes=%d reason=%d by=%q allow=%q svc=%q",
			m.GetForwarded(), m.GetDropped(), m.GetConnections(), m.GetBytes(), m.GetDropReason(), m.GetDropPolicy(),
			m.GetAllowPolicy(), m.GetService())
	}
	return lines
}

func sideText(s *fairleadv1.EdgeSide) string {
	if s.GetPodName() != "" {
		return s.GetPodName()
	}
	return s.GetEntity() + "=" + s.GetAddress()
}

func with(e datapath.Event, change func(*datapath.Event)) datapath.Event {
	change(&e)
	return e
}

func TestEdges(t *testing.T) {
	delivered := flowtest.Delivered(start, 4000, 0x02)
	denied := flowtest.Denied(start, 4242)
	leave := func(point uint8, endpoint datapath.EndpointID, to netip.Addr, identity uint32) datapath.Event {
		return with(delivered, func(e *datapath.Event) {
			e.SubType, e.Endpoint, e.Destination, e.DestIdentity = point, endpoint, to, identity
		})
	}
	for _, test := range []struct {
		name   string
		events []datapath.Event
		want   map[string]string
	}{
		{"request and reply are one edge, with the request's port", []datapath.Event{delivered, flowtest.Answered(start, 4000)},
			map[string]string{"tiefighter>deathstar-6c94 6/80": `fwd=2 drop=0 new=1 bytes=148 reason=0 by="" allow="" svc=""`}},
		{"source ports do not make edges", []datapath.Event{delivered, with(delivered, func(e *datapath.Event) {
			e.SourcePort++
			e.TraceReason = 2
		})}, map[string]string{"tiefighter>deathstar-6c94 6/80": `fwd=2 drop=0 new=1 bytes=148 reason=0 by="" allow="" svc=""`}},
		{"a pod's packet on its way is counted where it arrives", []datapath.Event{
			leave(5, flowtest.TiefighterID, flowtest.Xwing, flowtest.AllianceIdentity),
			leave(4, flowtest.TiefighterID, flowtest.Xwing, flowtest.AllianceIdentity),
			leave(3, flowtest.TiefighterID, flowtest.Xwing, flowtest.AllianceIdentity),
		}, map[string]string{}},
		{"the world is counted once, where the packet leaves its pod", []datapath.Event{
			leave(5, flowtest.TiefighterID, flowtest.World, 2), leave(3, flowtest.TiefighterID, flowtest.World, 2),
			leave(11, 0, flowtest.World, 2),
		}, map[string]string{"tiefighter>world=192.0.2.7 6/80": `fwd=1 drop=0 new=1 bytes=74 reason=0 by="" allow="" svc=""`}},
		{"a drop counts once, with its policy", denied, map[string]string{
			"xwing>deathstar-6c94 6/80": `fwd=0 drop=1 new=0 bytes=0 reason=133 by="CiliumNetworkPolicy default/rule1 spec.ingress[0]" allow="" svc=""`,
		}},
		{"the allowing policy is noted", []datapath.Event{flowtest.Allowed(start, 4000), delivered}, map[string]string{
			"tiefighter>deathstar-6c94 6/80": `fwd=1 drop=0 new=1 bytes=74 reason=0 by="" allow="CiliumNetworkPolicy default/rule1 spec.ingress[0]" svc=""`,
		}},
		{"the service is noted on the edge to the backend", append(flowtest.Connected(start), delivered), map[string]string{
			"tiefighter>deathstar-6c94 6/80": `fwd=1 drop=0 new=1 bytes=74 reason=0 by="" allow="" svc="default/deathstar"`,
		}},
		{"a host of another node is counted where the packet leaves for it", []datapath.Event{
			leave(4, flowtest.TiefighterID, flowtest.Node2, 6), leave(2, 0, flowtest.Node2, 1),
		}, map[string]string{"tiefighter>remote-node=172.18.0.3 6/80": `fwd=1 drop=0 new=1 bytes=74 reason=0 by="" allow="" svc=""`}},
		{"ICMP has no port", []datapath.Event{with(delivered, func(e *datapath.Event) { e.Protocol, e.DestPort = 1, 77 })},
			map[string]string{"tiefighter>deathstar-6c94 1/0": `fwd=1 drop=0 new=1 bytes=74 reason=0 by="" allow="" svc=""`}},
		{"a host's packet to a pod", []datapath.Event{with(delivered, func(e *datapath.Event) {
			e.Source, e.SourceIdentity = flowtest.Node1, 1
		})}, map[string]string{"host=172.18.0.2>deathstar-6c94 6/80": `fwd=1 drop=0 new=1 bytes=74 reason=0 by="" allow="" svc=""`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := gathered(test.events...)
			for name, line := range test.want {
				if got[name] != line {
					t.Errorf("%s:\n got %s\nwant %s", name, got[name], line)
				}
			}
			if len(got) != len(test.want) {
				t.Errorf("got %v", got)
			}
		})
	}
}

// The sum over two nodes that see the same packet at several places each is the number of packets.
func TestNothingIsCountedTwice(t *testing.T) {
	atDestination := flowtest.Delivered(start, 4000, 0x02)
	onTheWay := []datapath.Event{}
	for _, point := range []uint8{5, 4, 9, 3, 8, 11, 10} {
		onTheWay = append(onTheWay, with(atDestination, func(e *datapath.Event) { e.SubType = point }))
	}
	got := gathered(append(onTheWay, atDestination)...)
	if len(got) != 1 || got["tiefighter>deathstar-6c94 6/80"] != `fwd=1 drop=0 new=1 bytes=74 reason=0 by="" allow="" svc=""` {
		t.Errorf("got %v", got)
	}
}

func TestOverflowIsCounted(t *testing.T) {
	store := flowtest.NewStore(255)
	a := New(store)
	table := a.open()
	e := flowtest.Delivered(start, 1, 0x02)
	for port := range uint16(MaxEdges + 7) {
		e.DestPort = port
		store.Ingest(e)
	}
	if edges, overflow := a.take(table); len(edges) != MaxEdges || overflow != 7 {
		t.Errorf("%d edges, %d overflowed", len(edges), overflow)
	}
	if edges, overflow := a.take(table); len(edges) != 0 || overflow != 0 {
		t.Errorf("the second batch has %d edges, %d overflowed", len(edges), overflow)
	}
}

// service serves WatchEdges only.
type service struct {
	fairleadv1.UnimplementedAgentServiceServer
	edges *Aggregator
}

func (s *service) WatchEdges(
	r *fairleadv1.WatchEdgesRequest, stream grpc.ServerStreamingServer[fairleadv1.WatchEdgesResponse],
) error {
	return s.edges.WatchEdges(r, stream)
}

// Batches are differences, come also when nothing happened, and tell what was lost.
func TestWatchEdges(t *testing.T) {
	store := flowtest.NewStore(255)
	aggregator := New(store)
	server := grpc.NewServer()
	fairleadv1.RegisterAgentServiceServer(server, &service{edges: aggregator})
	listener := bufconn.Listen(1 << 20)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	connection, err := grpc.NewClient("passthrough:edges", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	stream, err := fairleadv1.NewAgentServiceClient(connection).WatchEdges(t.Context(),
		&fairleadv1.WatchEdgesRequest{IntervalMilliseconds: 200})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	store.Ingest(flowtest.Delivered(start, 1, 0x02))
	store.Ingest(flowtest.Delivered(start, 2, 0x02))
	var forwarded, lost uint64
	for forwarded < 2 {
		batch, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch.GetEdges() {
			forwarded += e.GetForwarded()
		}
	}
	store.Lost(3)
	for lost == 0 {
		batch, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if batch.GetNodeName() != "node1" || len(batch.GetEdges()) != 0 {
			t.Errorf("batch %v", batch)
		}
		lost += batch.GetLost()
	}
	if forwarded != 2 || lost != 3 {
		t.Errorf("forwarded %d, lost %d", forwarded, lost)
	}
}

var _ flows.Sink = (*Aggregator)(nil)
