package journal

import (
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/smalldisk"
)

func TestRecordSurvivesCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	must(t, j.Record("sysctl", "net.ipv4.ip_forward", "0", "1", "sysctl -w net.ipv4.ip_forward=0"))
	must(t, j.Record("link", "fairlead_host", "", "veth", "ip link del fairlead_host"))
	must(t, j.Close())
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = file.WriteString(`{"sequence":3,"kind":"fi`)
	file.Close()

	j, err = Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	// The same again, as a restarted agent finds it: the value before is the first one found, not our own.
	must(t, j.Record("sysctl", "net.ipv4.ip_forward", "1", "1", "sysctl -w net.ipv4.ip_forward=0"))
	must(t, j.Record("sysctl", "net.ipv4.ip_forward", "1", "2", "sysctl -w net.ipv4.ip_forward=0"))
	entries, err := j.Entries()
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 || entries[2].Sequence != 3 || entries[2].Before != "0" {
		t.Fatalf("got %+v", entries)
	}
}

type fakeSystem struct {
	done  []string
	files map[string]string
}

func (f *fakeSystem) note(words ...string) error {
	f.done = append(f.done, strings.Join(words, " "))
	return nil
}
func (f *fakeSystem) RemoveLink(n string) error     { return f.note("link", n) }
func (f *fakeSystem) RemoveNftables(n string) error { return f.note("nft", n) }
func (f *fakeSystem) Run(c string) error            { return f.note("run", c) }
func (f *fakeSystem) WriteFile(p, c string) error   { return f.note("write", p, c) }
func (f *fakeSystem) Remove(p string) error         { return f.note("remove", p) }
func (f *fakeSystem) Rename(from, to string) error  { return f.note("rename", from, to) }
func (f *fakeSystem) ReadFile(p string) (string, error) {
	if c, ok := f.files[p]; ok {
		return c, nil
	}
	return "", os.ErrNotExist
}

func TestReplayGoesBackwards(t *testing.T) {
	entries := []Entry{
		{Kind: "sysctl", Subject: "net.ipv4.ip_forward", Before: "0", After: "1"},
		{Kind: "sysctl", Subject: "net.ipv4.conf.all.rp_filter", Before: "1", After: "0"},
		{Kind: "link", Subject: "fairlead_host"},
		{Kind: "sysctl", Subject: "net.ipv4.conf.gone.rp_filter", Before: "1", After: "0"},
		{Kind: "nftables", Subject: "inet fairlead"},
		{Kind: "route", Subject: "10.0.2.0/24", Undo: "ip route del 10.0.2.0/24"},
		{Kind: "link", Subject: "fairlead_host", Before: "veth"},
		{Kind: "file", Subject: "/etc/cni/net.d/10-x.conf", Before: "10-x.conf", After: "set aside", Undo: "mv /a/b.off /a/b"},
	}
	s := &fakeSystem{files: map[string]string{
		"/proc/sys/net/ipv4/ip_forward":         "1\n",
		"/proc/sys/net/ipv4/conf/all/rp_filter": "2\n",
	}}
	for _, u := range Replay(entries, s) {
		if u.Err != nil {
			t.Errorf("%+v", u)
		}
	}
	want := []string{"rename /a/b.off /a/b", "link fairlead_host", "run ip route del 10.0.2.0/24", "nft inet fairlead", "write /proc/sys/net/ipv4/ip_forward 0"}
	if !slices.Equal(s.done, want) {
		t.Fatalf("got %q, want %q", s.done, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestShortWriteLeavesNoHalfLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j, err := Open(path)
	must(t, err)
	defer j.Close()
	must(t, j.Record("sysctl", "a", "0", "1", ""))
	info, err := os.Stat(path)
	must(t, err)
	// As on a full disk: the kernel takes a part of the line only.
	var before unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &before))
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(info.Size()) + 10, Max: before.Max}))
	refused := j.Record("sysctl", "b", "0", "1", "")
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &before))
	if refused == nil {
		t.Fatal("the short write was not noticed")
	}
	must(t, j.Record("sysctl", "c", "0", "1", ""))
	entries, err := j.Entries()
	must(t, err)
	if len(entries) != 2 || entries[1].Subject != "c" || entries[1].Sequence != 2 {
		t.Fatalf("got %+v", entries)
	}
}

// What is kept ahead outlives the agent: one that starts on a full disk, after a crash in the middle of a line, records what it does.
func TestSpaceIsKeptAhead(t *testing.T) {
	directory := smalldisk.New(t)
	path := filepath.Join(directory, "journal.jsonl")
	j, err := Open(path)
	must(t, err)
	must(t, j.Record("sysctl", "first", "0", "1", strings.Repeat("x", 500)))
	if err := os.WriteFile(filepath.Join(directory, "ballast"), make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the file system is not full")
	}
	for _, subject := range []string{"second", "third", "fourth"} {
		must(t, j.Close())
		j, err = Open(path)
		must(t, err)
		must(t, j.Record("sysctl", subject, "0", "1", strings.Repeat("x", 3000)))
	}
	if err := j.Reserve(); err == nil {
		t.Error("on a full disk nothing is said of the space that is used up")
	}
	must(t, j.Close())
	found, err := Read(path)
	must(t, err)
	if len(found) != 4 || found[3].Subject != "fourth" {
		t.Errorf("recorded are %d changes: %+v", len(found), found)
	}
}
