// Command testserver serves synthetic flows for tests of clients written in other languages.
//
//	testserver DIRECTORY [EVENTS_PER_SECOND]
//
// It prints one line of JSON with where it listens and which certificates to use, and runs until standard input is closed.
// Lines on standard input are commands: "traffic N" ingests N rounds of the demo, "lost N" loses N events, "stop" stops
// serving at once but keeps the process.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"fairlead.dev/node-agent/internal/flows/flowtest"
	"fairlead.dev/node-agent/internal/observer/observertest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "testserver:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) < 2 {
		return fmt.Errorf("usage: testserver DIRECTORY [EVENTS_PER_SECOND]")
	}
	store := flowtest.NewStore(0)
	server, err := observertest.Start(os.Args[1], store)
	if err != nil {
		return err
	}
	defer server.Close()
	observertest.Traffic(store, time.Now(), 40000)
	if len(os.Args) > 2 {
		rate, err := strconv.Atoi(os.Args[2])
		if err != nil || rate < 1 {
			return fmt.Errorf("EVENTS_PER_SECOND %q is not a positive number", os.Args[2])
		}
		go generate(func(at time.Time) { store.Ingest(flowtest.Delivered(at, uint16(at.UnixNano()), 0x10)) }, rate)
	}
	ready, err := json.Marshal(map[string]string{
		"socket": server.Socket, "address": server.Address, "ca": server.CA, "cert": server.Certificate,
		"key": server.Key, "serverName": server.ServerName,
	})
	if err != nil {
		return err
	}
	fmt.Println(string(ready))
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		command, argument, _ := strings.Cut(lines.Text(), " ")
		n, _ := strconv.Atoi(argument)
		switch command {
		case "traffic":
			for i := range n {
				observertest.Traffic(store, time.Now(), uint16(41000+i))
			}
		case "lost":
			store.Lost(uint64(n))
		case "stop":
			server.Close()
		default:
			return fmt.Errorf("unknown command %q", command)
		}
		fmt.Println("done " + lines.Text())
	}
	return lines.Err()
}

// generate calls emit at the given rate, in bursts of a hundredth of a second.
func generate(emit func(time.Time), perSecond int) {
	const burst = 10 * time.Millisecond
	started, emitted := time.Now(), 0
	for range time.Tick(burst) {
		for due := int(time.Since(started).Seconds() * float64(perSecond)); emitted < due; emitted++ {
			emit(time.Now())
		}
	}
}
