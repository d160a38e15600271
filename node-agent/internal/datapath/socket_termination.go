package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A socket that a socket program sent to a backend would talk to that backend for ever, also when it is gone: clients of DNS
// are known to hang that way. So such sockets are ended, in the node's namespace and in those of its pods:
// datagram sockets as soon as no service has the backend any more, streams when nobody has the backend's address any
// more (until then they go on, as Kubernetes promises).

const (
	terminationInterval = 500 * time.Millisecond
	// terminationPatience is how long an address is waited for to vanish.
	terminationPatience = 5 * time.Minute
	sockDestroy         = 21
)

type goneBackend struct {
	address  netip.AddrPort
	protocol uint8
}

// backendGone is told of each backend that no service has under that number any more.
func (k *kernel) backendGone(backend netip.AddrPort, protocol uint8) {
	if k.gone == nil {
		k.gone = map[goneBackend]time.Time{}
	}
	k.gone[goneBackend{backend, protocol}] = time.Now()
}

// terminateSockets ends sockets of backends that are gone, until ctx ends.
func (k *kernel) terminateSockets(ctx context.Context) {
	tick := time.NewTicker(terminationInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		due := k.dueTerminations()
		if len(due) == 0 {
			continue
		}
		n, err := k.terminate(due)
		switch {
		case errors.Is(err, unix.EOPNOTSUPP):
			k.options.log.Warn("this kernel cannot end sockets of backends that are gone (CONFIG_INET_DIAG_DESTROY)", "error", err)
		case err != nil:
			k.options.log.Warn("not all sockets of backends that are gone could be ended", "error", err)
		}
		if n > 0 {
			k.options.log.Info("ended sockets of backends that are gone", "sockets", n, "backends", len(due))
		}
	}
}

// dueTerminations takes those whose sockets are to be ended now.
func (k *kernel) dueTerminations() map[goneBackend]bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.gone) == 0 || k.objects == nil {
		return nil
	}
	served := map[goneBackend]bool{}
	for state := range k.services.all {
		for key, b := range state.backends {
			served[goneBackend{key, b.value.Protocol}] = true
		}
	}
	due := map[goneBackend]bool{}
	for g, since := range k.gone {
		switch {
		case served[g] || time.Since(since) > terminationPatience:
			delete(k.gone, g)
		case g.protocol == unix.IPPROTO_UDP:
			due[g] = true
			delete(k.gone, g)
		case k.vanished(g.address.Addr()):
			due[g] = true
			delete(k.gone, g)
		}
	}
	return due
}

// vanished tells whether nobody has a pod's address any more.
func (k *kernel) vanished(a netip.Addr) bool {
	var e endpointLayout
	if k.objects.maps["endpoints"].Lookup(toWire(a), &e) == nil {
		return false
	}
	var v ipcacheValueLayout
	err := k.objects.maps["ipcache"].Lookup(prefixToKey(netip.PrefixFrom(a, a.BitLen())), &v)
	return err != nil || v.Identity == identityWorld
}

// terminate ends the sockets that were sent to these backends, in all namespaces that can be seen.
func (k *kernel) terminate(due map[goneBackend]bool) (int, error) {
	total := 0
	var errs []error
	in := func(name string, enter func() error) {
		n, err := onThread(enter, func() (int, error) { return k.terminateHere(due) })
		total += n
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	in("the node", func() error { return unix.Setns(int(k.namespace.file.Fd()), unix.CLONE_NEWNET) })
	if k.config.NetnsDirectory == "" {
		return total, errors.Join(errs...)
	}
	entries, err := os.ReadDir(k.config.NetnsDirectory)
	if err != nil {
		return total, errors.Join(append(errs, fmt.Errorf("listing pods' namespaces: %w", err))...)
	}
	for _, e := range entries {
		path := filepath.Join(k.config.NetnsDirectory, e.Name())
		in(path, func() error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		})
	}
	return total, errors.Join(errs...)
}

// onThread runs work on a thread of its own after enter, and throws the thread away. A namespace that is gone is no error.
func onThread(enter func() error, work func() (int, error)) (n int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread keeps the namespace, so it must end with the goroutine.
		runtime.LockOSThread()
		if err = enter(); err != nil {
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EINVAL) {
				err = nil
			}
			return
		}
		n, err = work()
	}()
	<-done
	return n, err
}

// diagSocket is the kernel's inet_diag_sockid with what we look at of it.
type diagSocket struct {
	family uint8
	id     [48]byte
}

func (s diagSocket) remote() netip.AddrPort {
	port := binary.BigEndian.Uint16(s.id[2:])
	if s.family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s.id[20:24])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(s.id[20:36])).Unmap(), port)
}

func (s diagSocket) cookie() uint64 {
	return uint64(binary.NativeEndian.Uint32(s.id[40:])) | uint64(binary.NativeEndian.Uint32(s.id[44:]))<<32
}

func diagRequest(family, protocol uint8, id [48]byte) []byte {
	out := make([]byte, 56)
	out[0], out[1] = family, protocol
	binary.NativeEndian.PutUint32(out[4:], 0xffffffff) // all states
	copy(out[8:], id[:])
	return out
}

type rawData []byte

func (r rawData) Len() int          { return len(r) }
func (r rawData) Serialize() []byte { return r }

// terminateHere works in the namespace of the calling thread.
func (k *kernel) terminateHere(due map[goneBackend]bool) (int, error) {
	ended := 0
	for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		wanted := false
		for g := range due {
			wanted = wanted || g.protocol == protocol
		}
		if !wanted {
			continue
		}
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			list := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
			list.AddData(rawData(diagRequest(family, protocol, [48]byte{})))
			answers, err := list.Execute(unix.NETLINK_INET_DIAG, 0)
			if err != nil {
				return ended, fmt.Errorf("listing sockets: %w", err)
			}
			for _, raw := range answers {
				if len(raw) < 52 {
					continue
				}
				s := diagSocket{family: raw[0], id: [48]byte(raw[4:52])}
				if !due[goneBackend{s.remote(), protocol}] || !k.translated(s) {
					continue
				}
				destroy := nl.NewNetlinkRequest(sockDestroy, unix.NLM_F_ACK)
				destroy.AddData(rawData(diagRequest(s.family, protocol, s.id)))
				if _, err := destroy.Execute(unix.NETLINK_INET_DIAG, 0); err != nil && !errors.Is(err, unix.ENOENT) {
					return ended, fmt.Errorf("ending a socket to %s: %w", s.remote(), err)
				}
				ended++
			}
		}
	}
	return ended, nil
}

// translated tells whether a socket program sent the socket where it is.
func (k *kernel) translated(s diagSocket) bool {
	remote := s.remote()
	key := socketKeyLayout{Cookie: s.cookie(), Address: toWire(remote.Addr()), Port: toPort(remote.Port())}
	var value socketValueLayout
	return k.objects.maps["sockets"].Lookup(key, &value) == nil
}
