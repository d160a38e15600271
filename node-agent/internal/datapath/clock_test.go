package datapath

import (
	"testing"

	"github.com/cilium/ebpf/asm"
)

// Setting the machine's clock changes nothing for traffic: no program asks for the time of day, in any of its functions.
func TestProgramsKnowNoTimeOfDay(t *testing.T) {
	s, err := newSpec(Config{}, 0, 0, everyAbility())
	if err != nil {
		t.Fatal(err)
	}
	monotonic := map[asm.BuiltinFunc]bool{asm.FnKtimeGetNs: true, asm.FnKtimeGetCoarseNs: true, asm.FnKtimeGetBootNs: true, asm.FnJiffies64: true}
	asked := 0
	for object, c := range s.collections {
		for name, p := range c.Programs {
			for i, instruction := range p.Instructions {
				if !instruction.IsBuiltinCall() {
					continue
				}
				switch f := asm.BuiltinFunc(instruction.Constant); {
				case monotonic[f]:
					asked++
				case f == asm.FnKtimeGetTaiNs:
					t.Errorf("%s of %s asks for the time of day at %d", name, object, i)
				}
			}
		}
	}
	if asked == 0 {
		t.Error("no program asks for any time: this test does not see what it should")
	}
}
