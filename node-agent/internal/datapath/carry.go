package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
)

// carried are the maps whose entries go along when the layout's version changes, up or down by one, in this order: without the
// endpoints an agent would take its pods for gone, and without connections, translations, services and policy it would cut what
// is open. So do what the agent was told and knows again only when it has heard of everything (nodes' numbers, how they send,
// exemptions from masquerading, refused networks): an API server that is away would leave a node without. The other maps are
// written again with the agent's start, or hold what is over as soon.
//
// An entry goes along by the names of its fields (convert.go). So a field that changes its meaning has to change its name as
// well, and zero in a new field has to mean what was true before there was one.
var carried = []string{
	"endpoints", "interfaces", "namespaces", "rates", "tunnels", "plain_nodes", "ipcache", "blocks", "policy", "backends", "slots",
	"services", "source_ranges", "affinity", "sockets", "connections", "openings", "nat", "nat_openings", "unmasqueraded", "refused4",
	"refused6",
}

var pinName = regexp.MustCompile(`^(.+)_v(\d+)$`)

// numbersOf are maps by whose numbers another one has its entries: they would mean nobody, or somebody else later, if these
// started anew.
var numbersOf = map[string][]string{"slots": {"backends"}, "services": {"backends", "slots"}, "source_ranges": {"services"}, "affinity": {"services"}}

// writtenByPackets are those of them that packets write while the agent loads its programs.
var writtenByPackets = map[string]bool{"affinity": true, "sockets": true, "connections": true, "openings": true, "nat": true, "nat_openings": true}

// Carried is what became of a map that an agent of another version left.
type Carried struct {
	Map string
	// Pin is the one that it was left under.
	Pin string
	// Entries were taken over, Lost were not.
	Entries, Lost int
	// Problem says why entries were lost; "" where none was.
	Problem string
}

// CarriedOver implements Datapath.
func (k *kernel) CarriedOver() (out []Carried) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.carried)
}

// neighbourPins are the pins of a map under the version before and the one after ours.
func neighbourPins(directory, name string) []string {
	return []string{
		filepath.Join(directory, fmt.Sprintf("%s_v%d", name, layoutVersion-1)),
		filepath.Join(directory, fmt.Sprintf("%s_v%d", name, layoutVersion+1)),
	}
}

// roomFor is the size of a map that is to have what another version left, which may have grown.
func roomFor(s *ebpf.MapSpec, directory, name string) uint32 {
	size := s.MaxEntries
	if !slices.Contains(carried, name) {
		return size
	}
	for _, pin := range neighbourPins(directory, name) {
		if old, err := ebpf.LoadPinnedMap(pin, nil); err == nil {
			size = max(size, old.MaxEntries())
			old.Close()
		}
	}
	return size
}

// carryOver fills maps that were just made with what an agent of another version left. Where a start made them that ended before its
// programs were in place, packets have written to those of before since then: of what both have, that counts which holds longer.
func carryOver(all, made map[string]*ebpf.Map, directory string) (out []Carried, err error) {
	anew := map[string]bool{}
	for _, name := range carried {
		again := made[name] == nil
		if all[name] == nil || again && (!writtenByPackets[name] || len(numbersOf[name]) > 0) {
			continue
		}
		anew[name] = !again
		for _, pin := range neighbourPins(directory, name) {
			old, err := ebpf.LoadPinnedMap(pin, nil)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("opening the pin %s: %w", pin, err)
			}
			how := ebpf.UpdateAny
			if again {
				how = updateLater
			}
			one, err := carryMap(all[name], old, name, pin, how, anew)
			old.Close()
			if err != nil {
				return nil, fmt.Errorf("taking over %s: %w", pin, err)
			}
			anew[name] = one.Problem != ""
			out = append(out, one)
			break
		}
	}
	return out, nil
}

// carryMap puts the entries of a map of another version into ours; anew are the maps that start without any.
func carryMap(m, old *ebpf.Map, name, pin string, how ebpf.MapUpdateFlags, anew map[string]bool) (out Carried, err error) {
	out = Carried{Map: name, Pin: pin}
	for _, of := range numbersOf[name] {
		if anew[of] {
			out.Problem = fmt.Sprintf("it has the numbers of %s, which start anew", of)
		}
	}
	var c *conversion
	if out.Problem == "" {
		var why error
		if c, why = newConversion(m, old); why != nil {
			out.Problem = why.Error()
		}
	}
	if out.Problem != "" {
		return out, eachUsed(old, func(_, _ []byte) error { out.Lost++; return nil })
	}
	out.Entries, out.Lost, err = c.convert(m, old, how)
	if out.Lost > 0 {
		out.Problem = "this version has no room for some of their numbers, or does not tell them apart"
	}
	return out, err
}

// carryTheRest takes over what packets wrote for the programs of before while ours were loaded, also where an earlier start made
// our maps and ended before it came to use them.
func (k *kernel) carryTheRest() error {
	for _, name := range carried {
		i := slices.IndexFunc(k.carried, func(c Carried) bool { return c.Map == name })
		if !writtenByPackets[name] || len(numbersOf[name]) > 0 && (i < 0 || k.carried[i].Problem != "") {
			continue
		}
		for _, pin := range neighbourPins(k.mapDirectory(), name) {
			old, err := ebpf.LoadPinnedMap(pin, nil)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("opening the pin %s: %w", pin, err)
			}
			one, err := carryMap(k.objects.maps[name], old, name, pin, ebpf.UpdateNoExist, nil)
			old.Close()
			if err != nil {
				return fmt.Errorf("taking over the rest of %s: %w", pin, err)
			}
			// It counts what was there the first time as well.
			if i < 0 {
				k.carried = append(k.carried, one)
			} else {
				k.carried[i] = one
			}
			break
		}
	}
	for _, c := range k.carried {
		if c.Lost > 0 {
			k.options.log.Warn("not everything of another version of the agent was taken over", "map", c.Map, "lost", c.Lost, "entries", c.Entries, "why", c.Problem)
		}
	}
	return nil
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
