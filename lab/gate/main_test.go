package main

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in   string
		want forward
		bad  bool
	}{
		{in: "api=@172.31.77.10:6443", want: forward{Name: "api", Target: "172.31.77.10:6443"}},
		{in: "node1=40001@172.31.77.11:22", want: forward{Name: "node1", Port: 40001, Target: "172.31.77.11:22"}},
		{in: "node1=70000@172.31.77.11:22", bad: true},
		{in: "node1=x@172.31.77.11:22", bad: true},
		{in: "node1=172.31.77.11:22", bad: true},
		{in: "node1=@172.31.77.11", bad: true},
		{in: "=@172.31.77.11:22", bad: true},
	} {
		got, err := parse(c.in)
		if (err != nil) != c.bad || got != c.want {
			t.Errorf("parse(%q) = %+v, %v", c.in, got, err)
		}
	}
}

func TestOpenRefusesATakenPort(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, _, err := open([]forward{{Name: "api", Port: l.Addr().(*net.TCPAddr).Port, Target: "127.0.0.1:1"}}); err == nil {
		t.Fatal("a taken port was accepted")
	}
}

func TestWriteState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gate.json")
	if err := writeState(path, map[string]int{"api": 1, "node1": 2}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	// The lab's shell reads one "name": port per line.
	if want := "{\n  \"api\": 1,\n  \"node1\": 2\n}\n"; err != nil || string(b) != want {
		t.Fatalf("got %q, %v", b, err)
	}
}

// The far end answers only after it has seen the end of what it was sent, so a
// relay that does not pass a half-close on never ends.
func TestRelayPassesHalfClose(t *testing.T) {
	far, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	go func() {
		c, err := far.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		c.Write(append([]byte("seen "), b...))
	}()
	near, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	go accept(near, far.Addr().String())
	c, err := net.Dial("tcp4", near.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("all"))
	c.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "seen all" {
		t.Fatalf("got %q, %v", got, err)
	}
}
