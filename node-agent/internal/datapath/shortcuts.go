package datapath

import "fmt"

// The structures of bpf/lib/shortcut.h, which programs write.
type shortcutKeyLayout struct {
	Source, Destination         wireAddress
	SourcePort, DestinationPort big16
	Ifindex                     uint32
}

type shortcutLayout struct {
	Until, Packets, Bytes uint64
	Generation, Ifindex   uint32
	MACs                  [12]byte
	SenderMAC, Pad        [6]byte
}

// forgetShortcuts has the next packet of every connection looked at closely (bpf/lib/shortcut.h). It comes after each change,
// whatever that was and whether it was made in whole or in part: what follows from a change is known to the close look alone.
func (k *kernel) forgetShortcuts() error {
	m := k.objects.maps["shortcut_generation"]
	if k.shortcuts == 0 {
		// An agent of before counted as well; its shortcuts may be there still.
		if err := m.Lookup(uint32(0), &k.shortcuts); err != nil {
			return fmt.Errorf("reading the generation of shortcuts: %w", err)
		}
	}
	k.shortcuts++
	if err := m.Put(uint32(0), k.shortcuts); err != nil {
		return fmt.Errorf("ending shortcuts: %w", err)
	}
	return nil
}

// shortFlow is one direction of a TCP connection between pods of this node.
type shortFlow struct {
	source, destination         wireAddress
	sourcePort, destinationPort big16
}

// shortTraffic is what went by shortcuts and is not in the connections' entries yet, packets and bytes. What is left of a pod that is
// gone is not of the one that has its address now.
func (k *kernel) shortTraffic() (map[shortFlow][2]uint64, error) {
	out := map[shortFlow][2]uint64{}
	err := k.read("reading shortcuts", func() error {
		interfaces := map[wireAddress]uint32{}
		for _, e := range k.endpoints {
			for _, a := range e.Addresses {
				interfaces[toWire(a)] = uint32(e.InterfaceIndex)
			}
		}
		return visitTable(k.objects.maps["shortcuts"], func(key *shortcutKeyLayout, s *shortcutLayout) bool {
			if s.Packets > 0 && interfaces[key.Source] == key.Ifindex {
				out[shortFlow{key.Source, key.Destination, key.SourcePort, key.DestinationPort}] = [2]uint64{s.Packets, s.Bytes}
			}
			return true
		})
	})
	return out, err
}
