package cni

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Names of what is installed on the node.
const (
	BinaryName   = "fairlead-cni"
	ConflistName = "05-fairlead.conflist"
	// asideSuffix marks configurations of others that were set aside.
	asideSuffix = ".fairlead-aside"
)

// conflist is the network configuration; runtimes of CNI 1.0 read cniVersion, those of 1.1 cniVersions.
const conflist = `{
  "cniVersion": "1.0.0",
  "cniVersions": ["1.0.0", "1.1.0"],
  "name": "fairlead",
  "plugins": [
    { "type": "fairlead-cni" }
  ]
}
`

// InstallBinary copies the running program to the directory of CNI plugins, unless the same is there already. The file
// appears as a whole: a runtime that executes it meanwhile gets the old or the new one.
func InstallBinary(directory string) (path string, err error) {
	path = filepath.Join(directory, BinaryName)
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("reading the agent's program: %w", err)
	}
	defer self.Close()
	if same, err := sameContent(self, path); err == nil && same {
		return path, nil
	}
	if _, err := self.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("reading the agent's program: %w", err)
	}
	temporary, err := os.CreateTemp(directory, "."+BinaryName+"-")
	if err != nil {
		return "", fmt.Errorf("installing the CNI plugin: %w", err)
	}
	defer os.Remove(temporary.Name())
	_, err = io.Copy(temporary, self)
	err = errors.Join(err, temporary.Chmod(0o755), temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("installing the CNI plugin: %w", err)
	}
	return path, nil
}

func sameContent(a *os.File, path string) (bool, error) {
	b, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer b.Close()
	sa, errA := a.Stat()
	sb, errB := b.Stat()
	if err := errors.Join(errA, errB); err != nil || sa.Size() != sb.Size() {
		return false, err
	}
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, errX := io.ReadFull(a, x)
		m, errY := io.ReadFull(b, y)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if errX != nil || errY != nil {
			return errors.Is(errX, io.EOF) || errors.Is(errX, io.ErrUnexpectedEOF), nil
		}
	}
}

// Others lists configurations of other networks, sorted.
func Others(directory string) ([]string, error) {
	files, err := os.ReadDir(directory)
	if err != nil {
		return nil, fmt.Errorf("reading the CNI configurations: %w", err)
	}
	var out []string
	for _, f := range files {
		if f.Name() != ConflistName && slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(f.Name())) {
			out = append(out, f.Name())
		}
	}
	return out, nil
}

// AsideIn lists configurations of others that are still set aside.
func AsideIn(directory string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(directory, "*"+asideSuffix))
	if err != nil {
		return nil, fmt.Errorf("looking for configurations set aside: %w", err)
	}
	for i, f := range files {
		files[i] = filepath.Base(f)
	}
	return files, nil
}

// SetAside renames the configurations of others, so that runtimes do not see them; record is told before each.
func SetAside(directory string, names []string, record func(kind, subject, before, after, undo string) error) error {
	for _, name := range names {
		from := filepath.Join(directory, name)
		to := from + asideSuffix
		if err := record("file", from, name, filepath.Base(to), "mv "+to+" "+from); err != nil {
			return err
		}
		if err := os.Rename(from, to); err != nil {
			return fmt.Errorf("setting %s aside: %w", name, err)
		}
	}
	return nil
}

// WriteConflist makes the network known to the runtime; the file appears as a whole.
func WriteConflist(directory string) error {
	path := filepath.Join(directory, ConflistName)
	if have, err := os.ReadFile(path); err == nil && string(have) == conflist {
		return nil
	}
	temporary, err := os.CreateTemp(directory, "."+strings.TrimSuffix(ConflistName, ".conflist")+"-")
	if err != nil {
		return fmt.Errorf("writing the CNI configuration: %w", err)
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.WriteString(conflist)
	err = errors.Join(err, temporary.Chmod(0o644), temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing the CNI configuration: %w", err)
	}
	return nil
}
