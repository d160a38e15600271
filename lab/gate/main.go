// gate lets the host reach the lab without an interface in the host's network
// namespace. It opens listeners on 127.0.0.1 here, then starts itself again
// inside the router's namespaces with those sockets inherited: a connection is
// accepted on the host's loopback and dialled from the router's network.
//
//	gate -pid PID -state FILE NAME=[PORT]@HOST:PORT ...
//
// PORT is the loopback port to take; without it a free one is picked. The
// ports taken are written to FILE as JSON, name to port. The process stays in
// the foreground; it ends when the router's machine ends, because it lives in
// that machine's pid namespace.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// forward is one way in: a loopback port and the address behind it.
type forward struct {
	Name   string
	Port   int
	Target string
}

// parse reads NAME=[PORT]@HOST:PORT.
func parse(s string) (forward, error) {
	name, rest, ok := strings.Cut(s, "=")
	port, target, ok2 := strings.Cut(rest, "@")
	if !ok || !ok2 || name == "" {
		return forward{}, fmt.Errorf("reading %q: want NAME=[PORT]@HOST:PORT", s)
	}
	if _, _, err := net.SplitHostPort(target); err != nil {
		return forward{}, fmt.Errorf("reading %q: %w", s, err)
	}
	f := forward{Name: name, Target: target}
	if port != "" {
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65535 {
			return forward{}, fmt.Errorf("reading %q: port %q is not 1 to 65535", s, port)
		}
		f.Port = n
	}
	return f, nil
}

// open listens on 127.0.0.1 for every forward. A wanted port that is taken is
// an error: the kubeconfig and ssh_config already written name it.
func open(fs []forward) ([]*os.File, map[string]int, error) {
	ports := map[string]int{}
	var files []*os.File
	for _, f := range fs {
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(f.Port)))
		if err != nil {
			return nil, nil, fmt.Errorf("listening for %s: %w", f.Name, err)
		}
		ports[f.Name] = l.Addr().(*net.TCPAddr).Port
		file, err := l.(*net.TCPListener).File()
		if err != nil {
			return nil, nil, fmt.Errorf("taking the socket of %s: %w", f.Name, err)
		}
		files = append(files, file)
		l.Close()
	}
	return files, ports, nil
}

// writeState writes the ports beside the file and renames it into place, so
// that a reader never sees half of it.
func writeState(path string, ports map[string]int) error {
	b, err := json.MarshalIndent(ports, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding ports: %w", err)
	}
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing ports: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("writing ports: %w", err)
	}
	return nil
}

// enter starts this program inside the machine whose first process is pid and
// replaces the present process by it. nsenter passes open files on.
func enter(pid int, files []*os.File, fs []forward) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	args := []string{"nsenter", "-t", strconv.Itoa(pid), "-n", "-p", "--", self, "-serve"}
	for i, f := range files {
		// Fd() makes the socket blocking; net.FileListener undoes that. The
		// number is kept and close-on-exec is taken off.
		if _, _, e := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_SETFD, 0); e != 0 {
			return fmt.Errorf("keeping the socket of %s open: %w", fs[i].Name, e)
		}
		args = append(args, fmt.Sprintf("%d=%s", f.Fd(), fs[i].Target))
	}
	bin, err := exec.LookPath("nsenter")
	if err != nil {
		return fmt.Errorf("finding nsenter: %w", err)
	}
	return fmt.Errorf("starting nsenter: %w", syscall.Exec(bin, args, os.Environ()))
}

// serve accepts on inherited sockets, "FD=HOST:PORT" each.
func serve(args []string) error {
	// nsenter stands between the starter and this process; without this, one
	// that is killed would leave this one with the ports. The signal belongs to
	// the thread that asked for it, which must therefore stay.
	runtime.LockOSThread()
	if _, _, e := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0); e != 0 {
		return fmt.Errorf("asking to end with the parent: %w", e)
	}
	var wg sync.WaitGroup
	for _, a := range args {
		fd, target, _ := strings.Cut(a, "=")
		n, err := strconv.Atoi(fd)
		if err != nil {
			return fmt.Errorf("reading %q: %w", a, err)
		}
		file := os.NewFile(uintptr(n), target)
		l, err := net.FileListener(file)
		if err != nil {
			return fmt.Errorf("using socket %d: %w", n, err)
		}
		file.Close()
		wg.Go(func() { accept(l, target) })
	}
	wg.Wait()
	return nil
}

func accept(l net.Listener, target string) {
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Fprintf(os.Stderr, "gate: accepting for %s: %v\n", target, err)
			time.Sleep(50 * time.Millisecond) // out of file descriptors: let some close
			continue
		}
		go relay(c.(*net.TCPConn), target)
	}
}

// relay joins two connections and passes each side's end of stream on by
// itself, as exec and port-forward need half-open connections.
func relay(in *net.TCPConn, target string) {
	defer in.Close()
	c, err := net.DialTimeout("tcp4", target, 5*time.Second)
	if err != nil {
		fmt.Fprintf(os.Stderr, "gate: dialling %s: %v\n", target, err)
		return
	}
	out := c.(*net.TCPConn)
	defer out.Close()
	done := make(chan struct{}, 2)
	pump := func(to, from *net.TCPConn) {
		// An error means that either side is gone, which closing both tells.
		if _, err := io.Copy(to, from); err != nil {
			to.Close()
			from.Close()
		} else {
			to.CloseWrite()
		}
		done <- struct{}{}
	}
	go pump(out, in)
	go pump(in, out)
	<-done
	<-done
}

func run() error {
	pid := flag.Int("pid", 0, "first process of the router, as seen here")
	state := flag.String("state", "", "file to write the ports to")
	inside := flag.Bool("serve", false, "internal: serve inherited sockets, FD=HOST:PORT each")
	flag.Parse()
	if *inside {
		return serve(flag.Args())
	}
	if *pid <= 0 || *state == "" || flag.NArg() == 0 {
		return fmt.Errorf("usage: gate -pid PID -state FILE NAME=[PORT]@HOST:PORT ...")
	}
	var fs []forward
	for _, a := range flag.Args() {
		f, err := parse(a)
		if err != nil {
			return err
		}
		fs = append(fs, f)
	}
	files, ports, err := open(fs)
	if err != nil {
		return err
	}
	if err := writeState(*state, ports); err != nil {
		return err
	}
	return enter(*pid, files, fs)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gate:", err)
		os.Exit(1)
	}
}
