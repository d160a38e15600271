// Package probe is both sides of the connectivity test: a small server, and clients that make one attempt and say
// exactly how it went. Both come in the agent's own image, so the test needs no other.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Result of one attempt.
type Result struct {
	OK bool `json:"ok"`
	// Kind is how it failed: refused, timeout, unreachable, name, status, size or other.
	Kind  string `json:"kind,omitempty"`
	Error string `json:"error,omitempty"`
	// Peer is what the server saw as the source, and who it is.
	Peer         Answer   `json:"peer"`
	Status       int      `json:"status,omitempty"`
	Addresses    []string `json:"addresses,omitempty"`
	Milliseconds float64  `json:"milliseconds"`
	Local        string   `json:"local,omitempty"`
	Bytes        int64    `json:"bytes,omitempty"`
	// Body is the beginning of an answer that our own server did not give.
	Body string `json:"body,omitempty"`
}

func kindOf(err error) string {
	var name *net.DNSError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &name):
		return "name"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return "unreachable"
	case errors.Is(err, syscall.EMSGSIZE):
		return "size"
	case errors.Is(err, context.DeadlineExceeded), os.IsTimeout(err):
		return "timeout"
	default:
		return "other"
	}
}

func finish(began time.Time, r Result, err error) Result {
	r.Milliseconds = float64(time.Since(began).Microseconds()) / 1000
	if err != nil {
		r.OK, r.Kind, r.Error = false, kindOf(err), err.Error()
	}
	return r
}

// HTTP makes one request on a connection of its own; upload bytes are sent as a body.
func HTTP(ctx context.Context, method, url string, upload int64) Result {
	began := time.Now()
	var r Result
	dialer := &net.Dialer{}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		connection, err := dialer.DialContext(ctx, network, address)
		if err == nil {
			r.Local = connection.LocalAddr().String()
		}
		return connection, err
	}}
	var body io.Reader
	if upload > 0 {
		body = io.LimitReader(zeros{}, upload)
	}
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return finish(began, r, err)
	}
	request.ContentLength = upload
	response, err := transport.RoundTrip(request)
	if err != nil {
		return finish(began, r, err)
	}
	defer response.Body.Close()
	r.Status = response.StatusCode
	r.Peer, r.Body, r.Bytes, err = readAnswer(response.Body)
	r.OK = err == nil && response.StatusCode < 400
	if response.StatusCode >= 400 {
		r.Kind, r.Error = "status", response.Status
	}
	return finish(began, r, err)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// UDP sends one datagram of a size and waits for the answer.
func UDP(ctx context.Context, address string, size int) Result {
	began := time.Now()
	var r Result
	connection, err := (&net.Dialer{}).DialContext(ctx, "udp", address)
	if err != nil {
		return finish(began, r, err)
	}
	defer connection.Close()
	r.Local = connection.LocalAddr().String()
	if deadline, ok := ctx.Deadline(); ok {
		if err := connection.SetDeadline(deadline); err != nil {
			return finish(began, r, err)
		}
	}
	if _, err := connection.Write(make([]byte, max(size, 1))); err != nil {
		return finish(began, r, err)
	}
	buffer := make([]byte, 64<<10)
	n, err := connection.Read(buffer)
	if err != nil {
		return finish(began, r, err)
	}
	r.Peer, r.Body, r.Bytes, err = readAnswer(strings.NewReader(string(buffer[:n])))
	r.OK = err == nil
	return finish(began, r, err)
}

// Name resolves a name by the pod's own resolver configuration.
func Name(ctx context.Context, name string) Result {
	began := time.Now()
	addresses, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, name)
	return finish(began, Result{OK: err == nil && len(addresses) > 0, Addresses: addresses}, err)
}

// Ping sends one echo request of a size that must not be broken into fragments, and waits for its answer.
func Ping(ctx context.Context, to string, size int) Result {
	began := time.Now()
	var r Result
	address, err := netip.ParseAddr(to)
	if err != nil {
		return finish(began, r, err)
	}
	network, listen, protocol := "ip4:icmp", "0.0.0.0", 1
	var kind icmp.Type = ipv4.ICMPTypeEcho
	if address.Is6() {
		network, listen, protocol, kind = "ip6:ipv6-icmp", "::", 58, ipv6.ICMPTypeEchoRequest
	}
	connection, err := icmp.ListenPacket(network, listen)
	if err != nil {
		return finish(began, r, fmt.Errorf("opening a socket for ICMP: %w", err))
	}
	defer connection.Close()
	if err := dontFragment(connection, address.Is6()); err != nil {
		return finish(began, r, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := connection.SetDeadline(deadline); err != nil {
			return finish(began, r, err)
		}
	}
	identifier := os.Getpid() & 0xffff
	message := icmp.Message{Type: kind, Body: &icmp.Echo{ID: identifier, Seq: 1, Data: make([]byte, size)}}
	packet, err := message.Marshal(nil)
	if err != nil {
		return finish(began, r, err)
	}
	if _, err := connection.WriteTo(packet, &net.IPAddr{IP: address.AsSlice()}); err != nil {
		return finish(began, r, err)
	}
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := connection.ReadFrom(buffer)
		if err != nil {
			return finish(began, r, err)
		}
		answer, err := icmp.ParseMessage(protocol, buffer[:n])
		if err != nil {
			continue
		}
		echo, ok := answer.Body.(*icmp.Echo)
		reply := answer.Type == ipv4.ICMPTypeEchoReply || answer.Type == ipv6.ICMPTypeEchoReply
		if ok && reply && echo.ID == identifier {
			r.OK, r.Bytes, r.Peer.Client = true, int64(len(echo.Data)), from.String()
			return finish(began, r, nil)
		}
	}
}

func dontFragment(connection *icmp.PacketConn, v6 bool) error {
	var inner net.PacketConn
	if v6 {
		inner = connection.IPv6PacketConn().PacketConn
	} else {
		inner = connection.IPv4PacketConn().PacketConn
	}
	raw, ok := inner.(syscall.Conn)
	if !ok {
		return fmt.Errorf("%T has no descriptor", inner)
	}
	control, err := raw.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = control.Control(func(descriptor uintptr) {
		if v6 {
			failed = unix.SetsockoptInt(int(descriptor), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
		} else {
			failed = unix.SetsockoptInt(int(descriptor), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		}
	})
	return errors.Join(err, failed)
}
