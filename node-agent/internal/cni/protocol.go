// Package cni is both halves of the CNI plugin: what the container runtime executes on the node, and the server in the
// agent that it asks. The plugin makes the pod's interface, because it runs where the pod's namespace is reachable; all
// decisions are the agent's.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"fairlead.dev/node-agent/internal/datapath/podlink"
	"fairlead.dev/node-agent/internal/endpoints"
)

// Paths that plugin and agent share; the plugin runs on the node, the agent's container mounts them at the same place.
const (
	Socket     = "/var/run/fairlead/cni.sock"
	Tombstones = "/var/run/fairlead/deleted"
)

// Request is what the plugin sends; fields are filled as the verb needs them.
type Request struct {
	endpoints.Request
	Link podlink.Details `json:"link"`
	// Valid are the attachments that exist, for GC: "container/interface".
	Valid []string `json:"valid,omitempty"`
}

// Reply is what the agent answers.
type Reply struct {
	// Addresses of the pod, and for each the router's of its family.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Routers   []netip.Addr `json:"routers,omitempty"`
	MTU       int          `json:"mtu,omitempty"`
	// HostInterface is the host end of an attached pod.
	HostInterface string `json:"hostInterface,omitempty"`
	Error         string `json:"error,omitempty"`
	// Temporary asks the runtime to try again later.
	Temporary bool `json:"temporary,omitempty"`
}

// Tombstone records a DEL that came while the agent was away.
type Tombstone struct {
	ContainerID      string `json:"containerID"`
	NetworkInterface string `json:"networkInterface"`
}

func bury(directory string, t Tombstone) error {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return fmt.Errorf("recording the removal: %w", err)
	}
	text, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("recording the removal: %w", err)
	}
	path := filepath.Join(directory, filepath.Base(t.ContainerID)+"-"+filepath.Base(t.NetworkInterface)+".json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("recording the removal: %w", err)
	}
	return nil
}

// ProcessTombstones carries out the removals that were recorded; each file goes when its endpoint is gone.
func ProcessTombstones(ctx context.Context, directory string, detach func(ctx context.Context, containerID, networkInterface string) error) error {
	files, err := os.ReadDir(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading recorded removals: %w", err)
	}
	var errs []error
	for _, f := range files {
		path := filepath.Join(directory, f.Name())
		text, err := os.ReadFile(path)
		var t Tombstone
		if err == nil {
			err = json.Unmarshal(text, &t)
		}
		if err == nil {
			err = detach(ctx, t.ContainerID, t.NetworkInterface)
		}
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("carrying out %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}
