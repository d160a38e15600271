package statefile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/smalldisk"
)

func TestFullDiskLeavesTheLastWholeFile(t *testing.T) {
	directory := smalldisk.New(t)
	path := filepath.Join(directory, "state.json")
	if err := Write(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, make([]byte, 1<<20)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want that there is no room", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "first" {
		t.Errorf("found %q, %v", text, err)
	}
	if left, err := os.ReadDir(directory); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := Write(path, []byte("second")); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
