package datapath_test

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// fromPort asks a web server once, from a port of the caller's choice (0: any), and gives the port back. The client's side keeps
// nothing of the connection: it ends it by a reset, or waits until the other side has ended it, which keeps it for a minute.
func (s *space) fromPort(t testing.TB, port int, to string, otherEnds bool) (used int, answer string, err error) {
	t.Helper()
	var c net.Conn
	dialer := net.Dialer{Timeout: 4 * time.Second, LocalAddr: &net.TCPAddr{Port: port}, Control: reuse}
	if err := s.in(func() (err error) { c, err = dialer.Dial("tcp", to); return err }); err != nil {
		return port, "", err
	}
	defer c.Close()
	used = c.LocalAddr().(*net.TCPAddr).Port
	must(t, c.SetDeadline(time.Now().Add(4*time.Second)))
	request := "GET / HTTP/1.1\r\nHost: x\r\n"
	if otherEnds {
		request += "Connection: close\r\n"
	}
	if _, err := io.WriteString(c, request+"\r\n"); err != nil {
		return used, "", err
	}
	if otherEnds {
		all, err := io.ReadAll(c)
		return used, string(all), err
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	must(t, c.(*net.TCPConn).SetLinger(0))
	return used, string(b[:n]), err
}

// A client that uses its port again at once comes through the proxy as it would without: towards the server the proxy takes
// another port each time; towards the client it keeps nothing of a connection that the client ended, and what it keeps of one that
// it ended itself gives way.
func TestClientUsesItsPortAgain(t *testing.T) {
	c, proxies := withProxies(t, datapath.RoutingNative)
	a, local, remote := c.nodes[0].pods[0], c.nodes[0].pods[1], c.nodes[1].pods[0]
	for _, p := range []*pod{local, remote} {
		p.space.web(t, ":8000")
	}
	line := func(port uint16) datapath.PolicyEntry {
		return datapath.PolicyEntry{
			PolicyKey:   datapath.PolicyKey{Endpoint: a.endpoint.ID, Direction: datapath.Egress, Protocol: unix.IPPROTO_TCP, Port: 8000, PortPrefix: 16},
			PolicyValue: datapath.PolicyValue{Rule: 1, ProxyPort: port},
		}
	}
	for name, proxied := range map[string]bool{"without proxy": false, "through the proxy": true} {
		if proxied {
			govern(t, a, false, true, line(proxies[0].ports[datapath.Egress]))
		} else {
			govern(t, a, false, true, line(0))
		}
		for to, server := range map[string]*pod{"same node": local, "other node": remote} {
			for who, otherEnds := range map[string]bool{"the client ends it": false, "the other side ends it": true} {
				t.Run(name+", "+to+", "+who, func(t *testing.T) {
					at := netip.AddrPortFrom(server.address, 8000).String()
					port, slowest := 0, time.Duration(0)
					for i := range 5 {
						began := time.Now()
						used, answer, err := a.space.fromPort(t, port, at, otherEnds)
						slowest = max(slowest, time.Since(began))
						if err != nil || !strings.Contains(answer, "200 OK") || i > 0 && used != port {
							t.Errorf("use %d of port %d after %s: %q, %v; drops %v", i+1, used, time.Since(began), answer, err, drops(t, c.nodes[0]))
						}
						port = used
					}
					t.Logf("the slowest of 5 took %s", slowest)
				})
			}
		}
	}
}
