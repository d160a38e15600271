// traffic is both ends of the network benchmarks: a server and clients for round trips, throughput, new connections,
// and a long-lived crowd of connections that reports every break. It prints one JSON object and exits by itself:
// every client is bounded in time and count.
//
//	traffic serve  --port 9000
//	traffic rr     --to HOST:9000 --seconds 5            TCP round trips of one byte on one connection
//	traffic stream --to HOST:9000 --seconds 5            bytes one way on one connection
//	traffic crr    --to HOST:9000 --seconds 5            connect, one round trip, close; one after the other
//	traffic http   --to HOST:9000 --seconds 5            connect, one HTTP request, close; one after the other
//	traffic switch --to HOST:9000 --seconds 20           a datagram each millisecond; when they begin and cease to pass
//	traffic once   --to HOST:9000                        one connection; exit code 1 if it fails
//	traffic udp    --to HOST:9000                        ten datagrams, each to come back within a second
//	traffic crowd  --to HOST:9000 --seconds 20 --connections 200 --rate 50
//
// Each mode takes --processor N, which keeps it on that processor, and each client --turns: it then measures once for each line
// that it reads and prints an object for each, until there are no more. What is compared can take many short turns so, without
// a program's start in any of them.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// First byte of a connection: what the client wants of it.
const (
	wantEcho = 'e'
	wantSink = 's'
	wantHTTP = 'G' // of GET
)

// result is what a client prints. Rates are per second; times in microseconds.
type result struct {
	Mode         string  `json:"mode"`
	Seconds      float64 `json:"seconds"`
	Count        int64   `json:"count"`
	PerSecond    float64 `json:"perSecond"`
	BitsPerSec   float64 `json:"bitsPerSecond,omitempty"`
	P50          float64 `json:"p50Microseconds,omitempty"`
	P99          float64 `json:"p99Microseconds,omitempty"`
	Errors       int64   `json:"errors"`
	Broken       int64   `json:"broken"`
	Opened       int64   `json:"opened,omitempty"`
	LongestGapMS float64 `json:"longestGapMilliseconds,omitempty"`
	FirstError   string  `json:"firstError,omitempty"`
	// Changes are when datagrams began to pass (or ceased to), as milliseconds of the time of day.
	Changes []change `json:"changes,omitempty"`
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "traffic: serve, rr, stream, crr, http, switch, once, udp or crowd")
		os.Exit(2)
	}
	mode := os.Args[1]
	flags := flag.NewFlagSet(mode, flag.ExitOnError)
	port := flags.Int("port", 9000, "port to serve on")
	to := flags.String("to", "", "HOST:PORT of the server")
	seconds := flags.Float64("seconds", 5, "how long; at most 120")
	connections := flags.Int("connections", 200, "crowd: connections held open; at most 1000")
	rate := flags.Int("rate", 50, "crowd: connections opened per second beside them; at most 1000")
	processor := flags.Int("processor", -1, "the processor to stay on; -1 is any")
	turns := flags.Bool("turns", false, "measure once for each line of the standard input")
	_ = flags.Parse(os.Args[2:])
	if *processor >= 0 {
		if err := stayOn(*processor); err != nil {
			fmt.Fprintln(os.Stderr, "traffic:", err)
			os.Exit(2)
		}
	}
	if mode == "serve" {
		if err := serve(*port); err != nil {
			fmt.Fprintln(os.Stderr, "traffic:", err)
			os.Exit(1)
		}
		return
	}
	length := time.Duration(min(*seconds, 120) * float64(time.Second))
	client := func() result {
		ctx, cancel := context.WithTimeout(context.Background(), length)
		defer cancel()
		switch mode {
		case "rr":
			return roundTrips(ctx, *to)
		case "stream":
			return throughput(ctx, *to)
		case "crr":
			return newConnections(ctx, *to, once)
		case "http":
			return newConnections(ctx, *to, request)
		case "switch":
			return changes(ctx, *to)
		case "once":
			return first(*to)
		case "udp":
			return datagrams(*to)
		case "crowd":
			return crowd(ctx, *to, min(*connections, 1000), min(*rate, 1000))
		}
		fmt.Fprintln(os.Stderr, "traffic: unknown mode", mode)
		os.Exit(2)
		return result{}
	}
	if *turns {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			show(mode, client())
		}
		return
	}
	r := client()
	show(mode, r)
	if r.Errors > 0 && mode == "once" {
		os.Exit(1)
	}
}

// show prints a result as one line.
func show(mode string, r result) {
	r.Mode = mode
	_ = json.NewEncoder(os.Stdout).Encode(r)
}

// serve answers until it is killed.
func serve(port int) error {
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return fmt.Errorf("listening on port %d: %w", port, err)
	}
	packets, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
	if err != nil {
		return fmt.Errorf("listening on UDP port %d: %w", port, err)
	}
	go echo(packets)
	for {
		connection, err := listener.Accept()
		if err != nil {
			if errors.Is(err, syscall.EMFILE) {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			return fmt.Errorf("accepting: %w", err)
		}
		go answer(connection)
	}
}

// echo sends every datagram back.
func echo(packets net.PacketConn) {
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := packets.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = packets.WriteTo(buffer[:n], from)
	}
}

func answer(connection net.Conn) {
	defer connection.Close()
	buffer := make([]byte, 256<<10)
	if _, err := io.ReadFull(connection, buffer[:1]); err != nil {
		return
	}
	want := buffer[0]
	if want == wantHTTP {
		answerHTTP(connection, buffer)
		return
	}
	for {
		n, err := connection.Read(buffer)
		if err != nil {
			return
		}
		if want != wantSink {
			if _, err := connection.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
}

// answerHTTP reads one request, of which the first byte is gone, and answers it.
func answerHTTP(connection net.Conn, buffer []byte) {
	length := 0
	for !bytes.Contains(buffer[:length], []byte("\r\n\r\n")) {
		n, err := connection.Read(buffer[length:])
		if err != nil {
			return
		}
		length += n
	}
	_, _ = connection.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"))
}

func dial(ctx context.Context, to string, want byte) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 3 * time.Second}
	connection, err := dialer.DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	if _, err := connection.Write([]byte{want}); err != nil {
		connection.Close()
		return nil, err
	}
	return connection, nil
}

func roundTrips(ctx context.Context, to string) result {
	connection, err := dial(ctx, to, wantEcho)
	if err != nil {
		return result{Errors: 1, FirstError: err.Error()}
	}
	defer connection.Close()
	times := make([]float64, 0, 1<<20)
	one := []byte{'x'}
	start := time.Now()
	for ctx.Err() == nil {
		before := time.Now()
		if _, err := connection.Write(one); err != nil {
			return result{Errors: 1, FirstError: err.Error()}
		}
		if _, err := io.ReadFull(connection, one); err != nil {
			return result{Errors: 1, FirstError: err.Error()}
		}
		times = append(times, float64(time.Since(before).Nanoseconds())/1e3)
	}
	return summary(times, time.Since(start), 0, "")
}

// first is one connection with one round trip: the first packet that this program's host sends.
func first(to string) result {
	start := time.Now()
	if err := once(to); err != nil {
		return result{Errors: 1, FirstError: err.Error()}
	}
	return summary([]float64{float64(time.Since(start).Nanoseconds()) / 1e3}, time.Since(start), 0, "")
}

// datagrams sends ten datagrams one after the other and counts those that come back unchanged.
func datagrams(to string) result {
	start := time.Now()
	connection, err := net.Dial("udp", to)
	if err != nil {
		return result{Errors: 1, FirstError: err.Error()}
	}
	defer connection.Close()
	r := result{}
	answer := make([]byte, 64)
	for i := range 10 {
		text := fmt.Sprintf("datagram %d", i)
		_ = connection.SetDeadline(time.Now().Add(time.Second))
		if _, err = connection.Write([]byte(text)); err == nil {
			var n int
			if n, err = connection.Read(answer); err == nil && string(answer[:n]) != text {
				err = fmt.Errorf("sent %q, got %q", text, answer[:n])
			}
		}
		if err != nil {
			r.Errors++
			r.FirstError = err.Error()
			continue
		}
		r.Count++
	}
	r.Seconds = time.Since(start).Seconds()
	return r
}

func throughput(ctx context.Context, to string) result {
	connection, err := dial(ctx, to, wantSink)
	if err != nil {
		return result{Errors: 1, FirstError: err.Error()}
	}
	defer connection.Close()
	block := make([]byte, 128<<10)
	var sent int64
	start := time.Now()
	for ctx.Err() == nil {
		n, err := connection.Write(block)
		sent += int64(n)
		if err != nil {
			return result{Errors: 1, FirstError: err.Error()}
		}
	}
	took := time.Since(start).Seconds()
	return result{Seconds: took, Count: sent, BitsPerSec: float64(sent) * 8 / took}
}

// newConnections makes one after the other, each for what `one` does with it.
func newConnections(ctx context.Context, to string, one func(to string) error) result {
	var times []float64
	var failures int64
	first := ""
	start := time.Now()
	for ctx.Err() == nil && len(times) < 200_000 {
		before := time.Now()
		if err := one(to); err != nil {
			failures++
			if first == "" {
				first = err.Error()
			}
			continue
		}
		times = append(times, float64(time.Since(before).Nanoseconds())/1e3)
	}
	return summary(times, time.Since(start), failures, first)
}

// once connects, makes one round trip and resets, so that no port of the client waits in TIME_WAIT.
func once(to string) error {
	connection, err := net.DialTimeout("tcp", to, 3*time.Second)
	if err != nil {
		return err
	}
	defer connection.Close()
	_ = connection.(*net.TCPConn).SetLinger(0)
	_ = connection.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := connection.Write([]byte{wantEcho, 'x'}); err != nil {
		return err
	}
	_, err = io.ReadFull(connection, make([]byte, 1))
	return err
}

// crowd holds connections open, each with a round trip every 100 ms, and opens more beside them. A held connection that
// fails, or waits longer than 10 s for its answer, is broken.
func crowd(ctx context.Context, to string, connections, rate int) result {
	var broken, failures, trips, opened atomic.Int64
	var longest atomic.Int64
	var first atomic.Value
	note := func(err error) { first.CompareAndSwap(nil, err.Error()) }
	var group sync.WaitGroup
	start := time.Now()
	for range connections {
		connection, err := dial(ctx, to, wantEcho)
		if err != nil {
			failures.Add(1)
			note(err)
			continue
		}
		group.Add(1)
		go func() {
			defer group.Done()
			defer connection.Close()
			one := []byte{'x'}
			ticker := time.NewTicker(100 * time.Millisecond)
			defer ticker.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
				before := time.Now()
				_ = connection.SetDeadline(before.Add(10 * time.Second))
				if _, err := connection.Write(one); err != nil {
					broken.Add(1)
					note(err)
					return
				}
				if _, err := io.ReadFull(connection, one); err != nil {
					broken.Add(1)
					note(err)
					return
				}
				trips.Add(1)
				gap := time.Since(before).Milliseconds()
				for old := longest.Load(); gap > old && !longest.CompareAndSwap(old, gap); old = longest.Load() {
				}
			}
		}()
	}
	ticker := time.NewTicker(time.Second / time.Duration(max(rate, 1)))
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
			group.Add(1)
			go func() {
				defer group.Done()
				opened.Add(1)
				if err := once(to); err != nil {
					failures.Add(1)
					note(err)
				}
			}()
		}
	}
	group.Wait()
	text, _ := first.Load().(string)
	took := time.Since(start).Seconds()
	return result{Seconds: took, Count: trips.Load(), PerSecond: float64(trips.Load()) / took, Errors: failures.Load(),
		Broken: broken.Load(), Opened: opened.Load(), LongestGapMS: float64(longest.Load()), FirstError: text}
}

// request is one HTTP request on a connection of its own.
func request(to string) error {
	connection, err := net.DialTimeout("tcp", to, 3*time.Second)
	if err != nil {
		return err
	}
	defer connection.Close()
	_ = connection.(*net.TCPConn).SetLinger(0)
	_ = connection.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := fmt.Fprintf(connection, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", to); err != nil {
		return err
	}
	answer, err := io.ReadAll(connection)
	if err == nil && !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) {
		err = fmt.Errorf("got %.60q", answer)
	}
	return err
}

func summary(times []float64, took time.Duration, failures int64, first string) result {
	r := result{Seconds: took.Seconds(), Count: int64(len(times)), Errors: failures, FirstError: first}
	if len(times) == 0 {
		return r
	}
	sort.Float64s(times)
	r.PerSecond = float64(len(times)) / took.Seconds()
	r.P50, r.P99 = times[len(times)/2], times[len(times)*99/100]
	return r
}
