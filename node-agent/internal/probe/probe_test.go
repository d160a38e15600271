package probe

import (
	"context"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

func start(t *testing.T) (string, context.CancelFunc) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, Answer{Pod: "server", Node: "node1"}, packets, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return listener.Addr().String(), cancel
}

func limited(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func TestTheServerSaysWhoItIsAndWhomItSees(t *testing.T) {
	address, _ := start(t)
	r := HTTP(limited(t, 3*time.Second), http.MethodGet, "http://"+address+"/bytes/100000", 0)
	if !r.OK || r.Peer.Pod != "server" || r.Peer.Client != r.Local || r.Bytes < 100000 {
		t.Errorf("HTTP: %+v", r)
	}
	r = HTTP(limited(t, 3*time.Second), http.MethodPost, "http://"+address+"/up", 50000)
	if !r.OK || r.Peer.Received != 50000 || r.Peer.Path != "/up" {
		t.Errorf("upload: %+v", r)
	}
	r = UDP(limited(t, 3*time.Second), address, 1200)
	if !r.OK || r.Peer.Received != 1200 || r.Peer.Client != r.Local {
		t.Errorf("UDP: %+v", r)
	}
}

func TestFailuresAreToldApart(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().String()
	listener.Close()
	if r := HTTP(limited(t, time.Second), http.MethodGet, "http://"+closed, 0); r.OK || r.Kind != "refused" {
		t.Errorf("a closed port: %+v", r)
	}
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if r := UDP(limited(t, 100*time.Millisecond), silent.LocalAddr().String(), 1); r.OK || r.Kind != "timeout" {
		t.Errorf("nobody answers: %+v", r)
	}
	if r := Name(limited(t, 2*time.Second), "does-not-exist.invalid"); r.OK || r.Kind != "name" {
		t.Errorf("no such name: %+v", r)
	}
	if r := Ping(limited(t, time.Second), "no address", 1); r.OK || r.Kind != "other" {
		t.Errorf("no address: %+v", r)
	}
}

func TestPing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: raw sockets")
	}
	r := Ping(limited(t, 2*time.Second), "127.0.0.1", 1000)
	if !r.OK || r.Bytes != 1000 {
		t.Errorf("%+v", r)
	}
	if r := Ping(limited(t, 2*time.Second), "127.0.0.1", 65520); r.OK || r.Kind != "size" {
		t.Errorf("larger than the link: %+v", r)
	}
}

func TestADisruptionIsNoticed(t *testing.T) {
	address, _ := start(t)
	ctx, stop := context.WithTimeout(context.Background(), 600*time.Millisecond)
	defer stop()
	d := Disrupt(ctx, "http://"+address)
	if d.Broken != 0 || d.Failed != 0 || d.Opened < 3 || d.LongestGapMilliseconds > 400 {
		t.Errorf("an undisturbed server: %+v", d)
	}

	address, kill := start(t)
	ctx, stop = context.WithTimeout(context.Background(), 900*time.Millisecond)
	defer stop()
	time.AfterFunc(300*time.Millisecond, kill)
	d = Disrupt(ctx, "http://"+address)
	if d.Broken == 0 || d.Failed == 0 || !strings.Contains(d.LastError, "refused") {
		t.Errorf("a server that ended: %+v", d)
	}
}
