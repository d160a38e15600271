package datapath_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
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
	network := os.Getenv("FAIRLEAD_TEST_NETWORK")
	if network == "" {
		network = "tcp4"
	}
	if at, ok := strings.CutPrefix(to, "bind:"); ok {
		var l io.Closer
		var err error
		if strings.HasPrefix(network, "udp") {
			l, err = net.ListenPacket(network, at)
		} else {
			l, err = net.Listen(network, at)
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		l.Close()
		return 0
	}
	if to, ok := strings.CutPrefix(to, "unconnected:"); ok {
		return sendFromHere(network, to)
	}
	c, err := socketOf(network, to)
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
	// Each further line is a question.
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if answer, err := ask(c, in.Text()); err != nil {
			fmt.Printf("error %v\n", err)
		} else {
			fmt.Printf("answer %s\n", answer)
		}
	}
	return 0
}

// sendFromHere asks by one unconnected socket, a datagram for each receiver, and tells who answered.
func sendFromHere(network, receivers string) int {
	c, err := net.ListenPacket(network, ":0")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer c.Close()
	for _, to := range strings.Split(receivers, ",") {
		b := make([]byte, 2048)
		var from net.Addr
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		address, err := net.ResolveUDPAddr(network, to)
		if err == nil {
			_, err = c.WriteTo([]byte("hello\n"), address)
		}
		n := 0
		if err == nil {
			n, from, err = c.ReadFrom(b)
		}
		if err != nil {
			fmt.Printf("%s: %v\n", to, err)
			continue
		}
		fmt.Printf("%s: %s answered %s\n", to, from, strings.TrimSpace(string(b[:n])))
	}
	return 0
}

// socketOf is a socket of one of Go's networks, or of those that Go's Dial does not make: "unconnected4" and "unconnected6"
// name the other side with each datagram, as the C library of Alpine does for DNS; with "mapped-" a socket of IPv6 talks to
// an address of IPv4, as those of Java do.
func socketOf(network, to string) (net.Conn, error) {
	switch network {
	case "unconnected4", "unconnected6", "mapped-unconnected":
		// Of "udp" Go makes a socket of IPv6 that takes both families.
		family, known := map[string]string{"unconnected4": "udp4", "unconnected6": "udp6"}[network]
		if !known {
			family = "udp"
		}
		c, err := net.ListenPacket(family, ":0")
		if err != nil {
			return nil, err
		}
		a, err := net.ResolveUDPAddr("udp", to)
		return &unconnected{PacketConn: c, to: a}, err
	case "mapped-udp", "mapped-tcp":
		a, err := netip.ParseAddrPort(to)
		if err != nil {
			return nil, err
		}
		kind := unix.SOCK_DGRAM
		if network == "mapped-tcp" {
			kind = unix.SOCK_STREAM
		}
		fd, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fd), network)
		defer f.Close()
		if err := unix.Connect(fd, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}); err != nil {
			return nil, err
		}
		return net.FileConn(f)
	}
	return net.DialTimeout(network, to, 2*time.Second)
}

// unconnected is a socket of datagrams whose other side is who answered last.
type unconnected struct {
	net.PacketConn
	to, from net.Addr
}

func (u *unconnected) Write(b []byte) (int, error) { return u.WriteTo(b, u.to) }
func (u *unconnected) RemoteAddr() net.Addr        { return u.from }
func (u *unconnected) Read(b []byte) (n int, err error) {
	n, u.from, err = u.ReadFrom(b)
	return n, err
}

// talker is a process of the node's cgroup that keeps a connection open.
type talker struct {
	in      io.WriteCloser
	out     *bufio.Reader
	command *exec.Cmd
}

func (n *node) talk(t testing.TB, s *space, network, to string) (*talker, string) {
	t.Helper()
	command := exec.Command(os.Args[0])
	out := &talker{command: command}
	command.Env = append(os.Environ(), "FAIRLEAD_TEST_CONNECT="+to, "FAIRLEAD_TEST_CGROUP="+n.cgroup, "FAIRLEAD_TEST_NETWORK="+network)
	must(t, s.in(func() (err error) {
		if out.in, err = command.StdinPipe(); err != nil {
			return err
		}
		reader, err := command.StdoutPipe()
		if err != nil {
			return err
		}
		out.out = bufio.NewReader(reader)
		return command.Start()
	}))
	t.Cleanup(out.end)
	return out, out.line(t)
}

// end closes the connection: the process ends. It may be called again.
func (k *talker) end() {
	k.in.Close()
	_ = k.command.Wait()
}

func (k *talker) line(t testing.TB) string {
	t.Helper()
	line, err := k.out.ReadString('\n')
	if err != nil {
		t.Fatalf("the process that talks: %v after %q", err, line)
	}
	return strings.TrimSpace(line)
}

func (k *talker) ask(t testing.TB) string {
	t.Helper()
	if _, err := io.WriteString(k.in, "question\n"); err != nil {
		t.Fatal(err)
	}
	return k.line(t)
}

// inCgroup connects from a process of the node's cgroup in the namespace.
func (n *node) inCgroup(s *space, to string) (out string, err error) {
	return n.inCgroupBy("tcp4", s, to)
}

// inCgroupBy is the same by another network; "bind:ADDRESS" listens instead, "unconnected:ADDRESS,…" sends.
func (n *node) inCgroupBy(network string, s *space, to string) (out string, err error) {
	err = s.in(func() error {
		command := exec.Command(os.Args[0])
		command.Env = append(os.Environ(), "FAIRLEAD_TEST_CONNECT="+to, "FAIRLEAD_TEST_CGROUP="+n.cgroup, "FAIRLEAD_TEST_NETWORK="+network)
		raw, err := command.CombinedOutput()
		out = string(raw)
		return err
	})
	return out, err
}
