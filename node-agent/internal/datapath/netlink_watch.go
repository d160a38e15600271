package datapath

import (
	"context"
	"errors"
	"time"
)

// subscription is to changes of one kind that the kernel tells of by netlink, until the context that it was made with ends.
type subscription[T any] struct {
	changes chan T
	// lost gets why no more changes come.
	lost chan error
}

// subscribe opens a subscription in a namespace. `open` passes the channel and the callback for errors on to netlink.
func subscribe[T any](ns *namespace, open func(changes chan<- T, lost func(error)) error) (subscription[T], error) {
	s := subscription[T]{changes: make(chan T, 64), lost: make(chan error, 1)}
	return s, ns.do(func() error {
		return open(s.changes, func(err error) {
			select {
			case s.lost <- err:
			default:
			}
		})
	})
}

// until waits for a change of which `ends` says so, for `again`, or for ctx's end. An error means that the subscription ended, so
// that changes may have been missed.
func (s subscription[T]) until(ctx context.Context, again <-chan time.Time, ends func(T) bool) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again:
			return nil
		case err := <-s.lost:
			return err
		case change, ok := <-s.changes:
			if !ok {
				return errors.New("the kernel ended the subscription")
			}
			if ends(change) {
				return nil
			}
		}
	}
}
