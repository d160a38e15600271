package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/journal"
	"fairlead.dev/node-agent/internal/smalldisk"
)

// On a full disk status says so and what to do; with room again everything is recorded, in its order, and status is as before.
func TestFullDiskLosesNoRecord(t *testing.T) {
	directory := smalldisk.New(t)
	path, ballast := filepath.Join(directory, "journal.jsonl"), filepath.Join(directory, "ballast")
	j, err := journal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	r := &records{journal: j, components: newComponents(slog.New(slog.DiscardHandler)), path: path}
	entry := func(n string) journal.Entry {
		return journal.Entry{Kind: "sysctl", Subject: "net/ipv4/" + n, Before: "0", After: "1", Undo: "sysctl -w net/ipv4/" + n + "=0 " + strings.Repeat("x", 5000)}
	}
	state := func() api.Component { return r.components.list()[0] }
	r.record(entry("first"))
	if s := state(); s.State != api.StateOK {
		t.Fatalf("with room: %+v", s)
	}
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the file system is not full")
	}
	r.record(entry("second"))
	r.record(entry("third"))
	if s := state(); s.State != api.StateFailing || !strings.Contains(s.Message, "2 changes") || !strings.Contains(s.Message, "no space left") || !strings.Contains(s.Fix, "Make room") {
		t.Errorf("on a full disk: %+v", s)
	}
	r.again()
	if found, err := j.Entries(); err != nil || len(found) != 1 {
		t.Errorf("on a full disk there are %d entries, %v", len(found), err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	r.again()
	found, err := j.Entries()
	if err != nil || len(found) != 3 {
		t.Fatalf("with room again there are %d entries, %v", len(found), err)
	}
	for i, n := range []string{"first", "second", "third"} {
		if found[i].Subject != "net/ipv4/"+n || found[i].Before != "0" {
			t.Errorf("entry %d is %+v", i, found[i])
		}
	}
	if s := state(); s.State != api.StateOK {
		t.Errorf("with room again: %+v", s)
	}
}
