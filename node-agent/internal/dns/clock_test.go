package dns

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Between two runs of the agent the machine's clock may be set, by years and in either direction: an address counts for as long
// as it would have without that, by the age of the boot; after a reboot the clock is all there is, and it gives no extra time.
func TestClockIsSetBetweenRuns(t *testing.T) {
	learned := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "names.json")
	at := func(now time.Time, boot string, age time.Duration) *Cache {
		c := NewCache(Options{Now: func() time.Time { return now }, Uptime: func() (string, time.Duration) { return boot, age }})
		if err := c.Load(path); err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := at(learned, "a", time.Hour)
	first.SetRules(rules(t, "www.example.org"))
	first.Learn(1, "www.example.org", []netip.Addr{address("192.0.2.1")}, 10*time.Minute)
	if err := first.Save(path); err != nil {
		t.Fatal(err)
	}
	const year = 365 * 24 * time.Hour
	for _, test := range []struct {
		name string
		set  time.Duration
		boot string
		away time.Duration
		left time.Duration
	}{
		{"as it was", 0, "a", time.Minute, 9 * time.Minute},
		{"a year ahead", year, "a", time.Minute, 9 * time.Minute},
		{"a year back", -year, "a", time.Minute, 9 * time.Minute},
		{"over meanwhile, a year back", -year, "a", 20 * time.Minute, -10 * time.Minute},
		{"another boot, a year back", -year, "b", time.Minute, 10 * time.Minute},
		{"another boot, later", 0, "b", 4 * time.Minute, 6 * time.Minute},
	} {
		now := learned.Add(test.set + test.away)
		c := at(now, test.boot, time.Hour+test.away)
		entries := c.Entries()
		if len(entries) != 1 || entries[0].Until.Sub(now) != test.left {
			t.Errorf("%s: %v left, want %v", test.name, entries[0].Until.Sub(now), test.left)
		}
		gone := len(c.Expire(func(uint32) bool { return true }, func() map[netip.Addr]struct{} { return nil })) > 0 || len(c.Entries()) == 0
		if gone != (test.left <= 0) {
			t.Errorf("%s: forgotten %v", test.name, gone)
		}
	}
	// The file of an earlier version had nothing but the entries.
	if err := os.WriteFile(path, []byte(`[{"endpoint":1,"name":"www.example.org","address":"192.0.2.1","until":"2026-01-01T12:10:00Z"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if entries := at(learned.Add(time.Minute), "a", time.Hour).Entries(); len(entries) != 1 || !entries[0].Until.Equal(learned.Add(10*time.Minute)) {
		t.Errorf("of an earlier version: %v", entries)
	}
}
