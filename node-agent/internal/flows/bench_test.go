package flows_test

import (
	"context"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"

	"fairlead.dev/node-agent/internal/edges"
	"fairlead.dev/node-agent/internal/flows"
	"fairlead.dev/node-agent/internal/flows/flowtest"
	"fairlead.dev/node-agent/internal/metrics"
)

// BenchmarkIngest is the whole path of an event with metrics and an edge aggregator on it. The budget is 300,000 events
// a second on one core.
func BenchmarkIngest(b *testing.B) {
	store := flowtest.NewStore(0)
	metrics.NewCollector(store)
	edges.New(store)
	event := flowtest.Delivered(time.Now(), 40000, 0x02)
	b.ReportAllocs()
	for b.Loop() {
		event.SourcePort++
		store.Ingest(event)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkIngestWithFollower has a client that follows drops meanwhile, as `hubble observe --follow --verdict DROPPED`.
func BenchmarkIngestWithFollower(b *testing.B) {
	store := flowtest.NewStore(0)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	request := &observerpb.GetFlowsRequest{
		Follow: true, Whitelist: []*flowpb.FlowFilter{{Verdict: []flowpb.Verdict{flowpb.Verdict_DROPPED}}},
	}
	go func() {
		done <- store.Query(ctx, request, flows.SendFunc(func(*observerpb.GetFlowsResponse) error { return nil }))
	}()
	event := flowtest.Delivered(time.Now(), 40000, 0x02)
	b.ReportAllocs()
	for b.Loop() {
		event.SourcePort++
		store.Ingest(event)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	cancel()
	<-done
}

// BenchmarkQuery decodes every flow of a full ring.
func BenchmarkQuery(b *testing.B) {
	store := flowtest.NewStore(1023)
	for range 1023 {
		store.Ingest(flowtest.Delivered(time.Now(), 40000, 0x02))
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		_ = store.Query(context.Background(), &observerpb.GetFlowsRequest{First: true},
			flows.SendFunc(func(*observerpb.GetFlowsResponse) error { n++; return nil }))
		if n != 1023 {
			b.Fatalf("%d flows", n)
		}
	}
}
