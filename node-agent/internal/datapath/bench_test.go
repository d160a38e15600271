package datapath_test

import (
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
)

// BenchmarkRestart is Close and Open of a node with two pods: what an agent's restart costs before it is ready.
func BenchmarkRestart(b *testing.B) {
	c := newCluster(b, datapath.RoutingTunnel, nil)
	n := c.nodes[0]
	for b.Loop() {
		must(b, n.datapath.Close())
		n.open()
	}
}

// BenchmarkRoundTrip is one line and its answer over TCP between two pods.
func BenchmarkRoundTrip(b *testing.B) {
	for _, routing := range []datapath.RoutingMode{datapath.RoutingTunnel, datapath.RoutingNative} {
		c := newCluster(b, routing, nil)
		for name, server := range map[string]*pod{"same-node": c.nodes[0].pods[1], "other-node": c.nodes[1].pods[0]} {
			at := server.space.echoTCP(b, ":0")
			b.Run(string(routing)+"/"+name, func(b *testing.B) {
				conn, err := c.nodes[0].pods[0].space.dial("tcp4", server.address.String()+at.String()[len("0.0.0.0"):])
				must(b, err)
				defer conn.Close()
				for b.Loop() {
					if _, err := ask(conn, "x"); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
