package agent

import "testing"

func TestTheLimitLeavesTheCollectorRoom(t *testing.T) {
	for _, c := range []struct {
		name        string
		live, other uint64
		want        int64
	}{
		{"a small cluster", 16 << 20, 8 << 20, memoryLimit},
		{"a large one", 100 << 20, 20 << 20, 184 << 20},
		{"the same with a little more", 101 << 20, 21 << 20, 184 << 20},
	} {
		if got := limitFor(c.live, c.other); got != c.want {
			t.Errorf("%s: %d MiB, want %d", c.name, got>>20, c.want>>20)
		}
	}
}
