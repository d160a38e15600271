package edges

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
)

const (
	defaultInterval = time.Second
	minInterval     = 200 * time.Millisecond
	maxInterval     = time.Minute

	// edgesPerMessage keeps a message well below gRPC's 4 MiB.
	edgesPerMessage = 2000
)

// WatchEdges implements AgentService.WatchEdges: one batch per interval, also when it is empty, so that the reader knows
// that nothing happened. A large batch is sent as several messages of the same time; loss and overflow are in the first.
func (a *Aggregator) WatchEdges(
	request *fairleadv1.WatchEdgesRequest, stream grpc.ServerStreamingServer[fairleadv1.WatchEdgesResponse],
) error {
	interval := time.Duration(request.GetIntervalMilliseconds()) * time.Millisecond
	if interval == 0 {
		interval = defaultInterval
	}
	ticker := time.NewTicker(min(max(interval, minInterval), maxInterval))
	defer ticker.Stop()
	t := a.open()
	defer a.close(t)
	// Headers at once: the client knows that it is connected before the first interval has passed.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	lost := a.store.Stats().KernelLost
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-ticker.C:
		}
		edges, overflow := a.take(t)
		lostNow := a.store.Stats().KernelLost
		for _, batch := range messages(a.store.Node().Name, edges, lostNow-lost, overflow, time.Now()) {
			if err := stream.Send(batch); err != nil {
				return err
			}
		}
		lost = lostNow
	}
}

func messages(
	node string, edges map[key]*counts, lost, overflow uint64, now time.Time,
) []*fairleadv1.WatchEdgesResponse {
	batch := &fairleadv1.WatchEdgesResponse{
		NodeName: node, Time: timestamppb.New(now), Lost: lost, Overflow: overflow,
	}
	batches := []*fairleadv1.WatchEdgesResponse{batch}
	for k, c := range edges {
		if len(batch.Edges) >= edgesPerMessage {
			batch = &fairleadv1.WatchEdgesResponse{NodeName: node, Time: batch.Time}
			batches = append(batches, batch)
		}
		batch.Edges = append(batch.Edges, message(k, c))
	}
	return batches
}
