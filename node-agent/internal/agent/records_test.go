package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/journal"
	"fairlead.dev/node-agent/internal/smalldisk"
)

// On a full disk changes are recorded for as long as what is kept ahead lasts, and then refused: status says both, and what to do.
func TestFullDiskRefusesWhatItCannotRecord(t *testing.T) {
	directory := smalldisk.New(t)
	path, ballast := filepath.Join(directory, "journal.jsonl"), filepath.Join(directory, "ballast")
	j, err := journal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	r := &records{journal: j, components: newComponents(slog.New(slog.DiscardHandler)), path: path}
	entry := func(n int) journal.Entry {
		name := fmt.Sprintf("net/ipv4/n%d", n)
		return journal.Entry{Kind: "sysctl", Subject: name, Before: "0", After: "1", Undo: "sysctl -w " + name + "=0 " + strings.Repeat("x", 1000)}
	}
	state := func() api.Component { return r.components.list()[0] }
	if err := r.record(entry(0)); err != nil {
		t.Fatal(err)
	}
	if r.look(); state().State != api.StateOK {
		t.Fatalf("with room: %+v", state())
	}
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the file system is not full")
	}
	done := 1
	for ; done < 100; done++ {
		if err = r.record(entry(done)); err != nil {
			break
		}
		if r.look(); state().State != api.StateDegraded && done > 4 {
			t.Errorf("after %d changes on a full disk: %+v", done, state())
		}
	}
	if done < 10 || done == 100 || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%d changes were recorded, then %v", done, err)
	}
	if s := state(); s.State != api.StateFailing || !strings.Contains(s.Message, "not made") || !strings.Contains(s.Message, "no space left") || !strings.Contains(s.Fix, "Make room") {
		t.Errorf("of a change that was refused: %+v", s)
	}
	if found, err := j.Entries(); err != nil || len(found) != done {
		t.Errorf("on a full disk there are %d entries of %d, %v", len(found), done, err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if r.look(); state().State != api.StateOK {
		t.Errorf("with room again: %+v", state())
	}
	if err := r.record(entry(done)); err != nil {
		t.Error(err)
	}
}
