// Package statefile writes the agent's small files of state so that a full disk or a crash leaves the last whole one.
package statefile

import (
	"errors"
	"fmt"
	"os"
)

// Write replaces a file by one with the given content, or leaves it as it is.
func Write(path string, content []byte) error {
	temporary := path + ".new"
	err := os.WriteFile(temporary, content, 0o600)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		// What is half written takes room that is short.
		if removal := os.Remove(temporary); removal != nil && !errors.Is(removal, os.ErrNotExist) {
			err = errors.Join(err, removal)
		}
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
