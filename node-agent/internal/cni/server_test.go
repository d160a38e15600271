package cni

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fairlead.dev/node-agent/internal/datapath/podlink"
	"fairlead.dev/node-agent/internal/endpoints"
	"fairlead.dev/node-agent/internal/ipam"
)

type fakeEndpoints struct {
	detached []string
	err      error
}

func (f *fakeEndpoints) Reserve(context.Context, endpoints.Request) (endpoints.Endpoint, error) {
	return endpoints.Endpoint{Address: netip.MustParseAddr("10.0.0.2")}, f.err
}

func (f *fakeEndpoints) Attach(_ context.Context, _ endpoints.Request, l podlink.Details) (endpoints.Endpoint, error) {
	return endpoints.Endpoint{Address: netip.MustParseAddr("10.0.0.2"), Link: l}, f.err
}

func (f *fakeEndpoints) Detach(_ context.Context, id, name string) error {
	f.detached = append(f.detached, id+"/"+name)
	return f.err
}

func (f *fakeEndpoints) ByContainer(string, string) (endpoints.Endpoint, bool) {
	return endpoints.Endpoint{}, false
}
func (f *fakeEndpoints) Collect(context.Context, map[string]struct{}) error { return nil }

func TestVerbs(t *testing.T) {
	exhausted := &ipam.ExhaustedError{Prefix: netip.MustParsePrefix("10.0.0.0/30"), Used: 1}
	tests := []struct {
		verb            string
		notReady, fails error
		temporary       bool
		message         string
	}{
		{verb: "reserve"},
		{verb: "attach"},
		{verb: "detach"},
		{verb: "status"},
		{verb: "check", message: "no endpoint"},
		{verb: "reserve", notReady: errors.New("starting"), temporary: true, message: "starting"},
		{verb: "status", notReady: errors.New("starting"), temporary: true, message: "starting"},
		{verb: "detach", notReady: errors.New("starting")},
		{verb: "reserve", fails: exhausted, temporary: true, message: "no address is left"},
		{verb: "attach", fails: errors.New("broken"), message: "broken"},
	}
	for _, tt := range tests {
		t.Run(tt.verb, func(t *testing.T) {
			s := &Server{Endpoints: &fakeEndpoints{err: tt.fails}, Router: netip.MustParseAddr("10.0.0.1"), MTU: func() int { return 1450 },
				Ready: func() error { return tt.notReady }, Log: slog.Default()}
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/"+tt.verb, strings.NewReader(`{"ContainerID":"c","NetworkInterface":"eth0"}`)))
			var reply Reply
			if err := json.Unmarshal(w.Body.Bytes(), &reply); err != nil {
				t.Fatal(err, w.Body.String())
			}
			if (tt.message == "") != (reply.Error == "") || !strings.Contains(reply.Error, tt.message) || reply.Temporary != tt.temporary {
				t.Fatalf("got %+v", reply)
			}
		})
	}
}

func TestTombstones(t *testing.T) {
	directory := t.TempDir()
	for _, id := range []string{"one", "two"} {
		if err := bury(directory, Tombstone{ContainerID: id, NetworkInterface: "eth0"}); err != nil {
			t.Fatal(err)
		}
	}
	f := &fakeEndpoints{err: errors.New("broken")}
	if err := ProcessTombstones(context.Background(), directory, f.Detach); err == nil {
		t.Fatal("the error was swallowed")
	}
	f = &fakeEndpoints{}
	if err := ProcessTombstones(context.Background(), directory, f.Detach); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(directory); len(left) != 0 || !slices.Equal(f.detached, []string{"one/eth0", "two/eth0"}) {
		t.Fatalf("left %v, detached %v", left, f.detached)
	}
}

func TestInstall(t *testing.T) {
	binaries, configs := t.TempDir(), t.TempDir()
	path, err := InstallBinary(binaries)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := os.Stat(path)
	if _, err := InstallBinary(binaries); err != nil {
		t.Fatal(err)
	}
	second, _ := os.Stat(path)
	if !os.SameFile(first, second) || second.Mode().Perm() != 0o755 {
		t.Fatalf("the same binary was written again, or cannot be executed: %v", second.Mode())
	}
	if err := os.WriteFile(filepath.Join(configs, "10-other.conflist"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteConflist(configs); err != nil {
		t.Fatal(err)
	}
	others, err := Others(configs)
	if err != nil || !slices.Equal(others, []string{"10-other.conflist"}) {
		t.Fatalf("got %v, %v", others, err)
	}
	recorded := ""
	if err := SetAside(configs, others, func(_, _, _, _, undo string) error { recorded = undo; return nil }); err != nil {
		t.Fatal(err)
	}
	if others, _ := Others(configs); len(others) != 0 || !strings.HasPrefix(recorded, "mv ") {
		t.Fatalf("left %v, recorded %q", others, recorded)
	}
	if left, _ := filepath.Glob(filepath.Join(configs, ".*")); len(left) != 0 {
		t.Fatalf("temporary files are left: %v", left)
	}
}
