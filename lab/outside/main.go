// outside is the rest of the world, seen from the lab's cluster: an HTTP server
// on ports 80 and 8080 that answers with the address it sees its peer at, and
// TCP and UDP echo on port 7. (DNS on port 53 is CoreDNS.)
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// seen is what the server knows of one request. Address and port are the
// peer's as they arrive here, which is where masquerading shows.
type seen struct {
	Peer   string `json:"peer"`
	Port   int    `json:"port"`
	Local  string `json:"local"`
	Method string `json:"method"`
	Host   string `json:"host"`
	Path   string `json:"path"`
}

func answer(w http.ResponseWriter, r *http.Request) {
	host, port, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	n, _ := strconv.Atoi(port) // SplitHostPort of a TCP peer: always a number
	local := ""
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		local = a.String()
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(seen{Peer: host, Port: n, Local: local, Method: r.Method, Host: r.Host, Path: r.URL.RequestURI()})
}

func echoTCP(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accepting echo: %w", err)
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

func echoUDP(c net.PacketConn) error {
	buf := make([]byte, 65536)
	for {
		n, peer, err := c.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("reading echo: %w", err)
		}
		// A peer that is gone is its own affair.
		_, _ = c.WriteTo(buf[:n], peer)
	}
}

func run() error {
	errs := make(chan error, 4)
	for _, addr := range []string{":80", ":8080"} {
		s := &http.Server{Addr: addr, Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second}
		go func() { errs <- fmt.Errorf("serving %s: %w", addr, s.ListenAndServe()) }()
	}
	l, err := net.Listen("tcp", ":7")
	if err != nil {
		return fmt.Errorf("listening on TCP 7: %w", err)
	}
	u, err := net.ListenPacket("udp", ":7")
	if err != nil {
		return fmt.Errorf("listening on UDP 7: %w", err)
	}
	go func() { errs <- echoTCP(l) }()
	go func() { errs <- echoUDP(u) }()
	return <-errs
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "outside:", err)
		os.Exit(1)
	}
}
