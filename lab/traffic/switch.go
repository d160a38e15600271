package main

import (
	"context"
	"encoding/binary"
	"net"
	"sync/atomic"
	"time"
)

// change is a moment at which datagrams began to pass, or ceased to.
type change struct {
	Passes bool    `json:"passes"`
	At     float64 `json:"atMilliseconds"`
}

// changes sends a numbered datagram each millisecond to something that echoes them, and tells when the answers cease
// and come again. A single lost datagram is none: it takes thirty in a row.
func changes(ctx context.Context, to string) result {
	const row = 30
	connection, err := net.Dial("udp", to)
	if err != nil {
		return result{Errors: 1, FirstError: err.Error()}
	}
	defer connection.Close()
	var answered [1 << 18]atomic.Bool
	go func() {
		buffer := make([]byte, 64)
		for {
			n, err := connection.Read(buffer)
			if ctx.Err() != nil {
				return
			}
			if err == nil && n == 8 {
				answered[binary.BigEndian.Uint64(buffer)%uint64(len(answered))].Store(true)
			}
		}
	}()
	start := time.Now()
	sent := make([]float64, 0, 1<<17)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		number := binary.BigEndian.AppendUint64(nil, uint64(len(sent)))
		sent = append(sent, float64(time.Now().UnixNano())/1e6)
		_, _ = connection.Write(number)
		<-tick.C
	}
	time.Sleep(100 * time.Millisecond) // the last answers are under way
	r := result{Seconds: time.Since(start).Seconds(), Count: int64(len(sent))}
	passes, same := true, 0
	for i := range sent {
		if answered[i].Load() == passes {
			same = 0
			continue
		}
		// One answer is proof that datagrams pass; that they do not takes more.
		if same++; passes && same < row {
			continue
		}
		passes = !passes
		r.Changes = append(r.Changes, change{passes, sent[i-same+1]})
		same = 0
	}
	return r
}
