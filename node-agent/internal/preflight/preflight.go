// Package preflight tells whether a node can run the agent. A check is data; one runner runs them all.
package preflight

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/cni"
	"fairlead.dev/node-agent/internal/datapath"
)

// Outcome of a check.
type Outcome struct {
	// Status is pass, warn, fail or skip.
	Status string `json:"status"`
	// Found is what there is, Expected what is needed, Fix what to do.
	Found    string `json:"found"`
	Expected string `json:"expected"`
	Fix      string `json:"fix,omitempty"`
}

// Check is one question to the node.
type Check struct {
	ID, Title string
	Run       func(context.Context) Outcome
}

// Result is a check with its outcome.
type Result struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Outcome
}

// Only keeps the checks with these ids; all without any. An id that there is not is an error.
func Only(checks []Check, ids []string) ([]Check, error) {
	if len(ids) == 0 {
		return checks, nil
	}
	var out []Check
	for _, id := range ids {
		found := slices.IndexFunc(checks, func(c Check) bool { return c.ID == id })
		if found < 0 {
			return nil, fmt.Errorf("there is no check %q", id)
		}
		out = append(out, checks[found])
	}
	return out, nil
}

// Run runs all checks in order.
func Run(ctx context.Context, checks []Check) []Result {
	out := make([]Result, 0, len(checks))
	for _, c := range checks {
		out = append(out, Result{ID: c.ID, Title: c.Title, Outcome: c.Run(ctx)})
	}
	return out
}

// Print writes the results; it returns an error where one failed.
func Print(w io.Writer, results []Result, asJSON bool) error {
	failed := 0
	for _, r := range results {
		if r.Status == "fail" {
			failed++
		}
	}
	if asJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(map[string]any{"checks": results}); err != nil {
			return err
		}
	} else {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "CHECK\tSTATUS\tFOUND\tEXPECTED\tFIX")
		for _, r := range results {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.Title, r.Status, r.Found, r.Expected, r.Fix)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed", failed, len(results))
	}
	return nil
}

// Checks lists what is asked; peers are the addresses of other nodes.
func Checks(peers []netip.Addr) []Check {
	checks := []Check{
		{"kernel", "Kernel", func(context.Context) Outcome { return kernel() }},
		{"cgroup2", "cgroup2", func(context.Context) Outcome {
			return fileSystem([]string{"/host/sys/fs/cgroup", "/host/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"}, unix.CGROUP2_SUPER_MAGIC, "cgroup2",
				"mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified", "fail")
		}},
		{"bpffs", "bpffs", func(context.Context) Outcome {
			return fileSystem([]string{"/sys/fs/bpf"}, unix.BPF_FS_MAGIC, "a bpf file system", "none needed: the agent mounts it", "warn")
		}},
		{"jit", "BPF JIT", func(context.Context) Outcome { return jit() }},
		{"other-cni", "Other network", func(context.Context) Outcome { return otherNetworks() }},
		{"ports", "Ports", func(context.Context) Outcome { return ports() }},
	}
	checks = append(checks, networkChecks(peers)...)
	for _, f := range datapath.Features(context.Background(), nil) {
		checks = append(checks, Check{"feature-" + f.Name, "Kernel feature " + f.Name, func(context.Context) Outcome { return feature(f) }})
	}
	return checks
}

func feature(f datapath.Feature) Outcome {
	o := Outcome{Found: f.Answer.String(), Expected: "Linux " + f.Since + " with " + f.Config, Status: "pass"}
	switch {
	case f.Answer == datapath.Yes:
	case f.Answer == datapath.CannotTell:
		o.Status, o.Fix = "warn", "run as root"
		if f.Err != nil {
			o.Found += " (" + f.Err.Error() + ")"
		}
	case f.Required:
		o.Status, o.Fix = "fail", "boot a kernel of 5.15 or newer that has it"
	default:
		o.Status, o.Fix = "warn", "none needed: "+f.Without
	}
	return o
}

func kernel() Outcome {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return Outcome{Status: "warn", Found: err.Error(), Expected: "5.15 or newer"}
	}
	release := unix.ByteSliceToString(name.Release[:])
	o := Outcome{Status: "pass", Found: release, Expected: "5.15 or newer"}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err == nil && (major < 5 || major == 5 && minor < 15) {
		o.Status, o.Fix = "fail", "boot a newer kernel"
	}
	return o
}

func fileSystem(paths []string, magic int64, expected, fix, otherwise string) Outcome {
	for _, p := range paths {
		var s unix.Statfs_t
		if unix.Statfs(p, &s) == nil && int64(s.Type) == magic {
			return Outcome{Status: "pass", Found: p, Expected: expected}
		}
	}
	return Outcome{Status: otherwise, Found: "not at " + strings.Join(paths, ", "), Expected: expected, Fix: fix}
}

func jit() Outcome {
	text, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable")
	if os.IsNotExist(err) {
		// Seen from the first network namespace only, and absent where the kernel always compiles.
		return Outcome{Status: "skip", Found: "not to be seen here", Expected: "on"}
	}
	if err != nil {
		return Outcome{Status: "warn", Found: err.Error(), Expected: "on"}
	}
	if strings.TrimSpace(string(text)) == "0" {
		return Outcome{Status: "warn", Found: "off", Expected: "on", Fix: "sysctl -w net.core.bpf_jit_enable=1"}
	}
	return Outcome{Status: "pass", Found: "on", Expected: "on"}
}

func otherNetworks() Outcome {
	for _, directory := range []string{"/host/etc/cni/net.d", "/etc/cni/net.d"} {
		others, err := cni.Others(directory)
		if err != nil {
			continue
		}
		if len(others) > 0 {
			return Outcome{Status: "fail", Found: strings.Join(others, ", "), Expected: "none", Fix: "uninstall the other network and remove its files from " + filepath.Clean(directory)}
		}
		return Outcome{Status: "pass", Found: "none", Expected: "none"}
	}
	return Outcome{Status: "skip", Found: "no /etc/cni/net.d", Expected: "none"}
}

// ports asks whether what the agent listens on is free, or the agent's own.
func ports() Outcome {
	if _, err := net.Dial("unix", "/var/run/fairlead/agent.sock"); err == nil {
		return Outcome{Status: "skip", Found: "the agent runs and has them", Expected: "free"}
	}
	var taken []string
	for _, port := range []int{4240, 4244, 4245, 9962} {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			taken = append(taken, strconv.Itoa(port)+"/tcp")
			continue
		}
		l.Close()
	}
	for _, port := range []int{8472, 6081} {
		l, err := net.ListenPacket("udp", ":"+strconv.Itoa(port))
		if err != nil {
			taken = append(taken, strconv.Itoa(port)+"/udp")
			continue
		}
		l.Close()
	}
	if len(taken) > 0 {
		return Outcome{Status: "fail", Found: strings.Join(taken, ", ") + " taken", Expected: "4240, 4244, 4245, 9962, 8472/udp and 6081/udp free", Fix: "stop what listens there (ss -lntup)"}
	}
	return Outcome{Status: "pass", Found: "free", Expected: "free"}
}
