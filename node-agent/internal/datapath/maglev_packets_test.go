package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// With maglev every node sends a client's connection to the same backend, in whatever order it learnt them, and when one goes
// nearly all connections of the others keep theirs.
func TestMaglevInThePrograms(t *testing.T) {
	const flows, many = 600, 10
	var names [2][]string
	for i := range many {
		names[0], names[1] = append(names[0], fmt.Sprintf("10.77.2.%d", 20+i)), append(names[1], fmt.Sprintf("fd00:10:77:2::%d", 20+i))
	}
	backwards := func(in []string) []string {
		out := slices.Clone(in)
		slices.Reverse(out)
		return out
	}
	// chosen is the backend of each flow, on a node of its own.
	chosen := func(t *testing.T, pick func([]string) []string) (out [2][]string) {
		x := newXDPRigOf(t, newOwnRigOf, func(c *Config) { c.LoadBalancer.Algorithm, c.LoadBalancer.MaglevTableSize = "maglev", 1021 })
		x.serve(unix.IPPROTO_UDP, slices.Concat(pick(names[0]), pick(names[1]))...)
		for i := range uint16(flows) {
			for family, f := range []flow{{source: client4, destination: front4}, {source: client6, destination: front6}} {
				f.protocol, f.sourcePort, f.port, f.payload = unix.IPPROTO_UDP, 20000+i*7, 80, 8
				verdict, frame := x.run("from_netdev", f.frame())
				if verdict == verdictShot {
					t.Fatalf("%+v: counters %v", f, x.counters())
				}
				out[family] = append(out[family], dissect(t, frame[14:]).destination)
			}
		}
		return out
	}
	var one, other, fewer [2][]string
	t.Run("a node", func(t *testing.T) {
		one = chosen(t, func(all []string) []string { return all })
	})
	t.Run("another node", func(t *testing.T) { other = chosen(t, backwards) })
	t.Run("without one backend", func(t *testing.T) {
		fewer = chosen(t, func(all []string) []string { return all[1:] })
	})
	for family, all := range names {
		gone, counts, moved := netip.MustParseAddr(all[0]).String(), map[string]int{}, 0
		for i, backend := range one[family] {
			counts[backend]++
			if other[family][i] != backend {
				t.Fatalf("flow %d goes to %s on one node and to %s on another", i, backend, other[family][i])
			}
			if now := fewer[family][i]; now == gone || backend != gone && now != backend {
				moved++
			}
		}
		// Measured for the table: 2.6 % of the others' places. A flow stands for 1.7 places here.
		if rest := flows - counts[gone]; moved > rest/10 {
			t.Errorf("family %d: of %d flows of backends that stay %d moved", family, rest, moved)
		}
		for _, backend := range all {
			if n := counts[netip.MustParseAddr(backend).String()]; n < flows/many/3 || n > flows/many*3 {
				t.Errorf("%s has %d of %d flows: %v", backend, n, flows, counts)
			}
		}
	}
}
