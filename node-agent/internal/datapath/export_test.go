package datapath

import (
	"context"
	"sync"
	"time"

	"github.com/cilium/ebpf"
)

// Every object is parsed once: for most tests that was as much work as the verifier's.
func init() {
	var mu sync.Mutex
	parsed, parse := map[string]*ebpf.CollectionSpec{}, parseObject
	parseObject = func(name string) (*ebpf.CollectionSpec, error) {
		mu.Lock()
		defer mu.Unlock()
		if parsed[name] == nil {
			c, err := parse(name)
			if err != nil {
				return nil, err
			}
			parsed[name] = c
		}
		return parsed[name].Copy(), nil
	}
}

// SettleModes is what the datapath does now and then, as at the given time.
func SettleModes(d Datapath, now time.Time) error {
	k := d.(*kernel)
	return k.change(context.Background(), "ending a change of routing modes", func() error { return k.settleModes(now) })
}

// UseScheduler puts another packet scheduler in the place of fq until it is called back: kernels of tests may not have fq.
func UseScheduler(kind string) (restore func()) {
	before := fqKind
	fqKind = kind
	return func() { fqKind = before }
}
