// Package crds carries the custom resource definitions, generated from api/ciliumio by generate.sh.
package crds

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
)

//go:embed *.yaml
var files embed.FS

// Manifest is one custom resource definition.
type Manifest struct {
	// Name is the file's, e.g. cilium.io_ciliumnodes.yaml.
	Name string
	YAML []byte
}

// All lists the definitions, sorted by name.
func All() ([]Manifest, error) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, fmt.Errorf("listing embedded custom resource definitions: %w", err)
	}
	slices.Sort(names)
	out := make([]Manifest, 0, len(names))
	for _, name := range names {
		content, err := files.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading embedded %s: %w", name, err)
		}
		out = append(out, Manifest{Name: name, YAML: content})
	}
	return out, nil
}
