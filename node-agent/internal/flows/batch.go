package flows

import (
	"fmt"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
)

// Defaults and bounds of WatchFlows.
const (
	defaultBatch = 200
	maxBatch     = 5000
	defaultDelay = 50 * time.Millisecond
	minDelay     = 5 * time.Millisecond
	maxDelay     = 5 * time.Second
)

// WatchFlows implements AgentService.WatchFlows: the answer of a GetFlows request in batches of at most max_batch
// (default 200) that wait for more at most max_delay_milliseconds (default 50).
func (s *Store) WatchFlows(
	request *fairleadv1.WatchFlowsRequest, stream grpc.ServerStreamingServer[fairleadv1.WatchFlowsResponse],
) error {
	var inner observerpb.GetFlowsRequest
	if err := proto.Unmarshal(request.GetRequest(), &inner); err != nil {
		return status.Errorf(codes.InvalidArgument, "request is not a serialised observer.GetFlowsRequest: %v", err)
	}
	b := &batcher{
		send:  stream.Send,
		limit: bounded(int(request.GetMaxBatch()), defaultBatch, 1, maxBatch),
		delay: bounded(time.Duration(request.GetMaxDelayMilliseconds())*time.Millisecond, defaultDelay, minDelay, maxDelay),
		now:   time.Now,
	}
	if err := s.Query(stream.Context(), &inner, b); err != nil {
		return err
	}
	return b.flush()
}

func bounded[T int | time.Duration](value, preset, low, high T) T {
	if value == 0 {
		return preset
	}
	return min(max(value, low), high)
}

// batcher collects responses. Its limit is in items and, well below gRPC's 4 MiB per message, in bytes.
type batcher struct {
	send  func(*fairleadv1.WatchFlowsResponse) error
	limit int
	delay time.Duration
	now   func() time.Time
	batch [][]byte
	bytes int
	since time.Time
}

const maxBatchBytes = 1 << 20

func (b *batcher) Send(response *observerpb.GetFlowsResponse) error {
	raw, err := proto.Marshal(response)
	if err != nil {
		return fmt.Errorf("serialising a flow: %w", err)
	}
	if len(b.batch) == 0 {
		b.since = b.now()
	}
	b.batch = append(b.batch, raw)
	b.bytes += len(raw)
	if len(b.batch) >= b.limit || b.bytes >= maxBatchBytes || b.now().Sub(b.since) >= b.delay {
		return b.flush()
	}
	return nil
}

func (b *batcher) Idle() (time.Duration, error) {
	if len(b.batch) == 0 {
		return 0, nil
	}
	if left := b.delay - b.now().Sub(b.since); left > 0 {
		return left, nil
	}
	return 0, b.flush()
}

func (b *batcher) flush() error {
	if len(b.batch) == 0 {
		return nil
	}
	err := b.send(&fairleadv1.WatchFlowsResponse{Responses: b.batch})
	b.batch, b.bytes = nil, 0
	return err
}
