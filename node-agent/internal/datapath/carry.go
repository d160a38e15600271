package datapath

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
)

// carried are the maps whose entries go along when the layout's version changes, up or down by one: without the endpoints
// an agent would take its pods for gone, and without connections, translations and policy it would cut what is open. The other maps are
// written again by the agent within a second.
//
// An entry is carried over where key and value have the same sizes in both versions. So a structure of these that changes
// its meaning has to change its size as well, or the map its name.
var carried = map[string]bool{
	"endpoints": true, "interfaces": true, "namespaces": true, "ipcache": true, "policy": true, "connections": true, "openings": true,
	"nat": true, "nat_openings": true,
}

var pinName = regexp.MustCompile(`^(.+)_v(\d+)$`)

// neighbourPins are the pins of a map under the version before and the one after ours.
func neighbourPins(directory, name string) []string {
	return []string{
		filepath.Join(directory, fmt.Sprintf("%s_v%d", name, layoutVersion-1)),
		filepath.Join(directory, fmt.Sprintf("%s_v%d", name, layoutVersion+1)),
	}
}

// carryOver fills a map that was just made with what an agent of another version left. It gives where that came from; ""
// where there is nothing to carry.
func carryOver(m *ebpf.Map, directory, name string) (from string, err error) {
	if !carried[name] {
		return "", nil
	}
	for _, pin := range neighbourPins(directory, name) {
		old, err := ebpf.LoadPinnedMap(pin, nil)
		if err != nil {
			continue
		}
		defer old.Close()
		if old.Type() != m.Type() || old.KeySize() != m.KeySize() || old.ValueSize() != m.ValueSize() {
			continue
		}
		if err := copyEntries(m, old, ebpf.UpdateAny); err != nil {
			return pin, fmt.Errorf("taking over %s: %w", pin, err)
		}
		return pin, nil
	}
	return "", nil
}

// removeOtherPins removes maps of other versions once our programs are on all hooks: nothing reads them any more. Those of
// pods' connections are kept by the programs until then.
func (k *kernel) removeOtherPins() error {
	entries, err := os.ReadDir(k.mapDirectory())
	if err != nil {
		return fmt.Errorf("listing maps: %w", err)
	}
	for _, e := range entries {
		parts := pinName.FindStringSubmatch(e.Name())
		// An agent that ended while it made a map larger may have left that one.
		if !strings.HasSuffix(e.Name(), largerSuffix) {
			if parts == nil {
				continue
			}
			if version, err := strconv.Atoi(parts[2]); err != nil || version == layoutVersion {
				continue
			}
		}
		if err := os.Remove(filepath.Join(k.mapDirectory(), e.Name())); err != nil {
			return fmt.Errorf("removing the map %s: %w", e.Name(), err)
		}
		k.options.log.Info("a map of another version of the agent was removed", "pin", e.Name())
	}
	return nil
}
