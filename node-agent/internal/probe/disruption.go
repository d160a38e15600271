package probe

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Disruption is what a client noticed while the network was changed.
type Disruption struct {
	Seconds float64 `json:"seconds"`
	// LongestGapMilliseconds is the longest pause of the connection that was held; Broken how often it broke.
	LongestGapMilliseconds float64 `json:"longestGapMilliseconds"`
	Broken                 int     `json:"broken"`
	// Opened new connections, one every tenth of a second, and how many of them failed.
	Opened    int    `json:"opened"`
	Failed    int    `json:"failed"`
	LastError string `json:"lastError,omitempty"`
}

const (
	betweenConnections = 100 * time.Millisecond
	connectionLimit    = 2 * time.Second
)

// Disrupt holds one connection to a server and opens others beside it until ctx ends, and says what it noticed.
func Disrupt(ctx context.Context, server string) Disruption {
	began := time.Now()
	var d Disruption
	var mu sync.Mutex
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			gap, err := holdOne(ctx, server)
			mu.Lock()
			d.LongestGapMilliseconds = max(d.LongestGapMilliseconds, float64(gap.Microseconds())/1000)
			if ctx.Err() == nil {
				d.Broken++
				if err != nil {
					d.LastError = err.Error()
				}
			}
			mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(betweenConnections):
			}
		}
	})
	ticker := time.NewTicker(betweenConnections)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
			all.Go(func() {
				// It is not cut off with ctx: an attempt that has begun is counted as it goes.
				limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectionLimit)
				defer cancel()
				r := HTTP(limited, http.MethodGet, server+"/", 0)
				mu.Lock()
				defer mu.Unlock()
				d.Opened++
				if !r.OK {
					d.Failed++
					d.LastError = r.Error
				}
			})
		}
	}
	all.Wait()
	d.Seconds = time.Since(began).Seconds()
	return d
}

// holdOne gives the longest pause between two ticks of one connection.
func holdOne(ctx context.Context, server string) (time.Duration, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/hold", nil)
	if err != nil {
		return 0, err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	buffer := make([]byte, 4096)
	var longest time.Duration
	last := time.Now()
	for {
		_, err := response.Body.Read(buffer)
		now := time.Now()
		if pause := now.Sub(last); ctx.Err() == nil {
			longest = max(longest, pause)
		}
		last = now
		if err != nil {
			return longest, err
		}
	}
}
