// starwars is the workload of the policy demo. As a server it is the Death
// Star with a small HTTP API; as a client it is a ship that asks for landing
// again and again, so that there are flows to look at.
//
//	starwars serve [-listen :80]
//	starwars land URL [-every 1s] [-timeout 2s] [-count 0]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// api lists what the server answers, in the order it is printed.
var api = []struct{ Method, Path, Text string }{
	{"GET", "/", "name of this station"},
	{"GET", "/v1/", "this list"},
	{"POST", "/v1/request-landing", "ask for permission to land"},
	{"PUT", "/v1/exhaust-port", "do not"},
	{"GET", "/healthz", "for probes"},
}

func routes(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "Death Star, served by %s\n", name)
	})
	mux.HandleFunc("GET /v1/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.Encode(map[string]any{"name": "Death Star", "served-by": name, "api": api})
	})
	mux.HandleFunc("POST /v1/request-landing", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "Ship landed")
	})
	mux.HandleFunc("PUT /v1/exhaust-port", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, "Panic: deathstar exploded\n\ngoroutine 1 [running]:\nmain.HandleGarbage(0x2080c3f50, 0x2, 0x4, 0x425c0, 0x5, 0xa)\n")
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return mux
}

func serve(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("serve", flag.ExitOnError)
	listen := fs.String("listen", ":80", "address to serve on")
	fs.Parse(args)
	name, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("reading the host name: %w", err)
	}
	s := &http.Server{Addr: *listen, Handler: routes(name), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		s.Shutdown(end)
	}()
	fmt.Println("serving on", *listen)
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", *listen, err)
	}
	return nil
}

// request asks for landing once, on a new connection, and says how it went.
func request(ctx context.Context, url string, timeout time.Duration) string {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	start := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return "error: " + err.Error()
	}
	res, err := c.Do(req)
	took := time.Since(start).Round(time.Millisecond)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer within %s", timeout)
	case err != nil:
		return "error: " + err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return "error: " + err.Error()
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	return fmt.Sprintf("%d %s (%s)", res.StatusCode, line, took)
}

func land(ctx context.Context, args []string) error {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return errors.New("usage: starwars land URL [-every 1s] [-timeout 2s] [-count 0]")
	}
	fs := flag.NewFlagSet("land", flag.ExitOnError)
	every := fs.Duration("every", time.Second, "time from one request to the next")
	timeout := fs.Duration("timeout", 2*time.Second, "give up on a request after this long")
	count := fs.Int("count", 0, "requests to make; 0 for no end")
	fs.Parse(args[1:])
	tick := time.NewTicker(*every)
	defer tick.Stop()
	for n := 1; ; n++ {
		fmt.Println(time.Now().UTC().Format("15:04:05.000"), request(ctx, args[0], *timeout))
		if n == *count {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := errors.New("usage: starwars serve|land ...")
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "serve":
			err = serve(ctx, os.Args[2:])
		case "land":
			err = land(ctx, os.Args[2:])
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "starwars:", err)
		os.Exit(1)
	}
}
