package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"fairlead.dev/node-agent/internal/cni"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/podlink"
	"fairlead.dev/node-agent/internal/journal"
)

// CleanupOptions say where the agent's traces are.
type CleanupOptions struct {
	RunDirectory, StateDirectory, HubbleSocket, BPFFS string
	// Cgroups are where programs for sockets may be attached; those that there are, are looked at.
	Cgroups []string
	// Stay answers health probes afterwards until ctx ends.
	Stay, JSON bool
}

// system is the node, for journal.Replay. Paths of the node's own directories are found below /host where the cleanup
// runs in the agent's container.
type system struct{}

func onNode(path string) string {
	for _, directory := range []string{"/opt/cni/bin", "/etc/cni/net.d"} {
		if strings.HasPrefix(path, directory+"/") {
			if _, err := os.Stat("/host" + directory); err == nil {
				return "/host" + path
			}
		}
	}
	return path
}

func (system) RemoveLink(name string) error { return podlink.TeardownPodInterface(name) }

// RemoveNftables is the datapath's own affair; see datapath.Cleanup.
func (system) RemoveNftables(string) error { return nil }

func (system) Run(command string) error { return journal.RunCommand(command) }

func (system) WriteFile(path, content string) error { return os.WriteFile(path, []byte(content), 0) }

func (system) ReadFile(path string) (string, error) {
	text, err := os.ReadFile(path)
	return string(text), err
}

func (system) Remove(path string) error { return os.RemoveAll(onNode(path)) }

func (system) Rename(from, to string) error {
	if err := os.Rename(onNode(from), onNode(to)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// report is what a cleanup did and found.
type report struct {
	Undone  []string `json:"undone"`
	Failed  []string `json:"failed"`
	Residue []string `json:"residue"`
}

func (r report) clean() bool { return len(r.Failed) == 0 && len(r.Residue) == 0 }

// Cleanup undoes everything, and then looks whether anything is left; that is an error.
func Cleanup(ctx context.Context, o CleanupOptions, w io.Writer) error {
	if err := os.MkdirAll(o.RunDirectory, 0o755); err != nil {
		return err
	}
	lock, err := acquire(filepath.Join(o.RunDirectory, "agent.lock"))
	if err != nil {
		return fmt.Errorf("cleaning up: %w", err)
	}
	defer lock.Close()
	var mu sync.Mutex
	done, result := false, report{}
	if o.Stay {
		mux := http.NewServeMux()
		mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
		mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if !done || !result.clean() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_ = json.NewEncoder(w).Encode(result)
		})
		listener, err := net.Listen("tcp", healthAddress)
		if err != nil {
			return fmt.Errorf("listening for health probes: %w", err)
		}
		server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
		context.AfterFunc(ctx, func() { server.Close() })
		go func() { _ = server.Serve(listener) }()
	}
	outcome := clean(ctx, o)
	mu.Lock()
	result, done = outcome, true
	mu.Unlock()
	if err := outcome.print(w, o.JSON); err != nil {
		return err
	}
	if o.Stay {
		<-ctx.Done()
		return nil
	}
	if !outcome.clean() {
		return fmt.Errorf("%d changes could not be undone and %d traces remain on this node", len(outcome.Failed), len(outcome.Residue))
	}
	return nil
}

func clean(ctx context.Context, o CleanupOptions) (r report) {
	note := func(what string, err error) {
		if err != nil {
			r.Failed = append(r.Failed, what+": "+err.Error())
			return
		}
		r.Undone = append(r.Undone, what)
	}
	path := filepath.Join(o.StateDirectory, "journal.jsonl")
	entries, err := journal.Read(path)
	if err != nil {
		note("reading the journal", err)
	}
	links, err := podlink.List()
	if err != nil {
		note("listing pods' interfaces", err)
	}
	for _, name := range links {
		note("interface "+name+" removed", podlink.TeardownPodInterface(name))
	}
	note("programs, maps, interfaces, routes and rules removed", datapath.Cleanup(ctx, o.BPFFS))
	for _, u := range journal.Replay(entries, system{}) {
		if u.Err != nil {
			note(u.Entry.Kind+" "+u.Entry.Subject, u.Err)
			continue
		}
		r.Undone = append(r.Undone, u.Entry.Kind+" "+u.Entry.Subject+": "+u.Done)
	}
	for _, file := range []string{o.HubbleSocket, filepath.Join(o.RunDirectory, "state"), filepath.Join(o.RunDirectory, "deleted"),
		filepath.Join(o.RunDirectory, "agent.sock"), filepath.Join(o.RunDirectory, "cni.sock"),
		onNode("/opt/cni/bin/" + cni.BinaryName), onNode("/etc/cni/net.d/" + cni.ConflistName)} {
		if err := os.RemoveAll(file); err != nil {
			note("removing "+file, err)
		}
	}
	if len(r.Failed) == 0 {
		note("journal removed", journal.Remove(path))
	}
	r.Residue = residue(o)
	if r.clean() {
		// The directories are ours; where they are mounts of a container, they stay, empty.
		_ = os.Remove(filepath.Join(o.RunDirectory, "agent.lock"))
		_ = os.Remove(o.RunDirectory)
		_ = os.Remove(filepath.Join(o.StateDirectory, "tls"))
		_ = os.Remove(o.StateDirectory)
		_ = os.Remove(filepath.Dir(o.HubbleSocket))
	}
	return r
}

// residue looks for traces without asking the journal.
func residue(o CleanupOptions) []string {
	var out []string
	if links, err := netlink.LinkList(); err != nil {
		out = append(out, "interfaces cannot be listed: "+err.Error())
	} else {
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, "fairlead") {
				out = append(out, "interface "+l.Attrs().Name)
			}
		}
	}
	if links, err := podlink.List(); err == nil {
		for _, name := range links {
			out = append(out, "pod's interface "+name)
		}
	}
	out = append(out, datapath.Residue(o.BPFFS, o.Cgroups)...)
	if others, err := cni.AsideIn(onNode("/etc/cni/net.d")); err == nil {
		for _, name := range others {
			out = append(out, "another plugin's configuration set aside: "+name)
		}
	}
	for _, path := range []string{onNode("/opt/cni/bin/" + cni.BinaryName), onNode("/etc/cni/net.d/" + cni.ConflistName),
		filepath.Join(o.StateDirectory, "journal.jsonl"), filepath.Join(o.RunDirectory, "state"), o.HubbleSocket} {
		if _, err := os.Lstat(path); err == nil {
			out = append(out, "file "+path)
		}
	}
	return out
}

func (r report) print(w io.Writer, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	for _, line := range r.Undone {
		fmt.Fprintln(w, "done     ", line)
	}
	for _, line := range r.Failed {
		fmt.Fprintln(w, "failed   ", line)
	}
	for _, line := range r.Residue {
		fmt.Fprintln(w, "remains  ", line)
	}
	if r.clean() {
		_, err := fmt.Fprintln(w, "nothing of fairlead remains on this node")
		return err
	}
	return nil
}
