package flows_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/flows"
	"fairlead.dev/node-agent/internal/flows/flowtest"
)

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// query collects the whole answer of a request without follow.
func query(t *testing.T, s *flows.Store, request *observerpb.GetFlowsRequest) (all []*flowpb.Flow, lost []*flowpb.LostEvent) {
	t.Helper()
	err := s.Query(t.Context(), request, flows.SendFunc(func(r *observerpb.GetFlowsResponse) error {
		if l := r.GetLostEvents(); l != nil {
			lost = append(lost, l)
		} else {
			all = append(all, r.GetFlow())
		}
		return nil
	}))
	if err != nil {
		t.Fatalf("query: %v", err)
	}
	return all, lost
}

func sourcePorts(all []*flowpb.Flow) string {
	var ports []string
	for _, f := range all {
		ports = append(ports, strconv.Itoa(int(f.GetL4().GetTCP().GetSourcePort())))
	}
	return strings.Join(ports, " ")
}

func TestQueryRange(t *testing.T) {
	store := flowtest.NewStore(1023)
	for i := range uint16(10) {
		store.Ingest(flowtest.Delivered(start.Add(time.Duration(i)*time.Second), i+1, 0x02))
	}
	at := func(second int) *timestamppb.Timestamp {
		return timestamppb.New(start.Add(time.Duration(second) * time.Second))
	}
	for _, test := range []struct {
		name    string
		request *observerpb.GetFlowsRequest
		want    string
	}{
		{"everything", &observerpb.GetFlowsRequest{}, "1 2 3 4 5 6 7 8 9 10"},
		{"newest three, oldest first", &observerpb.GetFlowsRequest{Number: 3}, "8 9 10"},
		{"oldest three", &observerpb.GetFlowsRequest{Number: 3, First: true}, "1 2 3"},
		{"since", &observerpb.GetFlowsRequest{Since: at(7)}, "8 9 10"},
		{"until", &observerpb.GetFlowsRequest{Until: at(2)}, "1 2 3"},
		{"between", &observerpb.GetFlowsRequest{Since: at(3), Until: at(5)}, "4 5 6"},
		{"since goes before number", &observerpb.GetFlowsRequest{Since: at(3), Number: 2}, "4 5"},
		{"more than there are", &observerpb.GetFlowsRequest{Number: 50}, "1 2 3 4 5 6 7 8 9 10"},
		{"number counts matches", &observerpb.GetFlowsRequest{Number: 2, Whitelist: []*flowpb.FlowFilter{
			{SourcePort: []string{"2", "4", "6"}},
		}}, "4 6"},
		{"future", &observerpb.GetFlowsRequest{Since: at(100)}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			all, _ := query(t, store, test.request)
			if got := sourcePorts(all); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestOverwrittenRingKeepsTheNewest(t *testing.T) {
	store := flowtest.NewStore(7)
	for i := range uint16(20) {
		store.Ingest(flowtest.Delivered(start, i+1, 0x02))
	}
	all, _ := query(t, store, &observerpb.GetFlowsRequest{First: true})
	if got := sourcePorts(all); got != "14 15 16 17 18 19 20" {
		t.Errorf("got %q", got)
	}
	if s := store.Stats(); s.Held != 7 || s.Capacity != 7 || s.Seen != 20 {
		t.Errorf("stats %+v", s)
	}
}

// A reader that is overtaken hears how many flows it missed, and received and missed add up to all of them.
func TestOvertakenReaderHearsOfItsLoss(t *testing.T) {
	store := flowtest.NewStore(255)
	const total = 5000
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	store.Ingest(flowtest.Delivered(start, 1, 0x02))
	var received, missed uint64
	blocked, release := make(chan struct{}), make(chan struct{})
	err := make(chan error, 1)
	go func() {
		err <- store.Query(ctx, &observerpb.GetFlowsRequest{Follow: true, Number: 1},
			flows.SendFunc(func(r *observerpb.GetFlowsResponse) error {
				if l := r.GetLostEvents(); l != nil {
					if l.GetSource() != flowpb.LostEventSource_HUBBLE_RING_BUFFER {
						t.Errorf("source %v", l.GetSource())
					}
					missed += l.GetNumEventsLost()
				} else if received++; received == 1 {
					close(blocked)
					<-release
				}
				if received+missed == total {
					cancel()
				}
				return nil
			}))
	}()
	<-blocked
	for range total - 1 {
		store.Ingest(flowtest.Delivered(start, 2, 0x02))
	}
	close(release)
	if e := <-err; !errors.Is(e, context.Canceled) {
		t.Fatalf("query ended with %v after %d received and %d missed", e, received, missed)
	}
	if missed == 0 || store.Stats().RingLost != missed {
		t.Errorf("missed %d, counted %d", missed, store.Stats().RingLost)
	}
}

func TestFollowSendsWhatComes(t *testing.T) {
	store := flowtest.NewStore(255)
	store.Ingest(flowtest.Delivered(start, 1, 0x02))
	store.Ingest(flowtest.Delivered(start, 2, 0x02))
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan *flowpb.Flow)
	done := make(chan error, 1)
	go func() {
		done <- store.Query(ctx, &observerpb.GetFlowsRequest{Follow: true, Number: 1},
			flows.SendFunc(func(r *observerpb.GetFlowsResponse) error { got <- r.GetFlow(); return nil }))
	}()
	ports := []*flowpb.Flow{<-got}
	for port := range uint16(5) {
		store.Ingest(flowtest.Delivered(start, 10+port, 0x02))
		ports = append(ports, <-got)
	}
	if text := sourcePorts(ports); text != "2 10 11 12 13 14" {
		t.Errorf("got %q", text)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// The kernel's loss is told exactly, at most once a second, and no filter hides it.
func TestKernelLoss(t *testing.T) {
	clock := start
	store := flows.New(flows.Options{
		Resolver: flowtest.Resolver{}, Node: flowtest.Node(), Capacity: 255, Now: func() time.Time { return clock },
	})
	store.Ingest(flowtest.Delivered(start, 1, 0x02))
	store.Lost(5)
	clock = clock.Add(2 * time.Second)
	store.Lost(7)
	_, lost := query(t, store, &observerpb.GetFlowsRequest{Whitelist: []*flowpb.FlowFilter{{SourcePort: []string{"9"}}}})
	// Without a match the reader goes back to the oldest flow, so both losses are in the answer.
	if len(lost) != 2 || lost[0].GetNumEventsLost() != 5 || lost[1].GetNumEventsLost() != 7 {
		t.Fatalf("lost %v", lost)
	}
	if lost[0].GetSource() != flowpb.LostEventSource_PERF_EVENT_RING_BUFFER {
		t.Errorf("source %v", lost[0].GetSource())
	}
	if s := store.Stats(); s.KernelLost != 12 {
		t.Errorf("stats %+v", s)
	}
}

func TestWrongRequests(t *testing.T) {
	store := flowtest.NewStore(255)
	one := func(f *flowpb.FlowFilter) *observerpb.GetFlowsRequest {
		return &observerpb.GetFlowsRequest{Whitelist: []*flowpb.FlowFilter{f}}
	}
	for _, test := range []struct {
		name    string
		request *observerpb.GetFlowsRequest
		want    string
	}{
		{"first with follow", &observerpb.GetFlowsRequest{First: true, Follow: true}, "first cannot be specified with follow"},
		{"mask", &observerpb.GetFlowsRequest{FieldMask: &fieldmaskpb.FieldMask{Paths: []string{"nonsense"}}}, "invalid fieldmask"},
		{"address", one(&flowpb.FlowFilter{SourceIp: []string{"10.0.0.300"}}), `source_ip: invalid IP address "10.0.0.300"`},
		{"prefix", one(&flowpb.FlowFilter{DestinationIp: []string{"10.0.0.0/40"}}), "destination_ip: invalid IP prefix"},
		{"port", one(&flowpb.FlowFilter{DestinationPort: []string{"http"}}), `destination_port: invalid port "http"`},
		{"protocol", one(&flowpb.FlowFilter{Protocol: []string{"ipx"}}), `unknown protocol: "ipx"`},
		{"label", one(&flowpb.FlowFilter{SourceLabel: []string{"a in b"}}), "source_label: invalid label selector"},
		{"pod", one(&flowpb.FlowFilter{SourcePod: []string{""}}), "source_pod"},
		{"node", one(&flowpb.FlowFilter{NodeName: []string{"a/b/c"}}), "node_name"},
		{"cel", one(&flowpb.FlowFilter{Experimental: &flowpb.FlowFilter_Experimental{CelExpression: []string{"true"}}}), "CEL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := store.Query(t.Context(), test.request, flows.SendFunc(nil))
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want InvalidArgument with %q", err, test.want)
			}
		})
	}
}

func TestFieldMask(t *testing.T) {
	store := flowtest.NewStore(255)
	store.Ingest(flowtest.Delivered(start, 1, 0x02))
	all, _ := query(t, store, &observerpb.GetFlowsRequest{FieldMask: &fieldmaskpb.FieldMask{
		Paths: []string{"verdict", "source.pod_name", "l4.TCP.source_port", "time"},
	}})
	f := all[0]
	if f.GetSource().GetPodName() != "tiefighter" || f.GetL4().GetTCP().GetSourcePort() != 1 || f.GetTime() == nil ||
		f.GetVerdict() != flowpb.Verdict_FORWARDED {
		t.Errorf("wanted fields are missing: %v", f)
	}
	if f.GetSource().GetIdentity() != 0 || f.GetL4().GetTCP().GetDestinationPort() != 0 || f.GetIP() != nil ||
		f.GetUuid() != "" || f.GetSource().GetLabels() != nil {
		t.Errorf("fields that nobody asked for: %v", f)
	}
	// The shared endpoint was not touched.
	whole, _ := query(t, store, &observerpb.GetFlowsRequest{})
	if len(whole[0].GetSource().GetLabels()) != 3 {
		t.Errorf("labels are gone: %v", whole[0].GetSource())
	}
}

// Losses within one second are one message, which comes without any further event, to whoever follows.
func TestRepeatedLossIsGathered(t *testing.T) {
	store := flowtest.NewStore(255)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan uint64)
	go func() {
		_ = store.Query(ctx, &observerpb.GetFlowsRequest{Follow: true, Number: 1},
			flows.SendFunc(func(r *observerpb.GetFlowsResponse) error {
				got <- r.GetLostEvents().GetNumEventsLost()
				return nil
			}))
	}()
	store.Lost(5)
	if n := <-got; n != 5 {
		t.Errorf("first %d", n)
	}
	store.Lost(3)
	store.Lost(4)
	if n := <-got; n != 7 {
		t.Errorf("then %d", n)
	}
}

// collector is the client's side of WatchFlows.
type collector struct {
	grpc.ServerStream
	ctx     context.Context
	batches chan *fairleadv1.WatchFlowsResponse
}

func (c *collector) Context() context.Context { return c.ctx }

func (c *collector) Send(r *fairleadv1.WatchFlowsResponse) error { c.batches <- r; return nil }

// A batch is full or its time is up; nothing is held back at the end.
func TestWatchFlowsBatches(t *testing.T) {
	store := flowtest.NewStore(1023)
	for range 25 {
		store.Ingest(flowtest.Delivered(start, 1, 0x02))
	}
	request, err := proto.Marshal(&observerpb.GetFlowsRequest{Follow: true, Number: 25})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := &collector{ctx: ctx, batches: make(chan *fairleadv1.WatchFlowsResponse)}
	done := make(chan error, 1)
	go func() {
		done <- store.WatchFlows(&fairleadv1.WatchFlowsRequest{Request: request, MaxBatch: 10, MaxDelayMilliseconds: 1000}, c)
	}()
	for _, want := range []int{10, 10, 5} {
		if n := len((<-c.batches).GetResponses()); n != want {
			t.Errorf("batch of %d, want %d", n, want)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	wrong := store.WatchFlows(&fairleadv1.WatchFlowsRequest{Request: []byte{0xff}}, c)
	if status.Code(wrong) != codes.InvalidArgument {
		t.Errorf("a wrong request: %v", wrong)
	}
}
