package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
)

// eventBytes is the size of struct event in bpf/lib/types.h.
const eventBytes = 152

// lostInterval is how often the count of lost events is read.
const lostInterval = time.Second

// readPause is how long the reader leaves the ring alone after it has emptied it. The kernel wakes it for the first
// event after that only, so a burst of connections costs one wakeup and not one each, and an idle node none. Nobody sees
// the difference to at once, and the ring (26,000 events) has room for 500,000 a second.
const readPause = 50 * time.Millisecond

// eventsAtOnce are handed over between two looks at the clock: also where the ring is never empty, losses are told in time.
const eventsAtOnce = 4096

func (k *kernel) readLost() (uint64, error) {
	var perCPU []uint64
	if err := k.objects.maps["lost"].Lookup(uint32(0), &perCPU); err != nil {
		return 0, fmt.Errorf("reading the count of lost events: %w", err)
	}
	var sum uint64
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
}

// Events implements Datapath. One caller at a time: the ring has one reader.
func (k *kernel) Events(ctx context.Context, handle func(Event), lost func(uint64)) error {
	var reader *ring
	if err := k.read("reading events", func() (err error) {
		reader, err = openRing(k.objects.maps["events"])
		return err
	}); err != nil {
		return err
	}
	defer reader.close()
	ended := context.AfterFunc(ctx, reader.interrupt)
	defer ended()

	reportLost := func() {
		var n uint64
		if err := k.read("reading events", func() error {
			now, err := k.readLost()
			if err == nil {
				n, k.lostBase = now-k.lostBase, now
			}
			return err
		}); err == nil && n > 0 && lost != nil {
			lost(n)
		}
	}
	defer reportLost()
	record := make([]byte, 0, eventBytes)
	offset, next := clockOffset(), time.Now().Add(lostInterval)
	pause := time.NewTimer(readPause)
	defer pause.Stop()
	for {
		switch err := reader.wait(next); {
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("waiting for events: %w", err)
		}
		n, there := 0, true
		for n < eventsAtOnce && ctx.Err() == nil {
			var err error
			if record, there, err = reader.next(record); err != nil {
				return fmt.Errorf("reading events: %w", err)
			}
			if !there {
				break
			}
			n++
			if e, ok := decodeEvent(record, offset); ok {
				handle(e)
			}
		}
		if n > 0 && !there {
			pause.Reset(readPause)
			select {
			case <-ctx.Done():
				return nil
			case <-pause.C:
			}
		}
		if now := time.Now(); now.After(next) {
			offset, next = clockOffset(), now.Add(lostInterval)
			reportLost()
		}
	}
}

// clockOffset is what turns the kernel's monotonic clock into the time of day.
func clockOffset() int64 { return time.Now().UnixNano() - int64(monotonic()) }

func decodeEvent(b []byte, offset int64) (Event, bool) {
	if len(b) < eventBytes {
		return Event{}, false
	}
	word := binary.NativeEndian
	address := func(at int) netip.Addr {
		if a := [16]byte(b[at : at+16]); a != ([16]byte{}) {
			return fromWire(a)
		}
		return netip.Addr{}
	}
	e := Event{
		Time:         time.Unix(0, int64(word.Uint64(b))+offset),
		SocketCookie: word.Uint64(b[8:]), CgroupID: word.Uint64(b[16:]),
		Source: address(24), Destination: address(40), SourceTranslated: address(56), TunnelRemote: address(72),
		SourceIdentity: word.Uint32(b[88:]), DestIdentity: word.Uint32(b[92:]), Rule: word.Uint32(b[96:]),
		Interface: word.Uint32(b[100:]), Length: word.Uint32(b[104:]), TunnelVNI: word.Uint32(b[108:]),
		SourcePort: binary.BigEndian.Uint16(b[112:]), DestPort: binary.BigEndian.Uint16(b[114:]),
		Endpoint: EndpointID(word.Uint16(b[116:])), Line: word.Uint16(b[118:]),
		Type: EventType(b[120]), SubType: b[121], TraceReason: b[122], Direction: Direction(b[123]),
		Reply: b[124] == 1, ReplyKnown: b[124] != 2, Denied: b[125] == 1, Audited: b[125] == 2, MatchType: b[126], Protocol: b[127],
		TCPFlags: b[128], ICMPType: b[129], ICMPCode: b[130], File: b[131],
		SourceMAC: [6]byte(b[132:138]), DestMAC: [6]byte(b[138:144]), Suppressed: word.Uint32(b[144:]),
	}
	if e.Type == EventDrop && e.SubType == DropKernel {
		e.KernelReason, e.Rule = e.Rule, 0
	}
	return e, true
}
