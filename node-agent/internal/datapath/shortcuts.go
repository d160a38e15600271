package datapath

import "fmt"

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
