package datapath_test

import (
	"io"
	"net"
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
	"github.com/cilium/ebpf"
)

type cost struct{ nanoseconds, runs uint64 }

// costs of all loaded programs, by number; the kernel counts them while statistics are on.
func costs() map[ebpf.ProgramID]cost {
	out := map[ebpf.ProgramID]cost{}
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if err != nil {
			return out
		}
		id = next
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue
		}
		if s, err := p.Stats(); err == nil {
			out[id] = cost{uint64(s.Runtime), s.RunCount}
		}
		p.Close()
	}
}

// BenchmarkPacket is what each program takes for one packet of an open connection, of real ones between pods, by the
// kernel's own count, which adds some 20 ns to each. With proxies there is a rule in the routing table (see
// startProxyRoutes).
func BenchmarkPacket(b *testing.B) {
	const turn = 5000
	for _, test := range []struct {
		name    string
		routing datapath.RoutingMode
		near    bool
		proxies bool
	}{
		{"same-node", datapath.RoutingNative, true, false},
		{"native", datapath.RoutingNative, false, false},
		{"native-with-proxies", datapath.RoutingNative, false, true},
		{"tunnel", datapath.RoutingTunnel, false, false},
	} {
		b.Run(test.name, func(b *testing.B) {
			statistics, err := ebpf.EnableStats(0)
			must(b, err)
			defer statistics.Close()
			c := newClusterWith(b, test.routing, func(config *datapath.Config) { config.L7Proxy, config.BPFMasquerade = true, true })
			from, to := c.nodes[0].pods[0], c.nodes[1].pods[0]
			if test.near {
				to = c.nodes[0].pods[1]
			}
			if test.proxies {
				for _, n := range c.nodes {
					must(b, n.datapath.ApplyPolicy(ctx, []datapath.PolicyEntry{proxyLine(n.pods[1], 9999, datapath.Ingress, 1, 1)}, nil))
				}
			}
			conn := connect(b, path{test.name, from.space, to.space, to.address.String()}, func(c net.Conn) { _, _ = io.Copy(c, c) })
			buffer := make([]byte, 1)
			least := map[string]float64{}
			for b.Loop() {
				before := costs()
				for range turn {
					if _, err := conn.Write(buffer); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(conn, buffer); err != nil {
						b.Fatal(err)
					}
				}
				for id, after := range costs() {
					runs := after.runs - before[id].runs
					if runs < turn/2 {
						continue
					}
					p, err := ebpf.NewProgramFromID(id)
					must(b, err)
					info, err := p.Info()
					must(b, err)
					p.Close()
					each := float64(after.nanoseconds-before[id].nanoseconds) / float64(runs)
					if now, seen := least[info.Name]; !seen || each < now {
						least[info.Name] = each
					}
				}
			}
			for name, each := range least {
				b.ReportMetric(each, "ns/"+name)
			}
		})
	}
}
