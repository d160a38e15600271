package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/config"
	"fairlead.dev/node-agent/internal/datapath"
)

// withoutBTF is a kernel that has everything but type information.
type withoutBTF struct{}

func (withoutBTF) Probe(name string) error {
	if name == "btf" {
		return fmt.Errorf("%w: no /sys/kernel/btf/vmlinux", ebpf.ErrNotSupported)
	}
	return nil
}

func TestKernelWithoutBTFIsNamedWithAFix(t *testing.T) {
	c := newComponents(slog.Default())
	// Features are asked before anything is touched, so this needs no rights.
	_, err := datapath.Open(context.Background(), datapath.Config{NodeName: "node1", NodeAddress: netip.MustParseAddr("192.0.2.1"),
		RouterAddress: netip.MustParseAddr("10.0.0.1"), PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}, Routing: datapath.RoutingTunnel,
		Devices: []string{"eth0"}, CgroupRoot: t.TempDir(), BPFFS: t.TempDir()}, datapath.WithProbes(withoutBTF{}))
	if err == nil {
		t.Fatal("the datapath opened")
	}
	c.fail("datapath", err, "")
	got := c.list()[0]
	if got.State != api.StateFailing || !strings.Contains(got.Message, "btf") || got.Fix == "" {
		t.Fatalf("got %+v", got)
	}
}

func TestComponentsSayEachChangeOnce(t *testing.T) {
	var log bytes.Buffer
	c := newComponents(slog.New(slog.NewTextHandler(&log, nil)))
	c.ok("a", "fine")
	c.ok("a", "fine")
	_, err := config.Parse([]byte("MTU: 3"))
	c.fail("b", err, "")
	c.ok("a", "finer")
	list := c.list()
	if len(list) != 2 || list[0].Message != "finer" || list[1].State != api.StateFailing || list[1].Fix == "" {
		t.Fatalf("got %+v", list)
	}
	if n := strings.Count(log.String(), "component"); n != 3 {
		t.Fatalf("%d lines for 3 changes:\n%s", n, log.String())
	}
}

func TestTwoAgentsAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.lock")
	first, err := acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	var running *AlreadyRunningError
	if _, err := acquire(path); !errors.As(err, &running) {
		t.Fatalf("got %v", err)
	}
	first.Close()
	again, err := acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestQueueTakesEachKeyOnceUntilItIsAddedAgain(t *testing.T) {
	q := newQueue()
	for _, key := range []string{"a", "b", "a"} {
		q.add(key)
	}
	ctx, stop := context.WithCancel(context.Background())
	var got []string
	q.run(ctx, func(key string) {
		got = append(got, key)
		if len(got) == 2 {
			q.add("a")
		}
		if len(got) == 3 {
			stop()
		}
	})
	if !slices.Equal(got, []string{"a", "b", "a"}) {
		t.Fatalf("got %v", got)
	}
}
