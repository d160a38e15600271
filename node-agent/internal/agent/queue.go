package agent

import (
	"context"
	"sync"
)

// queue is a set of keys that one worker takes out; a key that is added again meanwhile is taken again.
type queue struct {
	mu    sync.Mutex
	keys  map[string]struct{}
	order []string
	wake  chan struct{}
}

func newQueue() *queue { return &queue{keys: map[string]struct{}{}, wake: make(chan struct{}, 1)} }

func (q *queue) add(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, there := q.keys[key]; !there {
		q.keys[key] = struct{}{}
		q.order = append(q.order, key)
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) take() (string, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return "", false
	}
	key := q.order[0]
	q.order = q.order[1:]
	delete(q.keys, key)
	return key, true
}

// run calls do for every key until ctx ends.
func (q *queue) run(ctx context.Context, do func(key string)) {
	for {
		for key, ok := q.take(); ok && ctx.Err() == nil; key, ok = q.take() {
			do(key)
		}
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		}
	}
}
