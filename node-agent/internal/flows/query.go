package flows

import (
	"context"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// readBatch is how many records a reader copies out at a time.
const readBatch = 128

// ringLossInterval is the least time between two messages to one reader about flows that it was too slow for.
const ringLossInterval = time.Second

// Output takes the responses of a query.
type Output interface {
	// Send passes one response on.
	Send(*observerpb.GetFlowsResponse) error
	// Idle is called before the query waits for new flows. It returns for how long the query may wait until Idle has to
	// be called again; 0 means as long as it likes.
	Idle() (time.Duration, error)
}

// SendFunc is an Output that sends at once.
type SendFunc func(*observerpb.GetFlowsResponse) error

// Send calls the function.
func (f SendFunc) Send(response *observerpb.GetFlowsResponse) error { return f(response) }

// Idle has nothing to do.
func (f SendFunc) Idle() (time.Duration, error) { return 0, nil }

// Query runs a GetFlows request: it sends what matches, oldest first, and returns when there is no more of it, or, with
// follow, when ctx ends. Its meaning of number, first, since, until and follow is Hubble's. Whatever this reader was too
// slow for, and whatever the kernel lost, is sent as lost events; filters do not hide them. Errors of a wrong request
// carry the gRPC code InvalidArgument.
func (s *Store) Query(ctx context.Context, request *observerpb.GetFlowsRequest, out Output) error {
	q, err := s.newQuery(request, out)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	q.rewind()
	return q.run(ctx)
}

// query is one reader.
type query struct {
	store        *Store
	out          Output
	filter       *filter
	mask         fieldMask
	follow       bool
	first        bool
	number       uint64
	since, until int64
	cursor       uint64
	sent         uint64
	buffer       [readBatch]record
	// lost is what this reader missed and has not been told of yet.
	lost         uint64
	lostFirst    time.Time
	lostLast     time.Time
	lostReported time.Time
}

func (s *Store) newQuery(request *observerpb.GetFlowsRequest, out Output) (*query, error) {
	if request.GetFirst() && request.GetFollow() {
		return nil, errFirstWithFollow
	}
	q := &query{
		store: s, out: out, follow: request.GetFollow(), first: request.GetFirst(), number: request.GetNumber(),
	}
	for _, bound := range []struct {
		in  *timestamppb.Timestamp
		out *int64
	}{{request.GetSince(), &q.since}, {request.GetUntil(), &q.until}} {
		if bound.in == nil {
			continue
		}
		if err := bound.in.CheckValid(); err != nil {
			return nil, err
		}
		*bound.out = bound.in.AsTime().UnixNano()
	}
	var err error
	if q.filter, err = newFilter(request.GetWhitelist(), request.GetBlacklist()); err != nil {
		return nil, err
	}
	if q.mask, err = newFieldMask(request.GetFieldMask()); err != nil {
		return nil, err
	}
	return q, nil
}

// rewind sets the cursor to the record that the answer begins with.
func (q *query) rewind() {
	oldest, next := q.store.ring.bounds()
	switch {
	case q.first && q.since == 0:
		q.cursor = oldest
		return
	case q.follow && q.number == 0 && q.since == 0:
		q.cursor = next
		return
	}
	q.cursor = next
	var matches uint64
	for q.cursor > oldest {
		from := oldest
		if q.cursor-oldest > readBatch {
			from = q.cursor - readBatch
		}
		first, n := q.store.ring.read(from, q.buffer[:q.cursor-from])
		for i := n - 1; i >= 0; i-- {
			r := &q.buffer[i]
			sequence := first + uint64(i)
			if r.has(bitLost) || !q.matches(r, sequence) {
				continue
			}
			if q.since != 0 && r.time < q.since {
				q.cursor = sequence + 1
				return
			}
			matches++
			if q.since == 0 && matches == q.number {
				q.cursor = sequence
				return
			}
		}
		if first > from {
			// The writers have caught up with us: what is here now is the oldest there is.
			q.cursor = first
			return
		}
		q.cursor = from
	}
}

func (q *query) matches(r *record, sequence uint64) bool {
	v := q.store.view(r, sequence)
	return q.filter.passes(&v)
}

func (q *query) run(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		first, n := q.store.ring.read(q.cursor, q.buffer[:])
		if missed := first - q.cursor; missed > 0 {
			q.addLost(missed)
		}
		if err := q.reportLost(false); err != nil {
			return err
		}
		for i := range n {
			done, err := q.handle(&q.buffer[i], first+uint64(i))
			if err != nil {
				return err
			}
			if done {
				return q.reportLost(true)
			}
		}
		q.cursor = first + uint64(n)
		if n > 0 {
			// A batch must not wait for its time because none of many flows matches.
			if _, err := q.out.Idle(); err != nil {
				return err
			}
			continue
		}
		if !q.follow {
			return q.reportLost(true)
		}
		if err := q.wait(ctx); err != nil {
			return err
		}
	}
}

// handle sends one record if it is asked for; done is true when the answer is complete.
func (q *query) handle(r *record, sequence uint64) (done bool, err error) {
	s := q.store
	if r.has(bitLost) {
		return false, q.send(lostEvent(r), timestamppb.New(time.Unix(0, r.time)))
	}
	if q.until != 0 && r.time > q.until {
		return true, nil
	}
	if q.since != 0 && r.time < q.since || !q.matches(r, sequence) {
		return false, nil
	}
	if !q.follow && q.number > 0 && q.sent >= q.number {
		return true, nil
	}
	flow := s.flow(r, sequence)
	response := &observerpb.GetFlowsResponse{
		Time:          flow.GetTime(),
		NodeName:      flow.GetNodeName(),
		ResponseTypes: &observerpb.GetFlowsResponse_Flow{Flow: flow},
	}
	q.mask.prune(flow.ProtoReflect())
	q.sent++
	if err := q.out.Send(response); err != nil {
		return false, err
	}
	return !q.follow && q.number > 0 && q.sent >= q.number, nil
}

func (q *query) send(lost *flowpb.LostEvent, at *timestamppb.Timestamp) error {
	return q.out.Send(&observerpb.GetFlowsResponse{
		Time:          at,
		NodeName:      q.store.AbsoluteNodeName(),
		ResponseTypes: &observerpb.GetFlowsResponse_LostEvents{LostEvents: lost},
	})
}

func (q *query) addLost(missed uint64) {
	now := q.store.options.Now()
	if q.lost == 0 {
		q.lostFirst = now
	}
	q.lost += missed
	q.lostLast = now
	q.store.ringLost.Add(missed)
}

// reportLost tells the reader what it missed, at most once a second unless it is the end.
func (q *query) reportLost(end bool) error {
	now := q.store.options.Now()
	if q.lost == 0 || !end && now.Sub(q.lostReported) < ringLossInterval {
		return nil
	}
	lost := &flowpb.LostEvent{
		Source:        flowpb.LostEventSource_HUBBLE_RING_BUFFER,
		NumEventsLost: q.lost,
		First:         timestamppb.New(q.lostFirst),
		Last:          timestamppb.New(q.lostLast),
	}
	q.lost, q.lostReported = 0, now
	return q.send(lost, timestamppb.New(now))
}

// wait blocks until there is something to do: a new record, a batch to flush, or a loss to report.
func (q *query) wait(ctx context.Context) error {
	timeout, err := q.out.Idle()
	if err != nil {
		return err
	}
	if q.lost > 0 && (timeout == 0 || timeout > ringLossInterval) {
		timeout = ringLossInterval
	}
	q.store.ring.wait(ctx, q.cursor, timeout)
	return nil
}

var errFirstWithFollow = errorText("first cannot be specified with follow")

// errorText is a constant error.
type errorText string

func (e errorText) Error() string { return string(e) }
