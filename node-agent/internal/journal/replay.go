package journal

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Undo is what Replay did about one entry.
type Undo struct {
	Entry Entry
	// Done says in a few words what was done.
	Done string
	Err  error
}

// withDatapath undoes what the datapath removes by itself, before the journal is replayed.
const withDatapath = "fairlead-agent cleanup"

// System is what Replay works on; tests give another.
type System interface {
	// RemoveLink deletes an interface; nil where there is none of that name.
	RemoveLink(name string) error
	// RemoveNftables deletes a table, named "family name".
	RemoveNftables(table string) error
	// Run runs the undo command of routes and rules.
	Run(command string) error
	WriteFile(path, content string) error
	ReadFile(path string) (string, error)
	// Remove deletes a file or a directory with all below it; nil where there is none.
	Remove(path string) error
	// Rename puts a file back; nil where it is gone.
	Rename(from, to string) error
}

// Replay undoes the entries backwards. Each subject is undone once, to the value that was found first. It goes on after
// an error, so that one refused change does not keep the others.
func Replay(entries []Entry, s System) []Undo {
	first := map[[2]string]Entry{}
	for _, e := range entries {
		key := [2]string{e.Kind, e.Subject}
		if _, ok := first[key]; !ok {
			first[key] = e
		}
	}
	var out []Undo
	done := map[[2]string]bool{}
	for _, e := range slices.Backward(entries) {
		key := [2]string{e.Kind, e.Subject}
		if done[key] {
			continue
		}
		done[key] = true
		what, err := undo(first[key], s)
		out = append(out, Undo{Entry: e, Done: what, Err: err})
	}
	return out
}

func undo(e Entry, s System) (string, error) {
	switch e.Kind {
	case "sysctl":
		path := "/proc/sys/" + strings.ReplaceAll(e.Subject, ".", "/")
		if strings.Contains(e.Subject, "/") {
			path = "/proc/sys/" + e.Subject
		}
		now, err := s.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return "gone with its interface", nil
		}
		if err == nil && strings.TrimSpace(now) != strings.TrimSpace(e.After) {
			return fmt.Sprintf("left at %q, which somebody else set", strings.TrimSpace(now)), nil
		}
		if e.Before == "" && strings.HasSuffix(e.Undo, `=""`) {
			// A list that was empty; writing nothing at all would change nothing.
			return "emptied again", s.WriteFile(path, "\n")
		}
		if e.Before == "" {
			return "nothing to go back to", nil
		}
		return "set back to " + e.Before, s.WriteFile(path, e.Before)
	case "link":
		return "removed", s.RemoveLink(e.Subject)
	case "nftables":
		return "removed", s.RemoveNftables(e.Subject)
	case "file":
		if e.Before != "" && strings.HasPrefix(e.Undo, "mv ") {
			words := strings.Fields(e.Undo)
			return "put back", s.Rename(words[1], words[2])
		}
		return "removed", s.Remove(e.Subject)
	case "pin":
		return "unpinned", s.Remove(e.Subject)
	case "program", "cgroup":
		return "detached with its pin", nil
	case "qdisc":
		return "removed with the datapath", nil
	case "route", "rule":
		if e.Undo == "" {
			return "gone with its interface", nil
		}
		if e.Undo == withDatapath {
			return "removed with the datapath", nil
		}
		return "removed", s.Run(e.Undo)
	default:
		if e.Undo == "" {
			return "", fmt.Errorf("kind %q is not known and there is no undo command", e.Kind)
		}
		return "ran " + e.Undo, s.Run(e.Undo)
	}
}

// RunCommand runs an undo command without a shell; a missing program is an error.
func RunCommand(command string) error {
	words := strings.Fields(command)
	if len(words) == 0 {
		return nil
	}
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Remove deletes all records; for the end of a cleanup.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_ = os.Remove(filepath.Dir(path)) // only where nothing else is in it
	return nil
}
