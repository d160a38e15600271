package agent

import (
	"fmt"
	"sync"

	"fairlead.dev/node-agent/internal/journal"
)

// records keeps what the datapath changes on the node and the journal did not take, as on a full disk, and tries again: an
// uninstall would not know how it was before.
type records struct {
	mu         sync.Mutex
	journal    *journal.Journal
	components *components
	path       string
	waiting    []journal.Entry
}

func (r *records) record(e journal.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(r.waiting, e)
	r.write()
}

// again tries what is still waiting.
func (r *records) again() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) > 0 {
		r.write()
	}
}

// write records what is waiting, in its order.
func (r *records) write() {
	for len(r.waiting) > 0 {
		e := r.waiting[0]
		if err := r.journal.Record(e.Kind, e.Subject, e.Before, e.After, e.Undo); err != nil {
			r.components.fail("journal", fmt.Errorf("%d changes on this node are not recorded yet: %w", len(r.waiting), err),
				"Make room on the node's disk, below "+r.path+"; the agent tries again every 2 s.")
			return
		}
		r.waiting = r.waiting[1:]
	}
	r.components.ok("journal", r.path)
}
