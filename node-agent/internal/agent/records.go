package agent

import (
	"errors"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/journal"
)

// records is the journal for the datapath, with what status says of it. Nothing is changed on the node that an uninstall would
// not know of: what the journal does not take is not done, and tried again by whoever wants it.
type records struct {
	journal    *journal.Journal
	components *components
	path       string
}

func (r *records) record(e journal.Entry) error {
	err := r.journal.Record(e.Kind, e.Subject, e.Before, e.After, e.Undo)
	if err != nil {
		r.components.fail("journal", errors.Join(errors.New("a change of this node cannot be recorded and is not made"), err), "Make room on the node's disk, below "+r.path+".")
	}
	return err
}

// look says whether there is room for what will have to be recorded.
func (r *records) look() {
	if err := r.journal.Reserve(); err != nil {
		r.components.set("journal", api.StateDegraded, err.Error()+"; when what is kept is used up, the agent changes nothing on this node that would have to be recorded",
			"Make room on the node's disk, below "+r.path+".")
		return
	}
	r.components.ok("journal", r.path)
}
