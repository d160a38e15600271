package agent

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/datapath"
)

// From 80 % on a map is named in status and in the log, with what becomes of it and what to do; below, the fullest is.
func TestFullMapsAreNamed(t *testing.T) {
	var log bytes.Buffer
	a := &agent{components: newComponents(slog.New(slog.NewTextHandler(&log, nil)))}
	state := func(all ...datapath.MapPressure) api.Component {
		a.reportPressure(all)
		return a.components.list()[0]
	}
	policy := func(entries uint32) datapath.MapPressure {
		return datapath.MapPressure{Name: "policy", Entries: entries, MaxEntries: 1000}
	}
	table := datapath.MapPressure{Name: "connections", Entries: 950, MaxEntries: 1000, Evicts: true}
	stuck := datapath.MapPressure{Name: "ipcache", Entries: 990, MaxEntries: 1000, Problem: "no memory"}
	if s := state(policy(799)); s.State != api.StateOK || !strings.Contains(s.Message, "policy with 80 %") {
		t.Errorf("below: %+v", s)
	}
	if s := state(policy(800)); s.State != api.StateDegraded || s.Message != "policy 80 % of 1000" || !strings.Contains(log.String(), "policy 80 % of 1000") {
		t.Errorf("at 80 %%: %+v\n%s", s, log.String())
	}
	s := state(stuck, table, policy(800), datapath.MapPressure{Name: "services", Entries: 1, MaxEntries: 1000})
	for _, want := range []string{"ipcache 99 % of 1000 and cannot grow: no memory", "connections 95 % of 1000, beyond which", "policy 80 % of 1000"} {
		if s.State != api.StateDegraded || !strings.Contains(s.Message, want) {
			t.Errorf("%+v does not say %q", s, want)
		}
	}
	if strings.Contains(s.Message, "services") || !strings.Contains(s.Fix, "Raise the size of ipcache") || !strings.Contains(s.Fix, "bpf.mapDynamicSizeRatio") {
		t.Errorf("%+v", s)
	}
	if s := state(policy(400)); s.State != api.StateOK {
		t.Errorf("once it grew: %+v", s)
	}
}
