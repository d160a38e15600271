package datapath

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

const (
	xdpDrop = 1
	xdpPass = 2
)

// Prefilter is the program alone, with maps of its own.
type Prefilter struct {
	collection *ebpf.Collection
	table      refusedTable
}

func (p *Prefilter) Set(networks []netip.Prefix) error {
	return p.table.set(p.collection.Maps, networks)
}

func (p *Prefilter) Counters() ([]Refused, error) { return p.table.counters(p.collection.Maps) }

func newPrefilter(t testing.TB, networks ...string) *Prefilter {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it loads programs into the kernel")
	}
	s, err := xdpCollection([]string{xdpPrefilter})
	if err != nil {
		t.Fatal(err)
	}
	c, err := ebpf.NewCollection(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	p := &Prefilter{collection: c}
	if err := p.Set(prefixes(networks...)); err != nil {
		t.Fatal(err)
	}
	return p
}

func prefixes(texts ...string) []netip.Prefix {
	out := []netip.Prefix{}
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// datagram is the start of a frame from an address to another; the prefilter looks no further.
func datagram(from, to string) []byte {
	source, destination := netip.MustParseAddr(from), netip.MustParseAddr(to)
	frame := make([]byte, 14, 64)
	frame[5], frame[11] = 2, 1
	if source.Is4() {
		frame[12] = 8
		header := make([]byte, 50)
		header[0], header[3], header[8], header[9] = 0x45, 50, 64, 17
		copy(header[12:], source.AsSlice())
		copy(header[16:], destination.AsSlice())
		return append(frame, header...)
	}
	frame[12], frame[13] = 0x86, 0xdd
	header := make([]byte, 50)
	header[0], header[5], header[6], header[7] = 0x60, 10, 17, 64
	copy(header[8:], source.AsSlice())
	copy(header[24:], destination.AsSlice())
	return append(frame, header...)
}

func (p *Prefilter) verdict(t testing.TB, data []byte) uint32 {
	t.Helper()
	code, err := p.collection.Programs["prefilter"].Run(&ebpf.RunOptions{Data: data, DataOut: make([]byte, 256)})
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func TestPrefilterRefusesNetworks(t *testing.T) {
	p := newPrefilter(t, "198.18.0.0/15", "203.0.113.7/32", "2001:db8::/32")
	for from, want := range map[string]uint32{
		"198.18.0.1": xdpDrop, "198.19.255.255": xdpDrop, "198.20.0.0": xdpPass, "198.17.255.255": xdpPass,
		"203.0.113.7": xdpDrop, "203.0.113.8": xdpPass, "2001:db8::1": xdpDrop, "2001:db9::1": xdpPass,
	} {
		to := "192.0.2.1"
		if netip.MustParseAddr(from).Is6() {
			to = "2001:db9::2"
		}
		if got := p.verdict(t, datagram(from, to)); got != want {
			t.Errorf("from %s: verdict %d, want %d", from, got, want)
		}
	}
	for what, data := range map[string][]byte{
		"ARP":                    append(append(make([]byte, 12), 8, 6), make([]byte, 46)...),
		"a cut version 4 header": datagram("198.18.0.1", "192.0.2.1")[:20],
		"a cut version 6 header": datagram("2001:db8::1", "2001:db9::2")[:30],
	} {
		if got := p.verdict(t, data); got != xdpPass {
			t.Errorf("%s: verdict %d, want pass", what, got)
		}
	}
}

func (p *Prefilter) packets(t testing.TB, network string) uint64 {
	t.Helper()
	all, err := p.Counters()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(all, func(r Refused) bool { return r.Network == netip.MustParsePrefix(network) })
	if at < 0 {
		t.Fatalf("%s has no counter; there are %v", network, all)
	}
	return all[at].Packets
}

// Counters belong to a network, the longest that fits; they stay over a change of the others and never pass to the
// next network with the same number.
func TestPrefilterCounters(t *testing.T) {
	p := newPrefilter(t, "198.18.0.0/15", "198.18.5.0/24")
	for range 3 {
		p.verdict(t, datagram("198.18.5.1", "192.0.2.1"))
	}
	p.verdict(t, datagram("198.18.6.1", "192.0.2.1"))
	if few, many := p.packets(t, "198.18.0.0/15"), p.packets(t, "198.18.5.0/24"); few != 1 || many != 3 {
		t.Errorf("counted %d and %d, want 1 and 3", few, many)
	}
	if err := p.Set(prefixes("198.18.0.0/15", "203.0.113.0/24")); err != nil {
		t.Fatal(err)
	}
	if kept, fresh := p.packets(t, "198.18.0.0/15"), p.packets(t, "203.0.113.0/24"); kept != 1 || fresh != 0 {
		t.Errorf("after a change %d and %d, want 1 and 0", kept, fresh)
	}
	p.verdict(t, datagram("198.18.5.1", "192.0.2.1"))
	if got := p.packets(t, "198.18.0.0/15"); got != 2 {
		t.Errorf("the wider network counted %d, want 2", got)
	}
}

// A drop is an event: the first of a network, and then one in 65,536.
func TestPrefilterSamples(t *testing.T) {
	p := newPrefilter(t, "198.18.0.0/15", "203.0.113.0/24")
	r, err := ringbuf.NewReader(p.collection.Maps["events"])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 100 {
		p.verdict(t, datagram("198.18.5.1", "192.0.2.1"))
	}
	p.verdict(t, datagram("203.0.113.9", "192.0.2.1"))
	r.SetDeadline(time.Now())
	for _, from := range []string{"198.18.5.1", "203.0.113.9"} {
		record, err := r.Read()
		if err != nil {
			t.Fatalf("the event of %s: %v", from, err)
		}
		e, ok := decodeEvent(record.RawSample, 0)
		if !ok || e.Source != netip.MustParseAddr(from) || e.Destination != netip.MustParseAddr("192.0.2.1") ||
			e.Type != EventDrop || e.SubType != 181 || e.Protocol != 17 || e.Length != 64 {
			t.Errorf("event %+v, want a drop of 64 bytes of UDP from %s for reason 181", e, from)
		}
	}
	if record, err := r.Read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more event: %v, %v", record, err)
	}
}
