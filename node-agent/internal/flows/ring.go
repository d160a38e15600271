package flows

import (
	"context"
	"sync"
	"time"
)

// ring holds the newest records. Writers append one at a time, readers copy batches out under the same short lock and do
// their filtering and decoding outside of it; each reader has its own cursor, so that a slow one only loses for itself.
type ring struct {
	mu    sync.Mutex
	slots []record
	// next is the sequence number that the next record gets; records [oldest, next) are readable.
	next uint64
	// wake is closed and replaced when a record arrives while somebody waits.
	wake    chan struct{}
	waiting int
}

// newRing makes a ring that holds capacity records, which is rounded up to 2^n-1 as in Hubble.
func newRing(capacity int) *ring {
	slots := 2
	for slots-1 < capacity {
		slots *= 2
	}
	return &ring{slots: make([]record, slots), wake: make(chan struct{})}
}

func (r *ring) capacity() int { return len(r.slots) - 1 }

// oldestLocked is the sequence number of the oldest record that is still there.
func (r *ring) oldestLocked() uint64 {
	if held := uint64(r.capacity()); r.next > held {
		return r.next - held
	}
	return 0
}

func (r *ring) slot(sequence uint64) *record { return &r.slots[sequence&uint64(len(r.slots)-1)] }

// append stores a copy of the record, over the oldest one when the ring is full.
func (r *ring) append(rec *record) {
	r.mu.Lock()
	*r.slot(r.next) = *rec
	r.next++
	if r.waiting > 0 {
		close(r.wake)
		r.wake = make(chan struct{})
		r.waiting = 0
	}
	r.mu.Unlock()
}

// bounds gives the readable range [oldest, next).
func (r *ring) bounds() (oldest, next uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.oldestLocked(), r.next
}

// read copies records from cursor on. first is the sequence number of the first one copied; it is greater than cursor
// when records in between have been overwritten.
func (r *ring) read(cursor uint64, into []record) (first uint64, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first = max(cursor, r.oldestLocked())
	for n < len(into) && first+uint64(n) < r.next {
		into[n] = *r.slot(first + uint64(n))
		n++
	}
	return first, n
}

// wait returns when there is a record at cursor or later, when ctx ends, or after timeout (0: no timeout).
func (r *ring) wait(ctx context.Context, cursor uint64, timeout time.Duration) {
	r.mu.Lock()
	if r.next > cursor {
		r.mu.Unlock()
		return
	}
	wake := r.wake
	r.waiting++
	r.mu.Unlock()
	var expired <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-wake:
	case <-expired:
	case <-ctx.Done():
	}
}
