package datapath

import (
	"context"
	"time"
)

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
