package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// fakeRing is a ring whose kernel is the test.
func fakeRing(size int) *ring {
	return &ring{data: make([]byte, size), read: new(uintptr), written: new(uintptr)}
}

// put writes a record as the kernel does, over the end where it comes to it.
func (r *ring) put(record []byte, bits uint32) {
	at := *r.written
	header := make([]byte, ringHeaderBytes, ringHeaderBytes+len(record)+7)
	binary.NativeEndian.PutUint32(header, uint32(len(record))|bits)
	all := append(header, record...)
	for i, b := range all {
		r.data[(at+uintptr(i))%uintptr(len(r.data))] = b
	}
	atomic.StoreUintptr(r.written, at+uintptr(len(all)+7)&^7)
}

func TestRingPutsTogetherWhatGoesOverTheEnd(t *testing.T) {
	r := fakeRing(4096)
	var buffer []byte
	for n := range 1000 {
		// Lengths that are no multiple of 8, so that records begin everywhere.
		want := bytes.Repeat([]byte{byte(n)}, 150+n%40)
		for i := range want {
			want[i] += byte(i)
		}
		if n%7 == 3 {
			r.put([]byte("given up"), ringDiscarded)
		}
		r.put(want, 0)
		got, ok, err := r.next(buffer)
		if err != nil || !ok || !bytes.Equal(got, want) {
			t.Fatalf("record %d: ok %v, error %v, got %x, want %x", n, ok, err, got, want)
		}
		buffer = got
	}
	if _, ok, err := r.next(buffer); ok || err != nil || *r.read != *r.written {
		t.Errorf("an empty ring gave a record: ok %v, error %v", ok, err)
	}
}

func TestRingLeavesWhatIsBeingWritten(t *testing.T) {
	r := fakeRing(4096)
	r.put([]byte("first"), 0)
	at := *r.written
	r.put([]byte("second"), ringBusy)
	if got, ok, err := r.next(nil); !ok || err != nil || string(got) != "first" {
		t.Fatalf("the first record: %q, %v, %v", got, ok, err)
	}
	if r.ready() {
		t.Error("a record that is being written is said to be ready")
	}
	if _, ok, err := r.next(nil); ok || err != nil || *r.read != at {
		t.Fatalf("a record that is being written was read: %v, %v", ok, err)
	}
	binary.NativeEndian.PutUint32(r.data[at:], uint32(len("second")))
	if got, ok, _ := r.next(nil); !ok || string(got) != "second" || !bytes.Equal(got, []byte("second")) {
		t.Errorf("the second record: %q, %v", got, ok)
	}
}

func TestRingRefusesDamage(t *testing.T) {
	for name, length := range map[string]uint32{"longer than what was written": 64, "longer than the ring": 1 << 20} {
		r := fakeRing(4096)
		r.put([]byte("eight by"), 0)
		binary.NativeEndian.PutUint32(r.data, length)
		if _, ok, err := r.next(nil); ok || err == nil {
			t.Errorf("%s: read as a record", name)
		}
	}
}

// The kernel's own ring is mapped once, and its wait ends by a deadline and by an interruption.
func TestRingOfTheKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a ring needs root")
	}
	const size = 1 << 20
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: size})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	r, err := openRing(m)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if got, want := len(r.consumer)+len(r.memory), size+2*os.Getpagesize(); got != want {
		t.Errorf("%d bytes are mapped, want %d: each page once", got, want)
	}
	if err := r.wait(time.Now().Add(time.Millisecond)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the deadline ended the wait with %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.wait(time.Now().Add(time.Minute)) }()
	r.interrupt()
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("the interruption ended the wait with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the interruption did not end the wait")
	}
}
