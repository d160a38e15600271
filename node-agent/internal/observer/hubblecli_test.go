package observer_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fairlead.dev/node-agent/internal/flows/flowtest"
	"fairlead.dev/node-agent/internal/observer/observertest"
)

// hubbleBinary finds the stock client that scripts/build-hubble.mjs builds; both hash the same pins.
func hubbleBinary(t *testing.T) string {
	t.Helper()
	hash := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join("..", "..", "..", "e2e", "hubble", name))
		if err != nil {
			t.Fatal(err)
		}
		hash.Write(content)
	}
	cache := os.Getenv("FAIRLEAD_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(user, "fairlead")
	}
	binary := filepath.Join(cache, "hubble", hex.EncodeToString(hash.Sum(nil))[:16], "hubble")
	if _, err := os.Stat(binary); err != nil {
		t.Skipf("the stock hubble client is not built: %v; run node scripts/build-hubble.mjs", err)
	}
	return binary
}

// client runs the stock hubble client with a configuration of its own.
type client struct {
	binary string
	server []string
	home   string
}

func (c client) command(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, c.binary, append(args, c.server...)...)
	command.Env = []string{"HOME=" + c.home, "XDG_CONFIG_HOME=" + c.home}
	return command
}

func (c client) run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	command := c.command(ctx, args...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("hubble %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func mustContain(t *testing.T, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("the output lacks %q:\n%s", text, out)
		}
	}
}

// The stock client, unchanged, shows our flows in its own words, over both wires.
func TestStockHubbleClient(t *testing.T) {
	binary := hubbleBinary(t)
	for _, wire := range []struct {
		name  string
		flags func(*observertest.Server) []string
	}{
		{"unix socket", func(s *observertest.Server) []string { return []string{"--server", "unix://" + s.Socket} }},
		{"mTLS", func(s *observertest.Server) []string {
			return []string{
				"--server", "tls://" + s.Address, "--tls", "--tls-ca-cert-files", s.CA,
				"--tls-client-cert-file", s.Certificate, "--tls-client-key-file", s.Key, "--tls-server-name", s.ServerName,
			}
		}},
	} {
		t.Run(wire.name, func(t *testing.T) {
			server := startServer(t)
			walk(t, client{binary, wire.flags(server), t.TempDir()}, server)
		})
	}
}

// startServer serves one round of the demo's traffic.
func startServer(t *testing.T) *observertest.Server {
	t.Helper()
	// A Unix socket's path has at most 108 characters, which t.TempDir can exceed.
	directory, err := os.MkdirTemp("", "observer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	server, err := observertest.Start(directory, flowtest.NewStore(4095))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	observertest.Traffic(server.Store, time.Now(), 40000)
	return server
}

func walk(t *testing.T, hubble client, server *observertest.Server) {
	t.Run("status", func(t *testing.T) {
		mustContain(t, hubble.run(t, "status"), "): Ok", "Current/Max Flows: ", "/4,095", "Flows/s: ")
	})
	t.Run("observe compact", func(t *testing.T) {
		mustContain(t, hubble.run(t, "observe", "--last", "20", "--print-policy-names"),
			"default/tiefighter (ID:4002) <> default/deathstar:80 (world) pre-xlate-fwd TRACED (TCP)",
			"default/tiefighter (ID:4002) <> default/deathstar-6c94:80 (ID:4001) post-xlate-fwd TRANSLATED (TCP)",
			"default/tiefighter:40000 (ID:4002) -> default/deathstar-6c94:80 (ID:4001) policy-verdict:L3-L4 INGRESS ALLOWED BY rule1 (CiliumNetworkPolicy) (TCP Flags: SYN)",
			"default/tiefighter:40000 (ID:4002) -> default/deathstar-6c94:80 (ID:4001) to-endpoint FORWARDED (TCP Flags: SYN)",
			"default/tiefighter:40000 (ID:4002) <- default/deathstar-6c94:80 (ID:4001) to-endpoint FORWARDED (TCP Flags: SYN, ACK)",
			"rebels/xwing:40000 (ID:4003) <> default/deathstar-6c94:80 (ID:4001) policy-verdict:none INGRESS DENIED BY rule1 (CiliumNetworkPolicy) (TCP Flags: SYN)",
			"rebels/xwing:40000 (ID:4003) <> default/deathstar-6c94:80 (ID:4001) Policy denied DROPPED (TCP Flags: SYN)",
			"default/tiefighter:40000 (ID:4002) -> 192.0.2.7:80 (world) to-stack FORWARDED (TCP Flags: SYN)",
			"172.18.0.2 (host) -> default/deathstar-6c94 (ID:4001) to-endpoint FORWARDED (ICMPv4 EchoRequest)")
	})
	t.Run("observe dict", func(t *testing.T) {
		mustContain(t, hubble.run(t, "observe", "--verdict", "DROPPED", "--type", "drop", "-o", "dict"),
			"     SOURCE: rebels/xwing:40000", "DESTINATION: default/deathstar-6c94:80", "       TYPE: Policy denied",
			"    VERDICT: DROPPED")
	})
	t.Run("observe json", func(t *testing.T) {
		out := hubble.run(t, "observe", "--type", "drop", "--last", "1", "-o", "jsonpb")
		var line struct {
			NodeName string `json:"node_name"`
			Flow     struct {
				Verdict        string                        `json:"verdict"`
				DropReasonDesc string                        `json:"drop_reason_desc"`
				DeniedBy       []struct{ Name, Kind string } `json:"ingress_denied_by"`
			}
		}
		if err := json.Unmarshal([]byte(out), &line); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		f := line.Flow
		if line.NodeName != "default/node1" || f.Verdict != "DROPPED" || f.DropReasonDesc != "POLICY_DENIED" ||
			len(f.DeniedBy) != 1 || f.DeniedBy[0].Name != "rule1" {
			t.Errorf("got %s", out)
		}
	})
	t.Run("observe filters", func(t *testing.T) {
		for _, test := range []struct {
			args  []string
			lines int
		}{
			{[]string{"--namespace", "rebels"}, 2},
			{[]string{"--pod", "default/tiefighter"}, 6},
			{[]string{"--label", "org=alliance"}, 2},
			{[]string{"--from-label", "org in (empire),class=tiefighter", "--to-ip", "192.0.2.0/24"}, 1},
			{[]string{"--protocol", "icmp"}, 1},
			{[]string{"--port", "80", "--verdict", "FORWARDED", "--type", "trace"}, 3},
			{[]string{"--to-service", "default/deathstar"}, 1},
			{[]string{"--identity", "world"}, 2},
			{[]string{"--not", "--namespace", "default"}, 0},
			{[]string{"--node-name", "node1"}, 9},
			{[]string{"--tcp-flags", "SYN,ACK"}, 1},
			{[]string{"--workload", "Deployment/deathstar", "--traffic-direction", "ingress", "--drop-reason-desc", "POLICY_DENIED"}, 2},
			{[]string{"--since", "1h", "--until", "0s", "--first", "2"}, 2},
		} {
			out := hubble.run(t, append([]string{"observe"}, test.args...)...)
			if lines := strings.Count(out, "\n"); lines != test.lines {
				t.Errorf("%s: %d lines, want %d:\n%s", strings.Join(test.args, " "), lines, test.lines, out)
			}
		}
	})
	t.Run("observe follow", func(t *testing.T) { follow(t, hubble, server) })
	t.Run("lists", func(t *testing.T) {
		mustContain(t, hubble.run(t, "list", "nodes", "-o", "wide"), "node1", "Connected", "node2", "172.18.0.2:4244",
			"fairlead-agent 0.1.0-test", "Enabled")
		mustContain(t, hubble.run(t, "list", "namespaces"), "default", "rebels")
	})
	t.Run("events that we have none of", func(t *testing.T) {
		if out := hubble.run(t, "observe", "agent-events") + hubble.run(t, "observe", "debug-events"); strings.TrimSpace(out) != "" {
			t.Errorf("got %q", out)
		}
	})
	t.Run("watch peers", func(t *testing.T) {
		first := firstLines(t, hubble, 2, nil, "watch", "peers")
		mustContain(t, strings.Join(first, "\n"), "PEER_ADDED", "172.18.0.3:4244", "node2")
	})
}

// follow: new drops of one pod arrive while the client waits, and nothing else does.
func follow(t *testing.T, hubble client, server *observertest.Server) {
	seen := firstLines(t, hubble, 3, func() { observertest.Traffic(server.Store, time.Now(), 47000) },
		"observe", "--follow", "--pod", "rebels/xwing", "--verdict", "DROPPED", "--last", "1")
	if len(seen) != 3 {
		t.Fatalf("got %q", seen)
	}
	mustContain(t, seen[0], "rebels/xwing", "Policy denied DROPPED")
	mustContain(t, seen[1], "rebels/xwing:47000", "policy-verdict:none INGRESS DENIED")
	mustContain(t, seen[2], "rebels/xwing:47000", "Policy denied DROPPED")
}

// firstLines runs a client that does not end, calls after its first line what was given, and stops it after n lines.
func firstLines(t *testing.T, hubble client, n int, after func(), args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	command := hubble.command(ctx, args...)
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for scanner := bufio.NewScanner(out); len(lines) < n && scanner.Scan(); {
		lines = append(lines, scanner.Text())
		if len(lines) == 1 && after != nil {
			after()
		}
	}
	cancel()
	_ = command.Wait()
	return lines
}
