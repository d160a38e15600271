package agent

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// memoryLimit makes the garbage collector work harder instead of growing; it is no hard limit.
	memoryLimit = 56 << 20
	// memoryInterval is how often the limit is held against what the agent has to remember.
	memoryInterval = time.Second
	// memoryMargin is what is allocated between two looks, about.
	memoryMargin = 8 << 20
)

// limitFor is the limit that fits a heap of which `live` bytes are in use, beside `other` bytes that are no heap. Below it the
// collector would run all the time without finding anything: a large cluster has more to remember than memoryLimit has room
// for, and the agent would take half of every processor. It goes by whole margins: each change of it stops the program for a moment.
func limitFor(live, other uint64) int64 {
	margins := (live + live/2 + other + memoryMargin + memoryMargin - 1) / memoryMargin
	return max(memoryLimit, int64(margins*memoryMargin))
}

// followMemory raises the limit where what is remembered needs it, and lowers it again, until ctx ends.
func followMemory(ctx context.Context) {
	names := []string{"/gc/heap/live:bytes", "/memory/classes/total:bytes", "/memory/classes/heap/released:bytes",
		"/memory/classes/heap/objects:bytes", "/memory/classes/heap/free:bytes", "/memory/classes/heap/unused:bytes"}
	samples := make([]metrics.Sample, len(names))
	for i, name := range names {
		samples[i].Name = name
	}
	limit := int64(memoryLimit)
	for pause(ctx, memoryInterval) == nil {
		metrics.Read(samples)
		other := samples[1].Value.Uint64()
		for _, s := range samples[2:] {
			other -= min(other, s.Value.Uint64())
		}
		if now := limitFor(samples[0].Value.Uint64(), other); now != limit {
			limit = now
			debug.SetMemoryLimit(limit)
		}
	}
}
