package endpoints

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// On a full disk a change is refused, and what was saved before stays whole: a restart finds the endpoints as they were.
func TestFullDiskKeepsWhatWasSaved(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a file system that is full")
	}
	directory := t.TempDir()
	if err := unix.Mount("tmpfs", directory, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(directory, unix.MNT_DETACH) })
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
