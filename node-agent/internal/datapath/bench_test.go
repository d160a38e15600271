package datapath_test

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"fairlead.dev/node-agent/internal/datapath"
)

// BenchmarkRestart is Close and Open of a node with two pods: what an agent's restart costs before it is ready.
func BenchmarkRestart(b *testing.B) {
	c := newCluster(b, datapath.RoutingTunnel)
	n := c.nodes[0]
	for b.Loop() {
		must(b, n.datapath.Close())
		n.open()
	}
}

// path is a way from a client to a server.
type path struct {
	name           string
	client, server *space
	address        string
}

func paths(b *testing.B) []path {
	client, server, address := newBridge(b)
	out := []path{{"bridge", client, server, address}}
	for _, routing := range []datapath.RoutingMode{datapath.RoutingNative, datapath.RoutingTunnel} {
		c := newCluster(b, routing)
		from, near, far := c.nodes[0].pods[0], c.nodes[0].pods[1], c.nodes[1].pods[0]
		if routing == datapath.RoutingNative {
			out = append(out, path{"hosts", c.nodes[0].space, c.nodes[1].space, "192.0.2.2"},
				path{"same-node", from.space, near.space, near.address.String()})
		}
		out = append(out, path{"other-node-" + string(routing), from.space, far.space, far.address.String()})
	}
	return out
}

// BenchmarkRoundTrip is one byte and its answer over TCP: the tenth of many short turns, the paths one after the other in
// each, since other work on the machine only ever adds to a turn, and its speed changes more over time than the paths differ.
func BenchmarkRoundTrip(b *testing.B) {
	const turn = 200
	all := paths(b)
	turns := make([][]time.Duration, len(all))
	conns := make([]net.Conn, len(all))
	for i, p := range all {
		conns[i] = connect(b, p, func(c net.Conn) { _, _ = io.Copy(c, c) })
	}
	buffer := make([]byte, 1)
	for b.Loop() {
		for i, c := range conns {
			start := time.Now()
			for range turn {
				if _, err := c.Write(buffer); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, buffer); err != nil {
					b.Fatal(err)
				}
			}
			turns[i] = append(turns[i], time.Since(start))
		}
	}
	for i, p := range all {
		slices.Sort(turns[i])
		b.ReportMetric(float64(turns[i][len(turns[i])/10].Nanoseconds())/turn/1000, "us/"+p.name)
	}
}

// BenchmarkNewConnection is a connection that is opened, asked one byte and closed, as BenchmarkRoundTrip takes turns.
func BenchmarkNewConnection(b *testing.B) {
	const turn = 50
	all := paths(b)
	turns := make([][]time.Duration, len(all))
	addresses := make([]string, len(all))
	for i, p := range all {
		var l net.Listener
		must(b, p.server.in(func() (err error) { l, err = net.Listen("tcp4", ":0"); return err }))
		b.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				buffer := make([]byte, 1)
				if _, err := io.ReadFull(c, buffer); err == nil {
					_, _ = c.Write(buffer)
				}
				_, _ = c.Read(buffer)
				_ = c.Close()
			}
		}()
		addresses[i] = netip.AddrPortFrom(netip.MustParseAddr(p.address), l.Addr().(*net.TCPAddr).AddrPort().Port()).String()
	}
	buffer := make([]byte, 1)
	for b.Loop() {
		for i, p := range all {
			must(b, p.client.in(func() error {
				start := time.Now()
				for range turn {
					c, err := net.Dial("tcp4", addresses[i])
					if err != nil {
						return err
					}
					if _, err := c.Write(buffer); err != nil {
						return err
					}
					if _, err := io.ReadFull(c, buffer); err != nil {
						return err
					}
					// Reset rather than closed, so that no port is kept for a minute.
					_ = c.(*net.TCPConn).SetLinger(0)
					_ = c.Close()
				}
				turns[i] = append(turns[i], time.Since(start))
				return nil
			}))
		}
	}
	for i, p := range all {
		slices.Sort(turns[i])
		b.ReportMetric(float64(turns[i][len(turns[i])/10].Nanoseconds())/turn/1000, "us/"+p.name)
	}
}

// BenchmarkThroughput is 64 MiB in one direction, turn by turn.
func BenchmarkThroughput(b *testing.B) {
	const turn = 64 << 20
	all := paths(b)
	spent := make([]time.Duration, len(all))
	conns := make([]net.Conn, len(all))
	for i, p := range all {
		conns[i] = connect(b, p, func(c net.Conn) {
			for {
				if n, err := io.CopyN(io.Discard, c, turn); err != nil || n != turn {
					return
				}
				if _, err := c.Write([]byte{1}); err != nil {
					return
				}
			}
		})
	}
	buffer, rounds := make([]byte, 1<<20), 0
	for b.Loop() {
		rounds++
		for i, c := range conns {
			start := time.Now()
			for range turn / len(buffer) {
				if _, err := c.Write(buffer); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				b.Fatal(err)
			}
			spent[i] += time.Since(start)
		}
	}
	for i, p := range all {
		b.ReportMetric(float64(rounds)*turn*8/spent[i].Seconds()/1e9, "Gbit/s/"+p.name)
	}
}

func connect(b *testing.B, p path, serve func(net.Conn)) net.Conn {
	b.Helper()
	var l net.Listener
	must(b, p.server.in(func() (err error) { l, err = net.Listen("tcp4", ":0"); return err }))
	b.Cleanup(func() { l.Close() })
	go func() {
		if c, err := l.Accept(); err == nil {
			defer c.Close()
			serve(c)
		}
	}()
	to := netip.AddrPortFrom(netip.MustParseAddr(p.address), l.Addr().(*net.TCPAddr).AddrPort().Port())
	c, err := p.client.dial("tcp4", to.String())
	must(b, err)
	b.Cleanup(func() { c.Close() })
	return c
}
