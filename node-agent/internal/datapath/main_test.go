package datapath_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

var errNotSupported = ebpf.ErrNotSupported

// TestMain also serves as the process that connects from inside of a cgroup.
func TestMain(m *testing.M) {
	if to := os.Getenv("FAIRLEAD_TEST_CONNECT"); to != "" {
		os.Exit(connectFromHere(to))
	}
	os.Exit(m.Run())
}

func connectFromHere(to string) int {
	if err := os.WriteFile(os.Getenv("FAIRLEAD_TEST_CGROUP")+"/cgroup.procs", []byte("0"), 0o644); err != nil {
		fmt.Println(err)
		return 1
	}
	c, err := net.DialTimeout("tcp4", to, 2*time.Second)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer c.Close()
	answer, err := ask(c, "hello")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Printf("peer %s answered %s\n", c.RemoteAddr(), answer)
	return 0
}

// inCgroup connects from a process of the node's cgroup in the namespace.
func (n *node) inCgroup(s *space, to string) (out string, err error) {
	err = s.in(func() error {
		command := exec.Command(os.Args[0])
		command.Env = append(os.Environ(), "FAIRLEAD_TEST_CONNECT="+to, "FAIRLEAD_TEST_CGROUP="+n.cgroup)
		raw, err := command.CombinedOutput()
		out = string(raw)
		return err
	})
	return out, err
}
