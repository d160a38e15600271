package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/policy"
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

// RandomLabels and RandomPolicy are those of the packet by packet comparison, for tests of traffic.
func RandomLabels(r *rand.Rand) policy.Labels { return dice{r}.podLabels() }

// RandomPolicy gives a valid policy of the given number.
func RandomPolicy(r *rand.Rand, number int) policy.Policy { return dice{r}.policy(number) }

// Segment is a TCP segment with right checksums, from its IP header on.
func Segment(source, destination string, sourcePort, port uint16, flags uint8) []byte {
	return flow{source: source, destination: destination, protocol: unix.IPPROTO_TCP, sourcePort: sourcePort, port: port, flags: flags}.packet()
}

// MaglevTables are the backends' numbers by place, of each list.
func MaglevTables(d Datapath) (map[uint32][]uint32, error) {
	out := map[uint32][]uint32{}
	return out, eachRaw(d.(*kernel).objects.maps["maglev"], func(list, id []byte) error {
		table, err := ebpf.NewMapFromID(ebpf.MapID(binary.NativeEndian.Uint32(id)))
		if err != nil {
			return err
		}
		defer table.Close()
		places := make([]uint32, table.MaxEntries())
		var cursor ebpf.MapBatchCursor
		if _, err := table.BatchLookup(&cursor, make([]uint32, len(places)), places, nil); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		out[binary.NativeEndian.Uint32(list)] = places
		return nil
	})
}

// ShortPackets is how many packets went by shortcuts and are not in the connections' entries yet.
func ShortPackets(d Datapath) (n uint64, err error) {
	all, err := d.(*kernel).shortTraffic()
	for _, s := range all {
		n += s[0]
	}
	return n, err
}
