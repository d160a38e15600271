package endpoints

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"fairlead.dev/node-agent/internal/smalldisk"
)

// On a full disk a change is refused, and what was saved before stays whole: a restart finds the endpoints as they were.
func TestFullDiskKeepsWhatWasSaved(t *testing.T) {
	directory := smalldisk.New(t)
	s := store{directory}
	saved := Endpoint{ID: 7, Namespace: "default", PodName: "web", Labels: []string{"k8s:app=web"}}
	if err := s.save(saved); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(directory, "ballast"), make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the file system is not full")
	}
	changed := saved
	changed.Labels = []string{"k8s:app=other"}
	if err := s.save(changed); err == nil {
		t.Error("a change was saved on a full disk")
	}
	if err := s.save(Endpoint{ID: 8, Namespace: "default", PodName: "new"}); err == nil {
		t.Error("a new endpoint was saved on a full disk")
	}
	found, err := s.load()
	if err != nil || len(found) != 1 || !slices.Equal(found[0].Labels, saved.Labels) {
		t.Errorf("found %+v, %v", found, err)
	}
	// With room again everything is as usual.
	if err := os.Remove(filepath.Join(directory, "ballast")); err != nil {
		t.Fatal(err)
	}
	if err := s.save(changed); err != nil {
		t.Error(err)
	}
}
