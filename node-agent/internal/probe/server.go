package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Answer is what the server says of itself and of whom it sees.
type Answer struct {
	Pod    string `json:"pod,omitempty"`
	Node   string `json:"node,omitempty"`
	Client string `json:"client,omitempty"`
	Path   string `json:"path,omitempty"`
	// Received counts the bytes of the request.
	Received int64 `json:"received,omitempty"`
}

// shownBody is how much is kept of an answer that is not our own server's.
const shownBody = 512

func readAnswer(r io.Reader) (answer Answer, text string, size int64, err error) {
	body, err := io.ReadAll(io.LimitReader(r, 64<<20))
	if err != nil {
		return answer, "", int64(len(body)), fmt.Errorf("reading the answer: %w", err)
	}
	// Anything may answer, the API server for one; only our own server speaks of itself, on the first line.
	first, _, _ := strings.Cut(string(body), "\n")
	if json.Unmarshal([]byte(first), &answer) != nil || answer.Pod == "" && answer.Client == "" {
		text = string(body[:min(len(body), shownBody)])
	}
	return answer, text, int64(len(body)), nil
}

// largestDownload bounds what one request may ask for.
const largestDownload = 32 << 20

// Serve answers HTTP and UDP on a port until ctx ends: who it is, and whom it sees. GET /bytes/N adds N bytes.
func Serve(ctx context.Context, port int) error {
	self := Answer{Pod: os.Getenv("POD_NAME"), Node: os.Getenv("NODE_NAME")}
	address := ":" + strconv.Itoa(port)
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return fmt.Errorf("listening for UDP: %w", err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		packets.Close()
		return fmt.Errorf("listening for TCP: %w", err)
	}
	return serve(ctx, self, packets, listener)
}

func serve(ctx context.Context, self Answer, packets net.PacketConn, listener net.Listener) error {
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := self
		answer.Client, answer.Path = r.RemoteAddr, r.URL.Path
		answer.Received, _ = io.Copy(io.Discard, io.LimitReader(r.Body, largestDownload))
		_ = json.NewEncoder(w).Encode(answer)
		if text, ok := strings.CutPrefix(r.URL.Path, "/bytes/"); ok {
			n, err := strconv.ParseInt(text, 10, 64)
			if err == nil && n > 0 {
				_, _ = io.CopyN(w, zeros{}, min(n, largestDownload))
			}
		}
		// Upgrades are long: the client holds this one open and is answered tick by tick.
		if r.URL.Path == "/hold" {
			hold(w, r)
		}
	})}
	stop := context.AfterFunc(ctx, func() {
		server.Close()
		packets.Close()
	})
	defer stop()
	go func() {
		buffer := make([]byte, 64<<10)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			answer := self
			answer.Client, answer.Received = from.String(), int64(n)
			text, _ := json.Marshal(answer)
			_, _ = packets.WriteTo(append(text, '\n'), from)
		}
	}()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// tick is how often a held connection is used.
const tick = 20 * time.Millisecond

func hold(w http.ResponseWriter, r *http.Request) {
	flusher, ok := w.(http.Flusher)
	if !ok {
		return
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		if _, err := io.WriteString(w, "."); err != nil {
			return
		}
		flusher.Flush()
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}
